import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from rcodsr.data.dataset import PhotoPairs, RawBatch, batches
from rcodsr.data.degradation import Degradation
from rcodsr.data.loading import CorruptPhotos, load, naming_killed_workers
from rcodsr.data.pairs import find_pairs
from rcodsr.data.photos import find_photos
from rcodsr.errors import InputError, WorkerError
from tests.data.conftest import cut_short

MIX = {"full": 0.4, "light": 0.3, "camera": 0.3}


def ignore(_: str) -> None:
    pass


def loaded(pairs: PhotoPairs, workers: int, size: int = 4, log: Callable[[str], None] = ignore) -> Iterator[RawBatch]:
    return load(pairs, list(batches(pairs, size, 0, len(pairs) // size)), workers, CorruptPhotos(log))


@pytest.fixture
def many(tmp_path: Path) -> list[Path]:
    """Twelve small photos."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(skimage.data.astronaut()[20 * i : 20 * i + 80, 100:196]).save(folder / f"{i:02}.png")
    return find_photos(folder)


# ------------------------------------------------------------------------------------------------------------- identity


def assert_same(one: list[RawBatch], other: list[RawBatch]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert list(map(str, a.corrupt)) == list(map(str, b.corrupt))
        one_pair, other_pair = a.to_batch(), b.to_batch()
        assert torch.equal(one_pair.hr, other_pair.hr)
        assert torch.equal(one_pair.lr, other_pair.lr)


def test_whoever_watches_hears_of_each_pair(many: list[Path]) -> None:
    heard: list[tuple[int, int]] = []
    pairs = PhotoPairs(many, 64, MIX, 3, 4)
    assert len(list(load(pairs, [[0, 1], [2, 3]], 0, CorruptPhotos(ignore), lambda *told: heard.append(told)))) == 2
    assert heard == [(done, 4) for done in range(4)]


@pytest.mark.parametrize("degrade", [True, False])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_a_batch(many: list[Path], workers: int, degrade: bool) -> None:
    cut_short(many[3])
    alone, shared = (list(loaded(PhotoPairs(many, 64, MIX, 3, 24, degrade=degrade), count)) for count in (0, workers))
    assert all(isinstance(batch.lr, Tensor if degrade else tuple) for batch in shared)
    assert_same(alone, shared)
    assert sum(len(batch.corrupt) for batch in alone) > 0


def test_batches_of_other_sizes_hold_the_same_pairs(many: list[Path]) -> None:
    fours, twos = (list(loaded(PhotoPairs(many, 64, MIX, 3, 12, degrade=False), 0, size)) for size in (4, 2))
    for part in ("hr", "lr"):
        one, other = (torch.cat([getattr(raw.to_batch(), part) for raw in found]) for found in (fours, twos))
        assert torch.equal(one, other)


def test_a_worker_degrades_or_says_how(many: list[Path]) -> None:
    (batch,) = loaded(PhotoPairs(many, 64, MIX, 3, 2, degrade=False), 1, 2)
    assert batch.hr.dtype == torch.uint8
    assert all(isinstance(plan, Degradation) for plan in batch.lr)


def test_pairs_of_files_come_through_workers(tmp_path: Path) -> None:
    for folder, side in (("hr", 128), ("lr", 32)):
        (tmp_path / folder).mkdir()
        Image.fromarray(skimage.data.astronaut()[:128, :128]).resize((side, side)).save(tmp_path / folder / "a.png")
    lr = find_pairs(tmp_path / "hr", tmp_path / "lr")
    alone, shared = (list(loaded(PhotoPairs(list(lr), 64, MIX, 0, 8, lr=lr), workers)) for workers in (0, 2))
    assert_same(alone, shared)


# --------------------------------------------------------------------------------------------------------------- corrupt


def fake(samples: int, *corrupt: str) -> RawBatch:
    pixels = torch.zeros(samples, 3, 4, 4, dtype=torch.uint8)
    errors = tuple(InputError(name, "cut short or damaged") for name in corrupt)
    return RawBatch(hr=pixels, lr=pixels[..., :1, :1], corrupt=errors)


def test_each_corrupt_photo_is_named_once() -> None:
    lines: list[str] = []
    corrupt = CorruptPhotos(lines.append)
    for names in (["a.png"], [], ["b.png", "a.png"], ["a.png"]):
        corrupt.count(fake(1000, *names))
    assert lines == [f"{name}: cut short or damaged; replaced by another photo" for name in ("a.png", "b.png")]
    assert (corrupt.samples, corrupt.corrupt, corrupt.files) == (4000, 4, ["a.png", "b.png"])


def test_the_run_ends_above_one_percent() -> None:
    corrupt = CorruptPhotos(ignore)
    corrupt.count(fake(300, "a.png", "b.png", "c.png"))  # exactly 1 %
    corrupt.count(fake(99))
    corrupt.count(fake(1, "c.png"))  # 4 of 400
    with pytest.raises(InputError, match=r"^a\.png: the first of 3 unreadable photos, drawn 5 times in 401 samples; "):
        corrupt.count(fake(1, "a.png"))


def test_two_corrupt_files_never_end_a_run() -> None:
    corrupt = CorruptPhotos(ignore)
    for _ in range(50):
        corrupt.count(fake(1, "a.png", "b.png"))
    with pytest.raises(InputError, match="of 3 unreadable photos"):
        corrupt.count(fake(1, "c.png"))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_too_many_corrupt_photos_end_the_run_at_the_same_batch(many: list[Path], workers: int) -> None:
    for path in many[::3]:
        cut_short(path)
    lines: list[str] = []
    pairs = PhotoPairs(many, 64, MIX, 1, 40)
    sound = 0
    with pytest.raises(
        InputError, match=r"\.png: the first of 3 unreadable photos, drawn \d+ times in \d+ samples; check the disk"
    ):
        for _ in loaded(pairs, workers, log=lines.append):
            sound += 1
    assert len(lines) == 3
    expected = 0
    files: set[str] = set()
    for start in range(0, 40, 4):
        files |= {error.subject for index in range(start, start + 4) for error in pairs[index].corrupt}
        if len(files) >= 3:
            break
        expected += 1
    assert sound == expected


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_is_one_line(many: list[Path], workers: int) -> None:
    for path in many:
        cut_short(path)
    with pytest.raises(InputError) as caught:
        next(loaded(PhotoPairs(many, 64, MIX, 1, 8), workers))
    assert "like the 19 photos drawn before it; get a whole copy of the file" in str(caught.value)
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------------- killed workers


class SlowPairs(PhotoPairs):
    """Reports its process; the second batch takes longer than any test."""

    def __getitem__(self, index: int):  # type: ignore[no-untyped-def]
        if index >= 4:
            time.sleep(600)
        (self.photos[0].parent / "pid").write_text(str(os.getpid()))
        return super().__getitem__(index)


def slow(photos: list[Path]) -> tuple[Iterator[RawBatch], int]:
    """A loader after its first batch, and its worker."""
    found = loaded(SlowPairs(photos, 64, MIX, 0, 64), 1)
    next(found)
    pid = int((photos[0].parent / "pid").read_text())
    assert pid != os.getpid()
    return found, pid


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_a_worker_killed_while_the_trainer_waits(many: list[Path], name: str) -> None:
    found, pid = slow(many)
    killer = threading.Timer(0.3, os.kill, (pid, signal.Signals[name]))
    with pytest.raises(WorkerError) as caught:
        killer.start()
        next(found)
    killer.join()
    assert str(caught.value).startswith(f"data worker {pid}: ")
    assert str(caught.value).endswith("use fewer workers or free some memory; a saved run resumes from its last state")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_worker_killed_while_the_trainer_computes(many: list[Path]) -> None:
    found, pid = slow(many)
    with pytest.raises(WorkerError, match=f"data worker {pid}: killed by signal: Killed, probably out of memory;"):
        _compute_until_killed(pid)
    found.close()  # type: ignore[attr-defined]
    gc.collect()


@naming_killed_workers()
def _compute_until_killed(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    for _ in range(6000):
        torch.rand(64, 64) @ torch.rand(64, 64)
        time.sleep(0.01)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match=r"^CUDA error$"), naming_killed_workers():
        raise RuntimeError("CUDA error")
