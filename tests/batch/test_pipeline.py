"""The overlapped pipeline: the same bytes in the same order as one picture after the other, with a small real model."""

import threading
import warnings
from collections.abc import Callable, Generator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rcodsr.batch import pipeline, stages
from rcodsr.batch.pipeline import run
from rcodsr.batch.plan import Job
from rcodsr.batch.records import record_of
from rcodsr.batch.results import Result, WriteOptions
from rcodsr.batch.tiles import TileBatcher
from rcodsr.engine.runtime import choose_runtime
from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import OutputError
from rcodsr.images import io
from rcodsr.models.one_step import Condition, OneStepSR
from rcodsr.options import UpscaleOptions

OPTIONS = UpscaleOptions(tile=32, tile_overlap=4)
KINDS = (("png", "RGB"), ("jpg", "RGB"), ("webp", "RGBA"), ("tif", "L"), ("png", "LA"), ("bmp", "RGB"))


@pytest.fixture
def engine(small_model: OneStepSR) -> Upscaler:
    return Upscaler(small_model, choose_runtime("cpu", "fp32"), "small@0")


@pytest.fixture
def jobs(photo: Image.Image, tmp_path: Path) -> list[Job]:
    """Pictures of several sizes, formats and modes."""
    found = []
    for i, (suffix, mode) in enumerate(KINDS):
        source = tmp_path / f"{i}.{suffix}"
        photo.crop((i * 40, 0, i * 40 + 30 + 4 * i, 30)).convert(mode).save(source)
        found.append(Job(source, tmp_path / "out" / f"{i}.png"))
    (tmp_path / "out").mkdir()
    return found


def _one_by_one(jobs: list[Job], engine: Upscaler) -> list[bytes]:
    made = []
    for job in jobs:
        upscaled = engine.run(io.read(job.source), OPTIONS)
        record = _record_of(job, engine) | {"consistency": upscaled.consistency}
        made.append(io.encode(upscaled.picture, "PNG", record=record))
    return made


def _record_of(job: Job, engine: Upscaler) -> dict[str, object]:
    return record_of(job.source, OPTIONS, engine.model.spec, engine.weights_id, engine.runtime.dtype_name)


def _written(results: list[Result]) -> list[bytes]:
    return [Path(str(result.output)).read_bytes() for result in results]


def test_the_same_bytes_as_one_after_the_other(engine: Upscaler, jobs: list[Job]) -> None:
    results = list(run(jobs, engine, OPTIONS, WriteOptions(), None))
    assert [(result.input, result.status) for result in results] == [(str(job.source), "done") for job in jobs]
    assert _written(results) == _one_by_one(jobs, engine)
    assert {result.status for result in run(jobs, engine, OPTIONS, WriteOptions(), None)} == {"skipped"}


def test_a_picture_too_large_to_share_memory_waits_its_turn(
    engine: Upscaler, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "LARGE", 16 * 34 * 30)
    monkeypatch.setattr(pipeline, "LARGE", 16 * 34 * 30)
    results = list(run(jobs, engine, OPTIONS, WriteOptions(), None))
    assert [result.input for result in results] == [str(job.source) for job in jobs]
    assert _written(results) == _one_by_one(jobs, engine)


def test_nothing_is_written_after_the_last_failure_allowed(engine: Upscaler, jobs: list[Job], tmp_path: Path) -> None:
    jobs[2].source.write_bytes(b"no picture")  # type: ignore[union-attr]
    results = run(jobs, engine, OPTIONS, WriteOptions(), None, max_failures=1)
    assert [result.status for result in results] == ["done", "done", "failed"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "1.png"]


def test_nothing_is_written_after_a_fault_of_the_disk(engine: Upscaler, jobs: list[Job], tmp_path: Path) -> None:
    jobs[1] = Job(jobs[1].source, tmp_path / "0.png" / "1.png")  # a file where a folder is needed
    seen: list[str] = []
    with pytest.raises(OutputError):
        seen.extend(result.status for result in run(jobs, engine, OPTIONS, WriteOptions(), None))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png"]


def test_leaving_early_leaves_no_thread_and_no_part(engine: Upscaler, jobs: list[Job], tmp_path: Path) -> None:
    before = threading.active_count()
    results = run(jobs, engine, OPTIONS, WriteOptions(), None)
    assert next(results).status == "done"
    assert isinstance(results, Generator)
    results.close()
    assert threading.active_count() == before
    assert not list((tmp_path / "out").glob(".*"))


def test_pictures_that_share_network_calls_come_out_the_same(engine: Upscaler, jobs: list[Job]) -> None:
    results = list(run(jobs, engine, OPTIONS, WriteOptions(), None, together=4))
    assert [result.status for result in results] == ["done"] * len(jobs)
    for came, wanted in zip(_written(results), _one_by_one(jobs, engine), strict=True):
        a, b = (np.asarray(Image.open(BytesIO(data))).astype(int) for data in (came, wanted))
        assert np.abs(a - b).max() <= 1


def _asked_together(network: Callable[[Tensor, Condition], Tensor], model: OneStepSR) -> tuple[list[Tensor], list[Tensor]]:
    """Three tiles, two of one shape, by three threads while a fourth has the network; what came and what should."""
    released = threading.Event()

    def held(tiles: Tensor, condition: Condition) -> Tensor:
        released.wait(10)
        return network(tiles, condition)

    batcher = TileBatcher(held, 8)
    tiles = [torch.rand(1, 3, side, 32) for side in (64, 32, 48, 32)]
    conditions = [model.condition(tile, torch.tensor([250 * i])) for i, tile in enumerate(tiles)]
    came: list[Tensor] = [torch.empty(0)] * len(tiles)

    def ask(i: int) -> None:
        with torch.no_grad():
            came[i] = batcher(tiles[i], conditions[i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(tiles))]
    threads[0].start()
    while not batcher._busy:
        pass
    for thread in threads[1:]:
        thread.start()
    while len(batcher._waiting) < 3:
        pass
    released.set()
    for thread in threads:
        thread.join(30)
    return came, [model(tile, condition) for tile, condition in zip(tiles, conditions, strict=True)]


@pytest.mark.parametrize("memory", [8, 1])
def test_tiles_of_one_shape_share_a_call_while_memory_lasts(small_model: OneStepSR, memory: int) -> None:
    asked = []

    def network(tiles: Tensor, condition: Condition) -> Tensor:
        asked.append(tuple(tiles.shape[::2]))
        if len(tiles) > memory:
            raise torch.OutOfMemoryError("out of memory")
        return small_model(tiles, condition)

    for came, wanted in zip(*_asked_together(network, small_model), strict=True):
        assert (came - wanted).abs().max() < 1e-5
    alone = [(1, 32), (1, 32)] if memory == 1 else []
    assert sorted(asked) == sorted([(1, 64), (1, 48), (2, 32), *alone])


def test_threads_leave_pythons_warnings_as_they_found_them(photo: Image.Image, tmp_path: Path) -> None:
    photo.resize((8, 8)).save(tmp_path / "a.png")
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [io.read(tmp_path / "a.png") for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
