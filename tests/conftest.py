"""Fixtures: seeded randomness, real photos, tiny real models, and the command line as a subprocess."""

import os

# one thread, here and in subprocesses: the models of the tests are small, and a busy machine punishes idle threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from rcodsr.checkpoints.format import save_model
from rcodsr.config import TinyUNetSpec, TowerSpec, VariantSpec, WaveletSpec
from rcodsr.engine.runtime import choose_runtime
from rcodsr.engine.upscaler import Upscaler
from rcodsr.models.build import build_model
from rcodsr.models.one_step import OneStepSR

RunCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A public-domain photo, 512×512."""
    return Image.fromarray(skimage.data.astronaut())


@pytest.fixture(scope="session")
def photo_tensor(photo: Image.Image) -> Tensor:
    """The photo as (3, 512, 512) in [0, 1]."""
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255


@pytest.fixture
def small_spec() -> VariantSpec:
    return VariantSpec(
        name="small",
        autoencoder=WaveletSpec(refine_channels=4),
        unet=TinyUNetSpec(channels=(8, 12), blocks=(1, 2), embedding=16, heads=2),
        prompt=TowerSpec(image_side=16, tower_channels=(4, 8), context=12),
    )


@pytest.fixture
def small_model(small_spec: VariantSpec) -> OneStepSR:
    """A real model with random weights in every layer, the zero-initialised ones included."""
    model = build_model(small_spec)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.02)
    return model.eval().requires_grad_(False)


@pytest.fixture
def small_checkpoint(small_model: OneStepSR, tmp_path: Path) -> Path:
    directory = tmp_path / "small"
    save_model(directory, small_model)
    return directory


@pytest.fixture
def small_upscaler(small_model: OneStepSR) -> Upscaler:
    return Upscaler(small_model, choose_runtime("cpu", "fp32"), "small@0")


@pytest.fixture(scope="session")
def default_upscaler() -> Upscaler:
    """The embedded checkpoint on the CPU."""
    return Upscaler.load(device="cpu", dtype="fp32")


@pytest.fixture
def run_cli(tmp_path: Path) -> RunCli:
    """Run `rcodsr ...` in tmp_path as a person would."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rcodsr", *map(str, arguments)]
        environment = {**os.environ, "NO_COLOR": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload,no-any-return]

    return run
