"""Where the input leaves nothing to restore: clipped values, constant areas, gradients that are smooth to within their rounding.

A network leaves a few levels of mottling on such ground. The enlarged input is exact there, so it is taken instead. All is decided
on the whole input, before tiles, and fades out well inside the ground, so that neither tiles nor the border of an area show.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from rcodsr.images.color import low_pass

_STEP = 1 / 255
"""Of 8-bit rounding: what a smooth gradient may leave its own average by."""
_SMOOTH, _ROUGH = 0.85 * _STEP, 0.98 * _STEP
"""Distance from the average nearby: rounding alone stays below the first, a single stray pixel reaches the second."""
_CLIPPED = 1 / 512
"""Distance from 0 or 1 that counts as clipped."""
_EVEN_REACH, _CLIPPED_REACH = (8, 5), (1, 1)
"""Input pixels that an area keeps from what ends it, and over which it fades in to both sides of that."""


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

    1 for pixels that are clipped in all channels, alike, for 3 pixels in every direction, and for those whose surroundings are even
    for 14: no pixel there leaves the average around it by more than rounding does. 0 beside anything else.

    Args:
        lr: shape (3, h, w) in [0, 1].

    Returns:
        Shape (h, w) in [0, 1].
    """
    off = torch.stack([(plane - low_pass(plane, (1, 2, 4))).abs() for plane in lr]).amax(0)
    even = ((_ROUGH - off) / (_ROUGH - _SMOOTH)).clamp(0, 1)
    clipped = ((lr <= _CLIPPED) | (lr >= 1 - _CLIPPED)).all(0)
    alike = (_most(lr, 1) == -_most(-lr, 1)).all(0)
    return torch.maximum(_inside(even, *_EVEN_REACH), _inside((clipped & alike).to(lr), *_CLIPPED_REACH))


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
