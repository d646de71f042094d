"""`rcodsr train` as a person types it."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import RunCli

_RECIPE = """
fit = true
machine.workers = 0
[[phases]]
name = "p"
steps = 2
batch = 1
crop = 32
learning_rate = [1e-3, 1e-4]
"""


@pytest.fixture
def desk(photo: Image.Image, tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    photo.resize((64, 64)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "recipe.toml").write_text(_RECIPE)
    return tmp_path


def test_a_run_ends_with_its_checkpoint_and_goes_on_from_another_directory(desk: Path, run_cli: RunCli) -> None:
    done = run_cli("train", "recipe.toml", "photos=photos", "--output", "run", "machine.threads=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "run/checkpoint\n"
    picture = desk / "photos" / "a.png"
    used = run_cli("upscale", picture, "-o", "out.png", "--weights", "run/checkpoint")
    assert used.returncode == 0, used.stderr
    more = run_cli("train", "recipe.toml", "photos=photos", "--output", "more", "--resume", "run", "machine.threads=1")
    assert more.returncode == 0, more.stderr
    assert "resumed at step 2 of 2" in more.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("recipe.toml",), 2, "no photos given"),
        (("recipe.toml", "photos=nowhere"), 6, "no photos found"),
        (("recipe.toml", "photos=photos", "phases.0.crop=128"), 1, "smaller than the 128-pixel crop"),
        (
            ("recipe.toml", "photos=photos", "perceptual.distance=lpips-vgg", "phases.0.perceptual=1"),
            2,
            "add perceptual.weights=FILE.safetensors",
        ),
        (("recipe.toml", "photos=photos", "--resume", "photos"), 2, "contains no saved state of a run"),
        (("recipe.toml", "photos=photos", "machine.device=cuda:99"), 4, "--device"),
        (("nothing", "photos=photos"), 2, "no such recipe"),
        (
            ("recipe.toml", "photos=photos", "optim.emma=0.9"),
            2,
            r"^rcodsr: optim\.emma: .*did you mean optim\.ema\?$",
        ),
        (("recipe.toml", "photos=photos", "threads=1"), 2, r"^rcodsr: threads: .*did you mean machine\.threads\?$"),
        (("recipe.toml", "photos=2024"), 6, "2024: no photos found"),
    ],
)
def test_bad_requests_get_one_line(desk: Path, run_cli: RunCli, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = run_cli("train", *arguments, "--output", "run")
    assert done.returncode == code, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("rcodsr: ")]
    assert re.search(message, line)
    assert "Traceback" not in done.stderr
    assert not (desk / "run").exists()


def test_a_recipe_can_be_copied_and_shown(desk: Path, run_cli: RunCli) -> None:
    copied = run_cli("train", "rcod-o", "--init-config", "mine.toml")
    assert (copied.returncode, copied.stdout) == (0, "mine.toml\n")
    shown = run_cli("train", "mine.toml", "photos=photos", "--print-config", "seed=4")
    values = json.loads(shown.stdout)
    assert (values["seed"], values["phases"][0]["vsd"], values["variant"]["name"]) == (4, 1.0, "rcod-o")
    again = run_cli("train", "rcod-o", "--init-config", "mine.toml")
    assert again.returncode == 2
    assert "already exists" in again.stderr
