"""Where a run is watched."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from rcodsr.errors import UsageError
from rcodsr.training.boards import Boards, require_trackers
from rcodsr.training.recipe import Recipe
from rcodsr.training.recipe_file import read_recipe
from rcodsr.training.run import Run


def _silent(_: str) -> None:
    pass


def test_tensorboard_gets_curves_and_pictures_and_forgets_what_is_done_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    for begun, last in ((0, 3), (1, 2)):
        boards = Boards(["tensorboard"], tmp_path, begun, {}, _silent)
        for step in range(begun + 1, last + 1):
            boards.scalars({"loss": float(10 * begun + step)}, step)
        boards.picture("validation", torch.rand(3, 8, 24), last)
        boards.close()
    seen = EventAccumulator(str(tmp_path / "tensorboard"))
    seen.Reload()
    assert [(event.step, event.value) for event in seen.Scalars("loss")] == [(1, 1.0), (2, 12.0)]
    (shown,) = seen.Images("validation")
    assert (shown.width, shown.height) == (24, 8)


def test_no_board_is_fine(tmp_path: Path) -> None:
    boards = Boards([], tmp_path, 0, {}, _silent)
    boards.scalars({"loss": 1.0}, 1)
    boards.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(find_spec("wandb") is not None, reason="it is installed")
def test_what_is_not_installed_is_said_before_anything_else(recipe: Recipe) -> None:
    require_trackers(["tensorboard"])
    with pytest.raises(UsageError, match=r"trackers: Weights & Biases is not installed; pip install accelerate wandb"):
        Run(replace(recipe, trackers=("tensorboard", "wandb")), _silent)
    assert not recipe.output.exists()


def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for step in (0, 5):
        boards = Boards(["wandb"], tmp_path, step, {"seed": 1, "optim": {"ema": 0.9}}, _silent)
        boards.scalars({"loss": 1.0}, step + 1)
        boards.picture("validation", torch.rand(3, 8, 8), step + 1)
        boards.close()
        known = (tmp_path / "wandb_id").read_text()
        assert any(known in path.name for path in (tmp_path / "wandb").iterdir())


def test_trackers_are_a_value_of_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("[[phases]]\nname = 'p'\nsteps = 1\nbatch = 1\ncrop = 32\nlearning_rate = [1e-3, 1e-3]\n")
    assert read_recipe(path, ["photos=x"]).trackers == ("tensorboard",)
    assert read_recipe(path, ["photos=x", 'trackers=["tensorboard", "wandb"]']).trackers == ("tensorboard", "wandb")
    assert read_recipe(path, ["photos=x", "trackers=[]"]).trackers == ()
    with pytest.raises(UsageError, match="trackers: .*each tensorboard, wandb"):
        read_recipe(path, ["photos=x", 'trackers=["wandd"]'])
