"""The pipeline of diffusers: the engine's own pixels, by the names that users of diffusers know."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

import rcodsr
from rcodsr.engine.arguments import UpscaleArguments
from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import DeviceError, UsageError
from rcodsr.pipeline import RcodPipeline
from tests.conftest import RunCli


@pytest.fixture(scope="module")
def pipe() -> RcodPipeline:
    made = RcodPipeline.from_pretrained("rcod-tiny", device="cpu")
    made.set_progress_bar_config(disable=True)
    return made


def test_it_is_the_command_pixel_for_pixel(pipe: RcodPipeline, run_cli: RunCli, photo: Image.Image, tmp_path: Path) -> None:
    photo.crop((200, 60, 248, 100)).save(tmp_path / "in.png")
    choices: dict[float | str, tuple[str, ...]] = {
        0.5: ("-r", "0.5"),
        "adaptive": ("-a",),
        1.0: ("-r", "1", "-s", "2", "-t", "32"),
    }
    for realism, option in choices.items():
        assert run_cli("upscale", "in.png", "-o", "out.png", "-y", "--device", "cpu", *option).returncode == 0
        asked: UpscaleArguments = {"scale": 2.0, "tile": 32} if realism == 1.0 else {}
        with Image.open(tmp_path / "in.png") as image, Image.open(tmp_path / "out.png") as made:
            found = pipe(image, realism=realism, **asked).images[0]
            assert (found.size, found.tobytes()) == (made.size, made.convert(found.mode).tobytes())


def test_several_pictures_and_kinds(pipe: RcodPipeline, capfd: pytest.CaptureFixture[str]) -> None:
    arrays = [np.zeros((8, 12, 3), np.uint8), np.full((10, 8, 3), 200, np.uint8)]
    (found,) = pipe(arrays, output_type="same", return_dict=False)
    assert [array.shape for array in found] == [(32, 48, 3), (40, 32, 3)]
    assert found[1].dtype == np.uint8
    assert pipe(torch.zeros(3, 8, 8), output_type="same").images[0].shape == (3, 32, 32)
    assert isinstance(pipe(Image.new("RGB", (8, 8)), output_type="same").images[0], Image.Image)
    assert capfd.readouterr().err == ""
    pipe.set_progress_bar_config(disable=False)
    pipe(arrays)
    pipe.set_progress_bar_config(disable=True)
    assert "2/2" in capfd.readouterr().err


def test_saved_it_loads_again_and_is_a_checkpoint(pipe: RcodPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "mine")
    again = RcodPipeline.from_pretrained(tmp_path / "mine", device="cpu", local_files_only=True)
    again.set_progress_bar_config(disable=True)
    image = Image.effect_noise((16, 12), 60).convert("RGB")
    expected = rcodsr.load(str(tmp_path / "mine"), "cpu").upscale(image, realism=1)
    assert again(image, realism=1).images[0].tobytes() == expected.tobytes() == pipe(image, realism=1).images[0].tobytes()
    with pytest.raises(UsageError, match="exists"):
        pipe.save_pretrained(tmp_path / "mine")


def test_devices_and_dtypes() -> None:
    pipe = RcodPipeline.from_pretrained("rcod-tiny", torch_dtype=torch.bfloat16, device="cpu")
    assert isinstance(pipe, DiffusionPipeline)
    assert (pipe.device, pipe.dtype) == (torch.device("cpu"), torch.bfloat16)
    assert pipe.to(torch.float32) is pipe
    assert (pipe.dtype, pipe.to("cpu").dtype, list(pipe.components)) == (torch.float32, torch.float32, ["upscaler"])
    assert "RcodPipeline" in repr(pipe)
    with pytest.raises(UsageError, match="torch.int8 is not supported; use torch.float32"):
        pipe.to(torch.int8)
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError):
            pipe.to("cuda")
    assert pipe.dtype == torch.float32  # as before


def test_what_is_refused(pipe: RcodPipeline, small_upscaler: Upscaler) -> None:
    for offload in (pipe.enable_model_cpu_offload, pipe.enable_sequential_cpu_offload, pipe.enable_group_offload):
        with pytest.raises(UsageError, match="CPU offload: .* keeps its networks on one device; save memory with"):
            offload()
    with pytest.raises(UsageError, match="output_type: 'latent' is not known"):
        pipe(Image.new("RGB", (8, 8)), output_type="latent")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="contradicts"):
        pipe(Image.new("RGB", (8, 8)), realism=0.5, adaptive=True)
    with pytest.raises(UsageError, match="created from a loaded engine; create it with RcodPipeline.from_pretrained"):
        RcodPipeline(small_upscaler).to("cpu")


def test_nobody_else_pays_for_it() -> None:
    """Without the pipeline diffusers is not imported, and torchvision is not either way."""
    code = """
import sys, numpy, rcodsr
rcodsr.load("rcod-tiny", "cpu").upscale(numpy.zeros((8, 8, 3), numpy.uint8))
assert "diffusers" not in sys.modules
from rcodsr.pipeline import RcodPipeline
assert "torchvision" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
