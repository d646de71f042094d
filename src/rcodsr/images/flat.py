"""Where the input leaves nothing to restore: clipped values, constant areas, gradients that are smooth but for their rounding.

A network leaves a few levels of mottling on such ground. The enlarged input is exact there, so it is taken instead. What is
flat is decided on the whole input, so that tiles agree, and fades in within the ground, so that its border does not show.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from rcodsr.images.color import low_pass

_DILATIONS = (1, 2, 4)
_AROUND = sum(_DILATIONS)
"""How far the average around a pixel looks, and the passes of its filter."""
_STEP = 1 / 255
"""Of 8-bit rounding: what a smooth gradient may leave its own average by."""
_SMOOTH, _ROUGH = 0.93 * _STEP, 0.98 * _STEP
"""Distance from the average nearby: rounding alone stays below the first, a single stray pixel reaches the second."""
_CLIPPED = 1 / 512
"""Distance from 0 or 1 that counts as clipped."""
_EVEN, _CONSTANT, _ENDS = (5, 4), (3, 3), (1, 1)
"""Input pixels that each kind keeps from what ends it, and over which it fades to both sides of that."""


def hold_flat(picture: Tensor, reference: Tensor, lr: Tensor) -> Tensor:
    """Give flat ground the values of the enlarged input, in place.

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
    """How far each pixel of a picture belongs to flat ground.

    Even is where no pixel leaves the average around it by more than rounding does. An area of one value is trusted from nearer
    to its border, one of a value that is clipped in all channels from nearer still.

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
    """The average around each pixel, (h, w) → the same shape; beyond the edges a gradient goes on as it began."""
    for axis in (0, 1):
        last = plane.shape[axis] - 1
        steps = torch.arange(1, _AROUND + 1, device=plane.device).clamp(max=last)
        before = 2 * plane.narrow(axis, 0, 1) - plane.index_select(axis, steps.flip(0))
        after = 2 * plane.narrow(axis, last, 1) - plane.index_select(axis, last - steps)
        plane = torch.cat((before, plane, after), axis)
    return low_pass(plane, _DILATIONS)[_AROUND:-_AROUND, _AROUND:-_AROUND]


def _inside(share: Tensor, reach: int, fade: int) -> Tensor:
    """The least of the share within `reach` pixels, averaged over `fade` pixels to each side."""
    least = -_most(-share[None], reach)
    return _mean(least, fade)[0].clamp(0, 1)


def _most(planes: Tensor, reach: int) -> Tensor:
    """The largest value within `reach` pixels, (C, h, w) → the same shape."""
    side = 2 * reach + 1
    rows = F.max_pool2d(planes[None], (side, 1), 1, (reach, 0))
    return F.max_pool2d(rows, (1, side), 1, (0, reach))[0]


def _mean(planes: Tensor, reach: int) -> Tensor:
    """The mean within `reach` pixels, edges repeated, (C, h, w) → the same shape."""
    side = 2 * reach + 1
    padded = F.pad(planes[None], (reach,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (side, 1), 1), (1, side), 1)[0]
