import pickle
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from rcodsr.data.dataset import PhotoPairs, RawBatch, batches, collate
from rcodsr.data.degradation import Degradation, degrade
from rcodsr.data.pairs import find_pairs
from rcodsr.data.photos import find_photos
from rcodsr.data.presets import PRESETS
from rcodsr.errors import InputError
from tests.data.conftest import cut_short

MIX = {"full": 0.4, "light": 0.3, "camera": 0.3}


def pair(pairs: PhotoPairs, index: int) -> tuple[Tensor, Tensor]:
    batch = collate([pairs[index]]).to_batch()
    return batch.hr[0], batch.lr[0]


def pairs_of(photos: list[Path], seed: int = 3, length: int = 6) -> PhotoPairs:
    return PhotoPairs(photos, 64, MIX, seed, length)


def test_a_pair_depends_on_seed_and_index_alone(photos: list[Path]) -> None:
    forwards, backwards = pairs_of(photos), pairs_of(photos, length=100)
    first = [pair(forwards, index) for index in range(6)]
    second = [pair(backwards, index) for index in reversed(range(6))][::-1]
    for (hr, lr), (other_hr, other_lr) in zip(first, second, strict=True):
        assert torch.equal(hr, other_hr)
        assert torch.equal(lr, other_lr)
    for a in range(6):
        for b in range(a):
            assert not torch.equal(first[a][1], first[b][1])
    assert not torch.equal(pair(pairs_of(photos, seed=4), 0)[1], first[0][1])


def test_the_low_resolution_side_is_the_degraded_crop(photos: list[Path]) -> None:
    pairs = PhotoPairs(photos, 64, {"camera": 2.0}, 5, 4)
    for index in range(4):
        hr, lr = pair(pairs, index)
        assert torch.equal(lr, degrade(hr, PRESETS["camera"], (5, index, 1)))


@pytest.mark.parametrize("transpose", [True, False])
def test_without_zoom_a_crop_is_cut_from_the_photo_up_to_flips(tmp_path: Path, transpose: bool) -> None:
    # every pixel encodes its position
    rows, columns = np.mgrid[:100, :120].astype(np.uint8)
    Image.fromarray(np.stack([rows, columns, np.zeros_like(rows)], -1)).save(tmp_path / "map.png")
    pairs = PhotoPairs(find_photos(tmp_path), 64, {"camera": 1}, 0, 40, zoom_probability=0, transpose=transpose)
    turned = set()
    for index in range(40):
        row, column, _ = (pair(pairs, index)[0] * 255).round().int()
        transposed = bool(row[0, 0] == row[1, 0])
        if transposed:
            row, column = row.T, column.T
        assert (row.diff(dim=0) == 1).all()
        step = int(column[0, 1] - column[0, 0])
        assert abs(step) == 1
        assert (column.diff(dim=1) == step).all()
        turned.add((transposed, step))
    assert turned == {(t, step) for t in (False, transpose) for step in (1, -1)}


def test_zoom_shrinks_the_photo_but_never_below_the_crop(photos: list[Path]) -> None:
    plain = PhotoPairs(photos, 160, {"camera": 1}, 0, 12, zoom_probability=0)
    zoomed = PhotoPairs(photos, 160, {"camera": 1}, 0, 12, zoom_probability=1)
    assert all(zoomed[index].hr.shape == (3, 160, 160) for index in range(12))
    assert not torch.equal(plain[0].hr, zoomed[0].hr)


def test_zoom_above_one_makes_the_ground_truth_soft(photos: list[Path]) -> None:
    sharp, soft = (PhotoPairs(photos, 64, {"camera": 1}, 0, 12, zoom_probability=1, zoom=(z, z)) for z in (1.0, 2.0))

    def roughness(pairs: PhotoPairs) -> float:
        return sum(
            (2 * hr[:, 1:-1] - hr[:, 2:] - hr[:, :-2]).abs().mean().item() for hr in (pairs[i].hr.float() for i in range(12))
        )

    assert roughness(soft) < 0.5 * roughness(sharp)


def test_the_mix_decides_the_presets(photos: list[Path]) -> None:
    mixed = PhotoPairs(photos, 64, {"camera": 1, "full": 3}, 0, 40)
    cameras = sum(
        torch.equal(lr, degrade(hr, PRESETS["camera"], (0, i, 1)))
        for i, (hr, lr) in enumerate(pair(mixed, i) for i in range(40))
    )
    assert 4 <= cameras <= 17  # a quarter of 40


def test_errors_survive_the_way_from_a_data_worker() -> None:
    error = pickle.loads(pickle.dumps(InputError("a.png", "cut short", "get a whole copy")))
    assert (type(error), str(error)) == (InputError, "a.png: cut short; get a whole copy")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.fromarray(skimage.data.astronaut()[:80, :80]).convert(mode).save(tmp_path / "a.png")
    hr, lr = pair(pairs_of(find_photos(tmp_path)), 0)
    assert hr.shape == (3, 64, 64)
    assert lr.shape == (3, 16, 16)


