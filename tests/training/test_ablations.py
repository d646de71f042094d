"""Every command of `recipes/ablations/README.md` runs and differs from the paper's recipe where it should."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rcodsr.checkpoints.config import read_config
from rcodsr.training.generator_trainer import GeneratorTrainer
from rcodsr.training.objectives import VsdObjective
from rcodsr.training.recipe_file import find_recipe, read_recipe
from rcodsr.training.run import Run
from tests.conftest import RunCli

README = Path(__file__).parents[2] / "recipes" / "ablations" / "README.md"
TINY = [
    "variant.autoencoder.widths=[16,16,32]",
    "variant.autoencoder.blocks=1",
    "variant.autoencoder.norm_groups=8",
    "variant.unet.channels=[32,64]",
    "variant.unet.blocks=1",
    "variant.unet.heads=[2,4]",
    "variant.unet.norm_groups=8",
    "variant.prompt.context=24",
    "base_model=random:0",
    "perceptual.distance=wavelet",
    "machine.workers=0",
    "machine.dtype=fp32",
    "phases.0.steps=2",
    "phases.0.batch=2",
    "phases.0.crop=64",
]
TINY_CLIP = [f"variant.prompt.{value}" for value in ("image_side=28", "width=32", "layers=2", "heads=2")]


def _rows() -> Iterator[tuple[str, str, list[str]]]:
    """Table, row and command of every documented command."""
    table = ""
    for line in README.read_text().splitlines():
        if line.startswith("## "):
            table = line.removeprefix("## ").partition(":")[0]
        elif found := re.match(r"\| (.+?) \| `(rcodsr .+)` \|$", line):
            yield table, found[1], shlex.split(found[2])


ROWS = {f"{table} {row}": command for table, row, command in _rows()}
TRAINED = {name: command for name, command in ROWS.items() if command[1] == "train"}
THIRDS = {250, 500, 750}
# timesteps of the groups, tokens that the U-Net attends to (77 of a text, 5 of the small CLIP), half width of DAS, degradations
EXPECTED = {
    "S1(a) Orig.": ({999}, 77, None, {"full"}),
    "S1(a) Orig. + new": ({999}, 77, None, {"full", "independent"}),
    "S5 Baseline": ({999}, 77, None, {"full"}),
    "S5 w/o VPIM": (THIRDS, 77, None, {"full"}),
    "S5 w/o LDG": ({999}, 5, None, {"full"}),
    "S5 w/o DAS": (THIRDS, 5, None, {"full"}),
    "S5 RCOD_O": (THIRDS, 5, 250, {"full"}),
    "S6 n = 4": ({*THIRDS, 999}, 5, 250, {"full"}),
    "S6 n = 3": (THIRDS, 5, 250, {"full"}),
}


@pytest.fixture
def tags(photos: Path, tmp_path: Path) -> Path:
    lines = [json.dumps({"picture": path.name, "text": f"thing {path.stem}"}) for path in photos.iterdir()]
    (tmp_path / "tags.jsonl").write_text("\n".join(lines))
    return tmp_path / "tags.jsonl"


def _here(command: list[str], photos: Path, tags: Path, output: Path) -> list[str]:
    """A row's command with local files."""
    here = {"photos=PHOTOS": f"photos={photos}", "captions=TAGS": f"captions={tags}", "PHOTOS": str(photos)}
    return [f"output={output}" if word.startswith("output=") else here.get(word, word) for word in command[1:]]


def _small(overrides: list[str]) -> list[str]:
    text = any(word in overrides for word in ("variant=osediff", "variant.prompt.kind=text"))
    return [*overrides, *TINY, *([] if text else TINY_CLIP)]


def test_every_table_has_its_rows() -> None:
    assert TRAINED.keys() == EXPECTED.keys()
    assert [name for name in ROWS if name.startswith("S1(b)")] == ["S1(b) all"]
    assert len({tuple(sorted(word for word in c if "output=" not in word)) for n, c in TRAINED.items() if "S5" in n}) == 5


@pytest.mark.parametrize("name", TRAINED)
def test_a_row_differs_where_it_should(name: str, photos: Path, tags: Path, tmp_path: Path) -> None:
    timesteps, tokens, window, mix = EXPECTED[name]
    _, recipe_name, *overrides = _here(TRAINED[name], photos, tags, tmp_path / "run")
    recipe = read_recipe(find_recipe(recipe_name), _small(overrides))
    run = Run(recipe, lambda _: None)
    trainer = run.trainer
    assert isinstance(trainer, GeneratorTrainer)
    (judge,) = trainer.objectives
    assert isinstance(judge, VsdObjective)
    assert (set(run.model.spec.grouping.timesteps), judge.window, set(recipe.data.mix)) == (timesteps, window, mix)
    (batch,) = next(run._phase_batches(0, recipe.phases[0], 0))
    made, _ = trainer.generate(batch, recipe.phases[0])
    assert made.tokens.shape[1] == tokens
    assert set(made.timestep.tolist()) <= timesteps
    if tokens == 77:  # each photo's own text, and not one for all
        assert batch.texts[0].startswith("thing ")
        assert torch.equal(made.tokens[0], made.tokens[1]) == (batch.texts[0] == batch.texts[1])


def _rarely(name: str) -> object:
    return name if name == "S5 RCOD_O" else pytest.param(name, marks=pytest.mark.huge)


@pytest.mark.slow
@pytest.mark.parametrize("name", [_rarely(name) for name in TRAINED])
def test_a_row_runs_as_it_is_typed(name: str, photos: Path, tags: Path, tmp_path: Path, run_cli: RunCli) -> None:
    done = run_cli(*_small(_here(TRAINED[name], photos, tags, tmp_path / "run")))
    assert done.returncode == 0, done.stderr
    config = read_config(tmp_path / "run" / "checkpoint")
    assert (set(config.spec.grouping.timesteps), config.training["steps"]) == (EXPECTED[name][0], 2)


@pytest.mark.slow
def test_the_metrics_row_runs(photos: Path, tags: Path, tmp_path: Path, run_cli: RunCli) -> None:
    command = _here(ROWS["S1(b) all"], photos, tags, tmp_path)
    small = {"600": "8", "256": "64"}
    done = run_cli(*[small.get(word, word) for word in command])
    assert done.returncode == 0, done.stderr
