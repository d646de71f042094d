"""Procedural pictures that resemble photos to a network: no data needed, and none of the zeros that flatter a benchmark."""

import torch
from torch import Tensor

_LEAVES = 60


def natural_picture(side: int, seed: int) -> Tensor:
    """Overlapping discs of power-law sizes over clouds: edges, flat areas and a 1/f spectrum (Lee et al., dead leaves, 2001).

    Args:
        side: side of the picture in pixels.
        seed: the same seed yields the same picture.

    Returns:
        Shape (3, side, side), uint8.
    """
    random = torch.Generator().manual_seed(seed)
    clouds = _clouds(side, random)
    picture = 0.5 + 0.12 * clouds
    clouds = clouds.repeat(1, 2, 2)  # tiled periodically, so that each leaf gets its own part
    axis = torch.linspace(0, 1, side)
    for _ in range(_LEAVES):
        y, x, size = torch.rand(3, generator=random).tolist()
        radius = 0.02 / (1 - 0.93 * size)  # many small ones, few large
        color = torch.rand(3, 1, 1, generator=random)
        top, left = torch.randint(side, (2,), generator=random).tolist()
        rows, columns = (slice(max(0, int((at - radius) * side)), int((at + radius) * side) + 1) for at in (y, x))
        inside = ((axis[rows, None] - y).square() + (axis[columns] - x).square() < radius**2).float()
        under = picture[:, rows, columns]
        grain = clouds[:, top : top + inside.shape[0], left : left + inside.shape[1]]
        under += inside * (0.85 * (color - under) + 0.03 * grain)
    return (255 * picture.clamp(0, 1)).round().to(torch.uint8)


def natural_batch(count: int, side: int, seed: int) -> Tensor:
    """Different pictures, shape (count, 3, side, side), uint8."""
    return torch.stack([natural_picture(side, seed * 1000 + i) for i in range(count)])


def _clouds(side: int, random: torch.Generator) -> Tensor:
    """Periodic noise with a 1/f spectrum and unit variance, mostly grey like photos: (3, side, side)."""
    white = torch.randn(3, side, side, generator=random)
    white = 0.8 * white.mean(0) * 3**0.5 + 0.6 * white
    frequency = (torch.fft.fftfreq(side)[:, None].square() + torch.fft.rfftfreq(side).square()).sqrt()
    shaped = torch.fft.irfft2(torch.fft.rfft2(white) / frequency.clamp(min=1 / side), s=(side, side))
    return shaped / shaped.std()
