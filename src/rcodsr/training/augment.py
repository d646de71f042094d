"""Differentiable augmentation of what a discriminator sees (Zhao et al., 2020): colour, translation, cutout. Seeded."""

import torch
import torch.nn.functional as F
from torch import Tensor

from rcodsr.training.draws import Draws

_GREY = 0.5
"""What is blank, in [0, 1]: zero to the networks, which see [-1, 1]."""


def augment(x: Tensor, draws: Draws) -> Tensor:
    """Change brightness, saturation and contrast, shift by up to an eighth, grey out a square of half the side.

    What happens to a sample depends on its own seed alone, so the real picture and the generated one are changed alike.

    Args:
        x: pictures (B, 3, H, W) in [0, 1].
        draws: of the batch.

    Returns:
        Same shape; may leave [0, 1] a little.
    """
    u = draws.uniforms("augment", 7).to(x)
    return _cutout(_shift(_colour(x, u[:, :3]), u[:, 3:5]), u[:, 5:])


def shift(x: Tensor, draws: Draws) -> Tensor:
    """The shift alone, grey coming in. Shapes and draws as for `augment`."""
    return _shift(x, draws.uniforms("augment", 7)[:, 3:5].to(x))


def _colour(x: Tensor, u: Tensor) -> Tensor:
    brightness, saturation, contrast = (u[:, i].view(-1, 1, 1, 1) for i in range(3))
    x = x + (brightness - 0.5) / 2
    gray = x.mean(1, keepdim=True)
    x = gray + (x - gray) * 2 * saturation
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (0.5 + contrast)


def _shift(x: Tensor, u: Tensor) -> Tensor:
    """By whole pixels; grey comes in."""
    most = [max(1, round(side / 8)) for side in x.shape[-2:]]
    padded = F.pad(x, (most[1], most[1], most[0], most[0]), value=_GREY)
    starts = [(u[:, i] * (2 * most[i] + 1)).long().clamp(max=2 * most[i]) for i in range(2)]
    rows, columns = (
        start[:, None] + torch.arange(side, device=x.device) for start, side in zip(starts, x.shape[-2:], strict=True)
    )
    samples = torch.arange(len(x), device=x.device)[:, None, None]
    return padded.movedim(1, -1)[samples, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def _cutout(x: Tensor, u: Tensor) -> Tensor:
    """Grey in a rectangle of half the sides, wherever its centre falls."""
    inside = []
    for i, side in enumerate(x.shape[-2:]):
        centre = (u[:, i, None] * side).floor()
        inside.append((torch.arange(side, device=x.device) - centre).abs() < side / 4)
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return x.masked_fill(hole, _GREY)
