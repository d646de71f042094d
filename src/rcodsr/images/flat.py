"""Regions without detail to restore: clipped values, constant areas, and gradients that are smooth except for rounding.

A network leaves a few levels of mottling there. The enlarged input is exact, so it is used instead. Flat regions are computed
from the whole input, so that tiles agree, and fade in from their inside, so that their border stays invisible.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from rcodsr.images.color import low_pass

_DILATIONS = (1, 2, 4)
_AROUND = sum(_DILATIONS)
"""Radius of the average around a pixel, and dilations of its filter passes."""
_STEP = 1 / 255
"""Step of 8-bit rounding, the most by which a smooth gradient deviates from its own average."""
_SMOOTH, _ROUGH = 0.93 * _STEP, 0.98 * _STEP
"""Deviations from the local average: rounding alone stays below the first, a single stray pixel reaches the second."""
_CLIPPED = 1 / 512
"""Distance from 0 or 1 that counts as clipped."""
_EVEN, _CONSTANT, _ENDS = (5, 4), (3, 3), (1, 1)
"""Per kind, in input pixels: distance to the region's end, and width of the fade to both sides of that distance."""


def hold_flat(picture: Tensor, reference: Tensor, lr: Tensor) -> Tensor:
    """Copy flat regions from the enlarged input, in place.

    Args:
        picture: restored picture, shape (3, H, W) in [0, 1]; overwritten.
        reference: the enlarged input, same shape.
        lr: the input, shape (3, h, w) in [0, 1].
    """
    share = F.interpolate(flatness(lr)[None, None], picture.shape[1:], mode="bilinear")[0, 0]
    for channel, source in zip(picture, reference, strict=True):
        channel.lerp_(source, share)
    return picture


def flatness(lr: Tensor) -> Tensor:
    """Degree to which each pixel of a picture belongs to a flat region.

    A region is even if no pixel deviates from its local average by more than rounding. A region of one value is used closer to
    its border, and a region clipped in all channels closer still.

    Args:
        lr: shape (3, h, w) in [0, 1].

    Returns:
        Shape (h, w) in [0, 1]: 1 for pixels whose surroundings are even for 16 pixels in every direction, constant for 8 or
        clipped for 3; 0 beside anything else.
    """
    off = torch.stack([(plane - _average(plane)).abs() for plane in lr]).amax(0)
    even = ((_ROUGH - off) / (_ROUGH - _SMOOTH)).clamp(0, 1)
    constant = (_most(lr, 1) == -_most(-lr, 1)).all(0)
    clipped = constant & ((lr <= _CLIPPED) | (lr >= 1 - _CLIPPED)).all(0)
    kinds = ((even, _EVEN), (constant.float(), _CONSTANT), (clipped.float(), _ENDS))
    return torch.stack([_inside(share, *reaches) for share, reaches in kinds]).amax(0)


def _average(plane: Tensor) -> Tensor:
    """Local average, (h, w) → the same shape. Gradients are extrapolated beyond the edges."""
    for axis in (0, 1):
        last = plane.shape[axis] - 1
        steps = torch.arange(1, _AROUND + 1, device=plane.device).clamp(max=last)
        before = 2 * plane.narrow(axis, 0, 1) - plane.index_select(axis, steps.flip(0))
        after = 2 * plane.narrow(axis, last, 1) - plane.index_select(axis, last - steps)
        plane = torch.cat((before, plane, after), axis)
    return low_pass(plane, _DILATIONS)[_AROUND:-_AROUND, _AROUND:-_AROUND]


def _inside(share: Tensor, reach: int, fade: int) -> Tensor:
    """Minimum of the share within `reach` pixels, averaged over `fade` pixels to each side."""
    least = -_most(-share[None], reach)
    return _mean(least, fade)[0].clamp(0, 1)


def _most(planes: Tensor, reach: int) -> Tensor:
    """Maximum within `reach` pixels, (C, h, w) → the same shape."""
    side = 2 * reach + 1
    rows = F.max_pool2d(planes[None], (side, 1), 1, (reach, 0))
    return F.max_pool2d(rows, (1, side), 1, (0, reach))[0]


def _mean(planes: Tensor, reach: int) -> Tensor:
    """Mean within `reach` pixels with replicated edges, (C, h, w) → the same shape."""
    side = 2 * reach + 1
    padded = F.pad(planes[None], (reach,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (side, 1), 1), (1, side), 1)[0]
