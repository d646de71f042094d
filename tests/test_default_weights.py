"""What people get who ask for no weights. Everything else is tested with `rcod-tiny`, which is fast."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rcodsr
from rcodsr.bench.quality import psnr_y
from rcodsr.checkpoints.manifest import read_manifest
from rcodsr.images import io
from rcodsr.images.resize import upsample
from rcodsr.options import DEFAULT_WEIGHTS
from tests.conftest import RunCli

pytestmark = pytest.mark.usefixtures("packaged_default")


@pytest.fixture
def picture(photo: Image.Image, tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    photo.resize((48, 40)).save(path)
    return path


def test_the_default_is_packaged_and_has_a_knob_and_an_estimator() -> None:
    assert read_manifest()[DEFAULT_WEIGHTS].status == "packaged"
    model = rcodsr.load(device="cpu").model
    assert model.spec.fixed_timestep is None
    assert model.metric_estimator is not None


def test_python_and_the_command_line_enlarge_alike(run_cli: RunCli, picture: Path) -> None:
    """The same pixels by both doors, and a picture of the same thing: near its bicubic enlargement."""
    upscaler = rcodsr.load(device="cpu", dtype="fp32")
    assert upscaler.weights_id.startswith(f"{DEFAULT_WEIGHTS}@")
    made = upscaler.upscale(picture, realism=0)
    done = run_cli("upscale", "photo.png", "-r", "0", "--device", "cpu", "--dtype", "fp32", "--json")
    (result, _) = map(json.loads, done.stdout.splitlines())
    assert (result["status"], result["weights"]) == ("done", upscaler.weights_id)
    output = io.read(picture.with_name("photo_x4.png"))
    assert np.array_equal(np.asarray(made), (output.rgb.permute(1, 2, 0).numpy() * 255).round())
    assert psnr_y(output.rgb, upsample(io.read(picture).rgb[None], 4)[0].clamp(0, 1)) > 22


def test_levels_differ_and_degradation_decides(run_cli: RunCli, picture: Path) -> None:
    upscaler = rcodsr.load(device="cpu")
    fidelity, realism = (np.asarray(upscaler.upscale(picture, realism=level), float) for level in (0, 1))
    assert np.abs(fidelity - realism).mean() > 0.3
    row = json.loads(run_cli("estimate", "photo.png", "--json").stdout)
    assert 0 <= row["realism"] <= 1
