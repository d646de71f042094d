"""Photos at five strengths of degradation, to see whether an estimator of M_L climbs with them.

python tools/degradation_ladder.py PHOTOS OUTPUT
rcodsr estimate OUTPUT/lr --gt OUTPUT/hr --weights WEIGHTS
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from rcodsr.data.jpeg import jpeg
from rcodsr.data.photos import find_photos
from rcodsr.images import io
from rcodsr.images.picture import Picture, to_pil

STRENGTHS = ((0.3, 0, 98), (0.9, 2, 88), (1.6, 6, 72), (2.4, 12, 55), (3.2, 20, 35))
"""Blur σ in pixels of the photo, noise σ in 8-bit steps, JPEG quality."""
SIDE = 512


def degrade(hr: Tensor, strength: tuple[float, int, int], seed: int) -> Tensor:
    """Blur, shrink by 4, add noise, compress: (3, H, W) → (3, H/4, W/4), in [0, 1]."""
    sigma, noise, quality = strength
    x = F.interpolate(_blur(hr[None], sigma), scale_factor=0.25, mode="area")
    x = x + noise / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return jpeg(x.clamp(0, 1), quality)[0]


def _blur(x: Tensor, sigma: float) -> Tensor:
    axis = torch.arange(-10, 11, dtype=torch.float32)
    line = torch.exp(-axis.square() / (2 * sigma**2))
    line = (line / line.sum()).expand(3, 1, -1)
    x = F.conv2d(F.pad(x, (10, 10, 10, 10), mode="reflect"), line[:, :, None], groups=3)
    return F.conv2d(x, line[:, :, :, None], groups=3)


def main(photos: Path, output: Path) -> None:
    for side in ("lr", "hr"):
        (output / side).mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(find_photos(photos)):
        hr = io.read(path).rgb[:, :SIDE, :SIDE]
        hr = hr[:, : hr.shape[1] // 16 * 16, : hr.shape[2] // 16 * 16]
        for step, strength in enumerate(STRENGTHS):
            name = f"{path.stem}-{step}.png"
            to_pil(Picture(degrade(hr, strength, number * 10 + step))).save(output / "lr" / name)
            to_pil(Picture(hr)).save(output / "hr" / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