def test_batches_go_on_where_a_run_stopped_and_wrap_around(photos: list[Path]) -> None:
    pairs = pairs_of(photos, length=10)
    assert list(batches(pairs, 4, 0, 3)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
    assert list(batches(pairs, 4, 1, 2)) == list(batches(pairs, 4, 0, 3))[1:]


def test_samples_travel_as_bytes_and_arrive_as_numbers(photos: list[Path]) -> None:
    sample = pairs_of(photos)[0]
    assert isinstance(sample.lr, Tensor)
    assert sample.hr.dtype == sample.lr.dtype == torch.uint8
    batch = collate([sample, sample]).to_batch(samples=(4, 5))
    assert batch.samples == (4, 5)
    hr, lr = batch.hr, batch.lr
    assert (hr.shape, lr.shape) == ((2, 3, 64, 64), (2, 3, 16, 16))
    assert hr.dtype == lr.dtype == torch.float32
    assert torch.equal(hr[1] * 255, sample.hr.float())


def test_degrading_later_gives_the_same_pairs(photos: list[Path]) -> None:
    now, later = (PhotoPairs(photos, 64, MIX, 3, 12, degrade=here) for here in (True, False))
    samples = [later[index] for index in range(12)]
    assert all(isinstance(sample.lr, Degradation) for sample in samples)
    made, planned = collate([now[i] for i in range(12)]).to_batch(), collate(samples).to_batch()
    assert torch.equal(made.hr, planned.hr)
    assert torch.equal(made.lr, planned.lr)


# ------------------------------------------------------------------------------------------------------- corrupt photos


def corrupted(photos: list[Path]) -> Path:
    """Truncate the first photo after its header."""
    cut_short(photos[0])
    return photos[0]


def test_another_photo_takes_the_place_of_a_corrupt_one(photos: list[Path]) -> None:
    pairs = pairs_of(photos, length=20)
    whole = [pairs[index] for index in range(20)]
    bad = corrupted(photos)
    pairs = pairs_of(photos, length=20)
    broken = [pairs[index] for index in range(20)]
    changed = [index for index in range(20) if broken[index].corrupt]
    assert 0 < len(changed) < 20
    for index in range(20):
        # samples of intact photos are unchanged, the others are intact samples of another photo
        assert torch.equal(whole[index].hr, broken[index].hr) == (index not in changed)
        assert {error.subject for error in broken[index].corrupt} <= {str(bad)}
    assert all("cut short or damaged" in str(broken[index].corrupt[0]) for index in changed)
    assert sum(len(sample.corrupt) for sample in broken) == len(collate(broken).corrupt)


def test_when_no_photo_is_left_the_sample_is_an_error(photos: list[Path]) -> None:
    bad = corrupted(photos)
    with pytest.raises(InputError, match=r"cut short or damaged .*, like the 19 photos drawn before it"):
        pairs_of([bad])[0]


def test_a_photo_that_shrank_after_its_check_counts_as_corrupt(photos: list[Path]) -> None:
    Image.new("RGB", (80, 63)).save(photos[0])
    errors = [str(error) for index in range(10) for error in pairs_of(photos)[index].corrupt]
    assert errors
    assert all("astronaut.png: smaller than the 64-pixel crop" in error for error in errors)


# ---------------------------------------------------------------------------------------------------- pairs from files


@pytest.fixture
def pair_folders(tmp_path: Path) -> tuple[Path, Path]:
    """HR of 160×128 whose pixels encode their position, LR whose pixels encode the position of their 4×4 block."""
    rows, columns = np.mgrid[:128, :160].astype(np.uint8)
    hr = np.stack([rows, columns, np.zeros_like(rows)], -1)
    for folder, pixels in (("hr", hr), ("lr", hr[::4, ::4])):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / "map.png")
    return tmp_path / "hr", tmp_path / "lr"


def test_pairs_are_cut_on_the_grid_of_the_low_resolution(pair_folders: tuple[Path, Path]) -> None:
    lr = find_pairs(*pair_folders)
    pairs = PhotoPairs(list(lr), 64, MIX, 0, 40, zoom_probability=1, lr=lr)
    corners, flips = set(), set()
    for index in range(40):
        sample = pairs[index]
        assert isinstance(sample.lr, Tensor)
        assert (sample.hr.shape, sample.lr.shape) == ((3, 64, 64), (3, 16, 16))
        rows, columns = sample.hr[0], sample.hr[1]
        corners.add((int(rows.min()), int(columns.min())))
        flips.add((bool(rows[0, 0] == rows[1, 0]), bool(rows[0, 0] > rows[-1, -1] or columns[0, 0] > columns[-1, -1])))
        # a low-resolution pixel encodes the smallest row and column of its block
        assert torch.equal(-torch.nn.functional.max_pool2d(-sample.hr.float(), 4), sample.lr.float())
    assert all(top % 4 == left % 4 == 0 for top, left in corners)
    assert len(corners) > 20
    assert len(flips) == 4


def test_a_pair_is_as_good_as_its_worse_half(pair_folders: tuple[Path, Path]) -> None:
    lr = find_pairs(*pair_folders)
    cut_short(pair_folders[1] / "map.png")
    with pytest.raises(InputError, match=r"cut short or damaged"):
        PhotoPairs(list(lr), 64, MIX, 0, 1, lr=lr)[0]
    Image.new("RGB", (40, 31)).save(pair_folders[1] / "map.png")
    with pytest.raises(InputError, match=r"not four times as large as .*lr/map\.png"):
        PhotoPairs(list(lr), 64, MIX, 0, 1, lr=lr)[0]


def test_batches_carry_every_corrupt_photo(photos: list[Path]) -> None:
    sample = pairs_of(photos)[0]
    error = InputError("a.png", "cut short")
    batch = RawBatch(hr=sample.hr[None], lr=sample.lr[None], corrupt=(error,))  # type: ignore[index]
    assert pickle.loads(pickle.dumps(batch)).corrupt[0].subject == "a.png"
