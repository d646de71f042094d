"""Estimates the degradation of a picture and its parts: runs the metric estimator over windows of its training size."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rcodsr.images.resize import pad_to_multiple
from rcodsr.models.one_step import OneStepSR

_MOST = 16
"""Maximum number of windows along one axis; larger pictures are sampled evenly."""
_BATCH = 16
"""Windows per batch."""


@dataclass(frozen=True)
class DegradationMap:
    """M̂_L of evenly spaced windows of an enlarged picture."""

    values: Tensor
    """Shape (rows, columns), float32, on the CPU."""
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    height: int
    """Height of a window, in pixels."""
    width: int

    @property
    def mean(self) -> float:
        """M̂_L of the picture."""
        return float(self.values.mean())

    def inside(self, rows: slice, columns: slice) -> float:
        """M̂_L of a tile: the mean of the windows, weighted by their overlap with it."""
        down = torch.tensor([_overlap(rows, top, self.height) for top in self.tops])
        across = torch.tensor([_overlap(columns, left, self.width) for left in self.lefts])
        weight = (down[:, None] * across).float()
        return float((self.values * weight).sum() / weight.sum()) if weight.any() else self.mean


@dataclass(frozen=True)
class Estimated:
    """Estimated degradation of a picture, and the timestep and realism that follow from it."""

    similarity: float
    """M̂_L; larger means cleaner, at most 1 for the cosine."""
    timestep: int
    """Timestep by Eq. (5)."""
    realism: float
    level: str
    """Name of the nearest level: fidelity, neutral, realism."""


def measure(model: OneStepSR, enlarged: Tensor) -> DegradationMap:
    """Estimate M_L over a picture, without running the U-Net or the decoder.

    Args:
        model: with a metric estimator.
        enlarged: the enlarged low-resolution picture, shape (1, 3, H, W) in [0, 1], on any device.
    """
    return _over_windows(model, (enlarged,), lambda x_l: model.estimate(x_l))


def measure_true(model: OneStepSR, enlarged: Tensor, truth: Tensor) -> DegradationMap:
    """Compute M_L, Eq. (6), over the same windows.

    Args:
        model: with a metric estimator, which defines the window.
        enlarged: the enlarged low-resolution picture, shape (1, 3, H, W) in [0, 1].
        truth: its ground truth, same shape.
    """
    lowest = model.spec.grouping.metric_min
    return _over_windows(model, (enlarged, truth), lambda x_l, x_h: model.similarity(x_l, x_h).nan_to_num(lowest))


def _over_windows(model: OneStepSR, pictures: tuple[Tensor, ...], judge: Callable[..., Tensor]) -> DegradationMap:
    """Evaluate the same windows of pictures of one size, a batch at a time."""
    spec = model.spec.metric_estimator
    assert spec is not None
    padded = [pad_to_multiple(picture, model.spec.autoencoder.factor)[0] for picture in pictures]
    sides = padded[0].shape[1:]
    height, width = (min(spec.window, side) for side in sides)
    tops, lefts = (_starts(side, part) for side, part in zip(sides, (height, width), strict=True))
    places = [(slice(top, top + height), slice(left, left + width)) for top in tops for left in lefts]
    values = []
    with torch.no_grad():
        for i in range(0, len(places), _BATCH):
            some = places[i : i + _BATCH]
            windows = (torch.stack([picture[:, rows, columns] for rows, columns in some]) for picture in padded)
            values.append(judge(*(each.to(model.device) for each in windows)).cpu())
    return DegradationMap(torch.cat(values).view(len(tops), len(lefts)), tops, lefts, height, width)


def _starts(side: int, part: int) -> tuple[int, ...]:
    """Evenly spaced starts of windows, on multiples of 8 pixels, so that they align with the latents' grid."""
    count = min(_MOST, math.ceil(side / part))
    if count == 1:
        return (0,)
    return tuple(round(i * (side - part) / (count - 1)) // 8 * 8 for i in range(count))


def _overlap(span: slice, start: int, length: int) -> int:
    return max(0, min(span.stop, start + length) - max(span.start, start))
