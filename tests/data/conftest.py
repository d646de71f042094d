import math
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from rcodsr.data.photos import find_photos


def to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10((a - b).square().mean().item())


@pytest.fixture(scope="module")
def face() -> Tensor:
    return to_tensor(skimage.data.astronaut()[:192, 128:320])


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, pixels in (("astronaut", skimage.data.astronaut()[:200, 100:300]), ("chelsea", skimage.data.chelsea()[:160])):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return find_photos(folder)


def cut_short(path: Path) -> None:
    """Truncate a file after its header."""
    contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) // 2])
