"""Colour correction of the assembled picture against the enlarged input."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from rcodsr.options import ColorFix

_DILATIONS = (1, 2, 4, 8, 16)
_ROWS = 256
"""Of a picture, worked on at a time."""


def match(picture: Tensor, reference: Tensor, kind: ColorFix) -> Tensor:
    """Give a picture the colours of its reference, in place.

    Pixels outside [0, 1] are clamped first, as StableSR, OSEDiff and S3Diff do: their excess is not part of the picture.

    Args:
        picture: restored picture, shape (3, H, W), nominally in [0, 1]; overwritten.
        reference: the enlarged input, same shape.
        kind: "wavelet" replaces everything coarser than about 30 pixels by the reference's, "adain" matches each
            channel's mean and standard deviation, "none" leaves the picture alone.

    Returns:
        The picture in [0, 1].
    """
    picture.clamp_(0, 1)
    for channel, target in zip(picture, reference, strict=True):
        if kind == "wavelet":
            # the filter is linear: low(reference) − low(picture) in one pass
            channel.add_(low_pass(target - channel))
        elif kind == "adain":
            scale = (target.var() + 1e-5).sqrt() / (channel.var() + 1e-5).sqrt() if channel.numel() > 1 else 1.0
            channel.sub_(channel.mean()).mul_(scale).add_(target.mean())
    return picture.clamp_(0, 1)


def limit_overshoot(picture: Tensor, reference: Tensor, reach: int = 4) -> Tensor:
    """Keep every pixel within the range of the enlarged input nearby, in place: edges get steeper, but no halo beside them.

    Args:
        picture: shape (3, H, W); overwritten.
        reference: the enlarged input, same shape.
        reach: how far the neighbourhood extends to each side, in pixels; one input pixel at scale 4.
    """
    for channel, source in zip(picture, reference, strict=True):
        channel.clamp_(-_local_maximum(-source, reach), _local_maximum(source, reach))
    return picture


def limit_chroma(picture: Tensor, lr: Tensor, reach: int = 1, slack: float = 2.0) -> Tensor:
    """Keep the distance between a pixel's channels within what the input has nearby, in place: where it has none, grey.

    Args:
        picture: restored picture, shape (3, H, W) in [0, 1]; overwritten.
        lr: the input, shape (3, h, w) in [0, 1].
        reach: how far the neighbourhood extends to each side, in input pixels.
        slack: how many times the input's distance is allowed, since restored colours are stronger than blurred ones.
    """
    spread = _local_maximum(lr.amax(0) - lr.amin(0), reach).mul_(slack)
    allowed = F.interpolate(spread[None, None], picture.shape[1:], mode="bilinear")[0, 0]
    for rows, most in _strips(picture, allowed):
        red, green, blue = rows
        grey = 0.299 * red + 0.587 * green + 0.114 * blue  # luma of BT.601, which stays as it is
        share = most.div_((rows.amax(0) - rows.amin(0)).clamp_(min=1e-6)).clamp_(max=1)
        rows.sub_(grey).mul_(share).add_(grey).clamp_(0, 1)
    return picture


def _strips(picture: Tensor, plane: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Some rows of both at a time; all at once in an exported graph, which has no loop whose length follows the size."""
    if torch.compiler.is_exporting():
        return [(picture, plane)]
    return zip(picture.split(_ROWS, 1), plane.split(_ROWS), strict=True)


def _local_maximum(plane: Tensor, reach: int) -> Tensor:
    side = 2 * reach + 1
    rows = F.max_pool2d(plane[None, None], (side, 1), 1, (reach, 0))
    return F.max_pool2d(rows, (1, side), 1, (0, reach))[0, 0]


def bleed(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Weigh colours by alpha: a pixel less than half as visible as its neighbours takes of their colour, the fainter the more.

    What stands under transparent pixels is arbitrary (often black), and a faint rest of the old background clings to the rim
    of a cut-out. Without this, enlarging mixes both into visible edges: fringes around every logo.

    Args:
        rgb: shape (3, h, w) in [0, 1].
        alpha: shape (1, h, w) in [0, 1].

    Returns:
        Shape (3, h, w): unchanged where alpha is at least half the largest within six pixels, an average of visible pixels
        nearby where it is 0.
    """
    return _pull_push(rgb[None], alpha[None], 6)[0]


def _pull_push(rgb: Tensor, alpha: Tensor, reach: int = 2) -> Tensor:
    """Where a pixel is faint beside others within reach, take half the resolution, and so on (Gortler et al. 1996)."""
    own = (2 * alpha / F.max_pool2d(alpha, 2 * reach + 1, 1, reach).clamp(min=1e-6)).clamp(max=1)
    if (own >= 1).all() or max(alpha.shape[-2:]) == 1:
        return rgb
    mean = F.avg_pool2d(rgb * alpha, 2, ceil_mode=True) / F.avg_pool2d(alpha, 2, ceil_mode=True).clamp(min=1e-6)
    coarse = _pull_push(mean, F.max_pool2d(alpha, 2, ceil_mode=True))
    return F.interpolate(coarse, alpha.shape[-2:], mode="bilinear").lerp(rgb, own)


def low_pass(plane: Tensor, dilations: tuple[int, ...] = _DILATIONS) -> Tensor:
    """À-trous passes of the binomial kernel (1, 2, 1)/4 along both axes, edges repeated.

    Five passes give the band that StableSR's wavelet colour fix calls low frequency, computed separably.

    Args:
        plane: shape (H, W).
        dilations: of the passes, in pixels.
    """
    for dilation in dilations:
        for axis in (0, 1):
            plane = _binomial(plane, dilation, axis)
    return plane


def _binomial(plane: Tensor, dilation: int, axis: int) -> Tensor:
    length = plane.shape[axis]
    pad = (0, 0, dilation, dilation) if axis == 0 else (dilation, dilation)
    padded = F.pad(plane[None, None], pad if axis == 0 else (*pad, 0, 0), mode="replicate")[0, 0]
    outer = padded.narrow(axis, 0, length) + padded.narrow(axis, 2 * dilation, length)
    return outer.mul_(0.25).add_(plane, alpha=0.5)
