"""Measures how far a result agrees with its input, and how far it departs from the result at realism 0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rcodsr.images.departures import painted
from rcodsr.images.exchange import Array
from rcodsr.images.resize import resize

CONSISTENT = 27.0
"""Decibels below which a result is reported as departing from its input; see docs/what-was-invented.md for the measurement."""
_WINDOW = 8
"""Side in output pixels of the window over which a departure is averaged."""
_EXACT = 100.0
"""Decibels reported for two identical pictures: beyond the precision of 16 bits, and valid in JSON, unlike infinity."""


@dataclass(frozen=True)
class Invented:
    """An enlarged picture and its departure from the evidence: the same weights at realism 0."""

    image: Image.Image
    """The enlarged picture, as `upscale` returns it."""
    map: Array
    """Shape (H, W), float32: local RMS in steps of 1/255 over 8×8 pixels."""
    consistency: float
    """PSNR in dB between the input and the result downscaled to its size."""

    @property
    def mean(self) -> float:
        """Mean of the map, in steps of 1/255."""
        return float(self.map.mean())

    @cached_property
    def picture(self) -> Image.Image:
        """The map in colours, as written by `rcodsr upscale --invented`: mode P, the index is eight times the steps."""
        return painted(self.map)


def remark(agreement: float) -> tuple[str, ...]:
    """Notes on a consistency in dB; empty where it is usual."""
    return (f"consistency {agreement:.1f} dB is low: noise was removed, or the input contradicted",) * (agreement < CONSISTENT)


def consistency(result: Tensor, seen: Tensor) -> float:
    """PSNR in dB between an input and the result downscaled to its size, rounded to 0.1 and at most 100.

    Args:
        result: shape (3, H, W) in [0, 1].
        seen: the model's input, shape (3, h, w) in [0, 1].
    """
    shrunk = resize(result[None], seen.shape[1], seen.shape[2])[0]
    error = float(F.mse_loss(shrunk, seen.to(shrunk)))
    return _EXACT if error == 0 else min(_EXACT, round(-10 * math.log10(error), 1))


def departure(result: Tensor, evidence: Tensor, alpha: Tensor | None = None) -> Tensor:
    """Local RMS of the difference between two pictures.

    Args:
        result: shape (3, H, W) in [0, 1].
        evidence: the result at realism 0, same shape and range.
        alpha: alpha of the result, shape (1, H, W) in [0, 1]; transparent areas do not count.

    Returns:
        Shape (H, W), in steps of 1/255, averaged over 8×8 pixels and the three channels.
    """
    difference = (result - evidence) * 255
    if alpha is not None:
        difference = difference * alpha
    squares = difference.square().mean(0)[None, None]
    before = _WINDOW // 2
    squares = F.pad(squares, (before, _WINDOW - 1 - before) * 2, mode="replicate")
    return F.avg_pool2d(squares, _WINDOW, stride=1)[0, 0].sqrt()
