"""JPEG compression on tensors: 8×8 DCT, standard tables, 4:2:0 chroma. Equivalent to libjpeg, without the file."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

# ITU-T T.81, annex K
_LUMA = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
_CHROMA = "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99" + " 99" * 32
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Compress and decompress.

    Args:
        x: shape (B, 3, H, W), any size, in [0, 1].
        quality: libjpeg's quality, 1 to 100.

    Returns:
        Same shape, in [0, 1].
    """
    height, width = x.shape[-2:]
    x = F.pad((x * 255).round(), (0, -width % 16, 0, -height % 16), mode="replicate")
    ycc = torch.einsum("ij,bjhw->bihw", x.new_tensor(_TO_YCC), x)
    luma, chroma = ycc[:, :1] - 128, F.avg_pool2d(ycc[:, 1:], 2)
    luma = _quantise(luma, _table(_LUMA, quality).to(x)) + 128
    chroma = _quantise(chroma, _table(_CHROMA, quality).to(x))
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear")
    rgb = torch.einsum("ij,bjhw->bihw", x.new_tensor(_TO_RGB), torch.cat((luma, chroma), 1))
    return rgb[..., :height, :width].round().clamp(0, 255) / 255


def _quantise(plane: Tensor, table: Tensor) -> Tensor:
    """Round the DCT coefficients of each 8×8 block to multiples of the table."""
    blocks = plane.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
    dct = _dct().to(plane)
    coefficients = dct @ blocks @ dct.T
    blocks = dct.T @ ((coefficients / table).round() * table) @ dct
    return blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)


@functools.cache
def _dct() -> Tensor:
    n = torch.arange(8, dtype=torch.float64)
    matrix = torch.cos(math.pi * (2 * n[None] + 1) * n[:, None] / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix.float()


def _table(base: str, quality: int) -> Tensor:
    factor = 5000 // quality if quality < 50 else 200 - 2 * quality
    values = [min(255, max(1, (int(v) * factor + 50) // 100)) for v in base.split()]
    return torch.tensor(values, dtype=torch.float32).view(8, 8)
