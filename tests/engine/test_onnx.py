"""The engine as an ONNX file, run by onnxruntime, compared with the engine itself."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import rcodsr
from rcodsr.checkpoints.format import save_model
from rcodsr.engine.onnx import export_onnx, run, session
from rcodsr.images.picture import Picture
from rcodsr.models.build import build_model
from rcodsr.models.residual_dense import ResidualDenseNet
from rcodsr.options import Level, UpscaleOptions, WeightsRequest
from rcodsr.parts import ResidualDenseSpec, TinyUNetSpec, TowerSpec, WaveletSpec
from rcodsr.variants import VariantSpec
from tests.conftest import RunCli, shake

onnx = pytest.importorskip("onnx")
SIZES = ((37, 23), (5, 64), (1, 1))  # height, width: no multiples of anything, wide, the least
LEVELS = (0.0, 0.4, 1.0)
SPECS = {
    "tiny": VariantSpec(
        name="small",
        autoencoder=WaveletSpec(refine_channels=4),
        unet=TinyUNetSpec(channels=(8, 12), blocks=(1, 2), embedding=16, heads=2, grain=True),
        prompt=TowerSpec(image_side=16, tower_channels=(4, 8), context=12),
        limit_overshoot=False,
    ),
    "residual-dense": VariantSpec(
        name="small-dense",
        autoencoder=WaveletSpec(refine_channels=0),
        unet=ResidualDenseSpec(width=8, growth=4, blocks=2, embedding=16, heads=2),
        prompt=TowerSpec(image_side=16, tower_channels=(4, 8), context=12),
        noise_head="clean",
        color_fix="none",
    ),
}


def _checkpoint(spec: VariantSpec, directory: Path) -> Path:
    """Random weights in every layer, so that timestep, tokens, grain and refinement all show."""
    torch.manual_seed(1)
    model = build_model(spec)
    shake(model.parameters(), by=0.05)
    if isinstance(model.unet, ResidualDenseNet):  # its picture is grey, not black, and follows the timestep
        with torch.no_grad():
            model.unet.output.conv_last.bias.add_(0.5)  # type: ignore[union-attr]
            for block in model.unet.body.children():
                block.get_submodule("film").weight.normal_(0, 0.5)  # type: ignore[operator]
    save_model(directory, model)
    return directory


def _compare(file: Path, weights: str, photo: Tensor) -> None:
    engine, network = rcodsr.load(weights, "cpu", "fp32"), session(str(file))
    for height, width in SIZES:
        picture = photo[:, 150 : 150 + height, 150 : 150 + width]
        for level in LEVELS:
            expected = engine.run(Picture(picture), UpscaleOptions(Level(level))).picture.rgb.numpy()
            found = run(network, picture[None].numpy(), level)[0]
            assert found.shape == (3, 4 * height, 4 * width)
            error = float(np.square(found - expected).mean())
            assert error == 0 or -10 * math.log10(error) >= 60, (height, width, level)


# tracing a graph takes half a minute, regardless of the size of its network
@pytest.mark.parametrize(
    "kind", [pytest.param("tiny", marks=pytest.mark.slow), pytest.param("residual-dense", marks=pytest.mark.huge)]
)
def test_any_size_and_level_equals_the_engine(kind: str, tmp_path: Path, photo_tensor: Tensor) -> None:
    weights = str(_checkpoint(SPECS[kind], tmp_path / kind))
    file = tmp_path / "small.onnx"
    export_onnx(WeightsRequest(weights), file)
    _compare(file, weights, photo_tensor)

    network = session(str(file))
    picture = photo_tensor[None, :, 100:164, 100:180].numpy()
    levels = [run(network, picture, level) for level in (0.0, 1.0)]
    assert np.abs(levels[0] - levels[1]).max() > 1 / 255  # realism is an input that matters
    # as documented for tiles: the grain repeats after 64 input pixels
    flat = np.full((1, 3, 32, 128), 0.4, np.float32)
    flat += 0.1 * np.sin(np.arange(128, dtype=np.float32) * math.pi / 4)  # a period that divides 64
    enlarged = run(network, flat, 1.0)
    np.testing.assert_allclose(enlarged[..., 128:192], enlarged[..., 384 - 256 : 448 - 256], atol=1e-6)
    metadata = {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}
    assert metadata["rcodsr.scale"] == "4"
    assert ("LICENSE.Real-ESRGAN" in metadata) == (kind == "residual-dense")


@pytest.mark.huge
@pytest.mark.parametrize("weights", ["rcod-tiny", "rcod-small"])
def test_the_packaged_weights(weights: str, tmp_path: Path, photo_tensor: Tensor) -> None:
    command = [sys.executable, "-m", "rcodsr", "weights", "export", weights, "--format", "onnx", "-o", "out.onnx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out.onnx\n", "")
    _compare(tmp_path / "out.onnx", weights, photo_tensor)


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (("random:rcod-s", "-o", "s.onnx"), "rcod-s: not exported to ONNX: its LoRA follows each picture", 2),
        (("random:rcod-o", "-o", "o.onnx"), "rcod-o: not exported to ONNX: it is based on Stable Diffusion", 2),
        (("rcod-s", "-o", "s.onnx"), "rcod-s: no weights are published", 3),
        (("rcod-tiny", "-o", "tiny"), "tiny: ONNX is written as one file; pass -o FILE.onnx", 2),
        (("rcod-tiny", "-o", "there.onnx"), "there.onnx: already exists", 2),
        (("rcod-tiny", "-o", "new.onnx", "--merged"), "--merged: contradicts --format onnx", 2),
        (("rcod-tiny", "-o", "new.onnx", "--push-to-hub", "me/it"), "--push-to-hub: uploads a directory", 2),
    ],
)
def test_refusals(arguments: tuple[str, ...], words: str, code: int, run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "there.onnx").write_text("mine")
    done = run_cli("weights", "export", *arguments, "--format", "onnx")
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert words in line
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]
    assert (tmp_path / "there.onnx").read_text() == "mine"
