"""Recipes over real photos: tiny from scratch, and the paper's kind over a small Stable Diffusion base on disk."""

import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from rcodsr.models.lpips import LpipsSqueeze
from rcodsr.training.recipe import MachineSettings, OptimSettings, PerceptualSettings, Phase, Recipe, TimestepSettings
from rcodsr.variants import VariantSpec
from tests.text_base import write_text_encoder


@pytest.fixture
def photos(tmp_path: Path, photo: Image.Image) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        photo.crop((100 * i, 0, 100 * i + 128, 128)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def recipe(photos: Path, tmp_path: Path, small_spec: VariantSpec) -> Recipe:
    """From scratch, with texture losses weighted by the timestep."""
    lpips = tmp_path / "lpips.safetensors"
    save_file(LpipsSqueeze().state_dict(), lpips)
    return Recipe(
        photos=photos,
        variant=small_spec,
        output=tmp_path / "run",
        fit=True,
        timestep=TimestepSettings(grouped_share=0.5, weight_losses=True),
        perceptual=PerceptualSettings("lpips-squeeze", lpips),
        optim=OptimSettings(ema=0.9),
        machine=MachineSettings(workers=0),
        phases=(
            Phase("pixel", 3, 2, 64, (1e-3, 1e-4)),
            Phase("knob", 3, 2, 64, (3e-4, 1e-5), perceptual=0.2, adversarial=0.02, pairs=0.02, mesh=1.0),
        ),
    )


@pytest.fixture
def base_directory(base_files: dict[str, dict[str, bytes]], small_sd_spec: VariantSpec, tmp_path: Path) -> Path:
    """A Stable Diffusion base as on the Hub, its text encoder included."""
    folder = tmp_path / "sd21-base"
    for name, contents in base_files["sd21-base"].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(contents)
    write_text_encoder(folder, width=small_sd_spec.prompt.context)
    return folder


@pytest.fixture
def sd_recipe(photos: Path, base_directory: Path, small_sd_spec: VariantSpec, tmp_path: Path) -> Recipe:
    """Algorithm 1 over the small base."""
    return Recipe(
        photos=photos,
        variant=small_sd_spec,
        output=tmp_path / "sd-run",
        base_model="random:3",
        perceptual=PerceptualSettings("wavelet"),
        machine=MachineSettings(workers=0),
        phases=(Phase("Algorithm 1", 4, 2, 64, (1e-3, 1e-3), pixel="mse", perceptual=2.0, vsd=1.0),),
    )


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
