"""The ComfyUI node, called as ComfyUI calls it, with plain tensors."""

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import rcodsr
from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import UsageError

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"


@pytest.fixture(scope="module")
def node() -> Any:
    """The node, found through what ComfyUI looks up."""
    spec = importlib.util.spec_from_file_location("comfyui_rcodsr", FOLDER / "__init__.py")
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (name,) = module.NODE_CLASS_MAPPINGS
    assert module.NODE_DISPLAY_NAME_MAPPINGS[name] == "Upscale (RCOD)"
    return module.NODE_CLASS_MAPPINGS[name]()


@pytest.fixture(scope="module")
def batch(photo: Image.Image) -> torch.Tensor:
    """Two crops, (2, 20, 28, 3) in [0, 1]."""
    pixels = torch.from_numpy(np.array(photo)).float() / 255
    return torch.stack([pixels[100:120, 200:228], pixels[300:320, 50:78]])


def _by_hand(engine: Upscaler, picture: torch.Tensor, **asked: Any) -> torch.Tensor:
    enlarged = engine.upscale(picture.permute(2, 0, 1), returns="same", **asked)
    return enlarged.permute(1, 2, 0)


def test_a_batch_equals_the_engine_picture_by_picture(node: Any, batch: torch.Tensor) -> None:
    engine = rcodsr.load("rcod-tiny")
    call = getattr(node, node.FUNCTION)
    for realism in (0.0, 1.0):
        (enlarged,) = call(image=batch, weights="rcod-tiny", realism=realism, adaptive=False)
        assert enlarged.shape == (2, 80, 112, 3) and enlarged.dtype == torch.float32
        for found, picture in zip(enlarged, batch, strict=True):
            assert torch.equal(found, _by_hand(engine, picture, realism=realism))
            bytes_ = engine.upscale(Image.fromarray((picture * 255).round().byte().numpy()), realism=realism)
            assert (found - torch.from_numpy(np.array(bytes_)) / 255).abs().max() <= 0.51 / 255
    (adaptive,) = call(image=batch, weights="rcod-tiny", realism=0.3, adaptive=True)
    assert torch.equal(adaptive[0], _by_hand(engine, batch[0], adaptive=True))


def test_a_map_goes_before_the_number(node: Any, batch: torch.Tensor) -> None:
    engine = rcodsr.load("rcod-tiny")
    mask = torch.zeros(1, 20, 28)
    mask[:, :, 14:] = 1
    (enlarged,) = node.upscale(batch, "rcod-tiny", 0.5, False, mask)
    for found, picture in zip(enlarged, batch, strict=True):  # one mask serves all pictures
        assert torch.equal(found, _by_hand(engine, picture, realism_map=mask[0].numpy()))
    (each,) = node.upscale(batch, "rcod-tiny", 0.5, False, torch.cat([mask, 1 - mask]))
    assert torch.equal(each[0], enlarged[0]) and not torch.equal(each[1], enlarged[1])
    with pytest.raises(UsageError, match="contradicts"):
        node.upscale(batch, "rcod-tiny", 0.5, True, mask)


def test_grey_and_transparent_pictures_keep_their_channels(node: Any) -> None:
    grey = torch.rand(1, 8, 8, 1).expand(-1, -1, -1, 3)
    (enlarged,) = node.upscale(grey, "rcod-tiny", 0.5, False)
    assert enlarged.shape == (1, 32, 32, 3) and (enlarged.amax(-1) == enlarged.amin(-1)).all()
    (cut_out,) = node.upscale(torch.cat([grey, torch.ones(1, 8, 8, 1)], -1), "rcod-tiny", 0.5, False)
    assert cut_out.shape == (1, 32, 32, 4) and (cut_out[..., 3] > 1 - 1e-6).all()


def test_what_comfyui_reads(node: Any) -> None:
    inputs = node.INPUT_TYPES()
    assert [*inputs["required"], *inputs["optional"]] == ["image", "weights", "realism", "adaptive", "map"]
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dependencies"] == ["rcodsr"]
