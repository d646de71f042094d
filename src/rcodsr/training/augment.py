"""Differentiable augmentation of discriminator inputs (Zhao et al., 2020): colour, translation, cutout. Seeded."""

import torch
import torch.nn.functional as F
from torch import Tensor

from rcodsr.training.draws import Draws

_GREY = 0.5
"""Fill value in [0, 1]: zero to the networks, whose inputs are in [-1, 1]."""


def augment(x: Tensor, draws: Draws) -> Tensor:
    """Change brightness, saturation and contrast, shift by up to an eighth, grey out a square of half the side.

    The changes depend only on a sample's own seed, so the real and the generated picture get the same ones.

    Args:
        x: pictures (B, 3, H, W) in [0, 1].
        draws: the batch's random numbers.

    Returns:
        Same shape; values may slightly exceed [0, 1].
    """
    u = draws.uniforms("augment", 7).to(x)
    return _cutout(_shift(_colour(x, u[:, :3]), u[:, 3:5]), u[:, 5:])


def shift(x: Tensor, draws: Draws) -> Tensor:
    """Apply only the shift and fill with grey. Shapes and draws as in `augment`."""
    return _shift(x, draws.uniforms("augment", 7)[:, 3:5].to(x))


def _colour(x: Tensor, u: Tensor) -> Tensor:
    brightness, saturation, contrast = (u[:, i].view(-1, 1, 1, 1) for i in range(3))
    x = x + (brightness - 0.5) / 2
    gray = x.mean(1, keepdim=True)
    x = gray + (x - gray) * 2 * saturation
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (0.5 + contrast)


def _shift(x: Tensor, u: Tensor) -> Tensor:
    """Shift by whole pixels and fill with grey."""
    most = [max(1, round(side / 8)) for side in x.shape[-2:]]
    padded = F.pad(x, (most[1], most[1], most[0], most[0]), value=_GREY)
    starts = [(u[:, i] * (2 * most[i] + 1)).long().clamp(max=2 * most[i]) for i in range(2)]
    rows, columns = (
        start[:, None] + torch.arange(side, device=x.device) for start, side in zip(starts, x.shape[-2:], strict=True)
    )
    samples = torch.arange(len(x), device=x.device)[:, None, None]
    return padded.movedim(1, -1)[samples, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def _cutout(x: Tensor, u: Tensor) -> Tensor:
    """Fill a rectangle of half the sides with grey; its centre lies anywhere in the picture."""
    inside = []
    for i, side in enumerate(x.shape[-2:]):
        centre = (u[:, i, None] * side).floor()
        inside.append((torch.arange(side, device=x.device) - centre).abs() < side / 4)
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return x.masked_fill(hole, _GREY)
