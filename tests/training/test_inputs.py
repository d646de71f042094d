"""How a training run handles its photos: real pairs, corrupt files, killed workers."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from rcodsr.errors import InputError, WorkerError
from rcodsr.training.recipe import Phase, Recipe
from rcodsr.training.run import Run
from rcodsr.variants import VariantSpec


@pytest.fixture
def recipe(tmp_path: Path, photo: Image.Image, small_spec: VariantSpec) -> Recipe:
    for i in range(8):
        hr = photo.crop((40 * i, 0, 40 * i + 128, 128))
        for folder, picture in (("hr", hr), ("lr", hr.resize((32, 32)))):
            (tmp_path / folder).mkdir(exist_ok=True)
            picture.save(tmp_path / folder / f"{i}.png")
    return Recipe(
        photos=tmp_path / "hr",
        variant=small_spec,
        fit=True,
        output=tmp_path / "run",
        phases=(Phase("pixel", 2, 2, 64, (1e-3, 1e-4)),),
    )


def test_a_run_on_real_pairs(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(replace(recipe, lr=tmp_path / "lr"), lambda _: None)
    ((batch,),) = [next(run._phase_batches(0, recipe.phases[0], 0))]
    lr, hr = batch.lr, batch.hr
    assert (lr.shape, hr.shape) == ((2, 3, 16, 16), (2, 3, 64, 64))
    # the low resolution is the photo itself, shrunk, without noise
    assert (torch.nn.functional.avg_pool2d(hr, 4) - lr).abs().mean() < 0.01
    run.go()
    assert (recipe.output / "checkpoint").is_dir()


def test_a_photo_that_is_too_small_for_a_phase_is_left_out_of_that_one(recipe: Recipe) -> None:
    with Image.open(recipe.photos / "0.png") as whole:
        whole.crop((0, 0, 128, 80)).save(recipe.photos / "0.png")
    lines: list[str] = []
    large = Phase("large", 1, 1, 96, (1e-3, 1e-4))
    run = Run(replace(recipe, phases=(*recipe.phases, large)), lines.append)
    assert [len(run._pairs(phase, 0, 1).photos) for phase in run.recipe.phases] == [8, 7]
    assert lines[0] == f"1 of 8 photos is smaller than the 96-pixel crop and left out, {recipe.photos}/0.png first"
    with pytest.raises(InputError, match=r"0\.png: smaller than the 160-pixel crop, and 7 more are; "):
        Run(replace(recipe, phases=(replace(large, crop=160),)), lines.append)


def test_damaged_photos_are_named_once_and_end_a_run_when_many(recipe: Recipe) -> None:
    lines: list[str] = []
    damaged = sorted(recipe.photos.iterdir())
    damaged[0].write_bytes(damaged[0].read_bytes()[:5000])
    Run(recipe, lines.append).go()
    assert sum("0.png: cut short or damaged" in line for line in lines) == 1
    for path in damaged[:3]:
        path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="the first of 3 unreadable photos"):
        Run(recipe, lines.append, resume=False).go()


def test_a_killed_worker_ends_the_run_with_one_line(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(recipe, lambda _: None)

    def kill(*_: object) -> dict[str, float]:
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        time.sleep(60)
        return {}

    monkeypatch.setattr(run.trainer, "train_step", kill)
    with pytest.raises(WorkerError, match=r"^data worker \d+: killed by signal: Killed, probably out of memory; "):
        run.go()
