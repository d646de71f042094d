"""Colour correction of the assembled picture against the enlarged input."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from rcodsr.options import ColorFix

_DILATIONS = (1, 2, 4, 8, 16)
_ROWS = 256
"""Rows of a picture processed at a time."""


def match(picture: Tensor, reference: Tensor, kind: ColorFix) -> Tensor:
    """Match a picture's colours to a reference, in place.

    Pixels outside [0, 1] are clamped first, as StableSR, OSEDiff and S3Diff do: their excess is not part of the picture.

    Args:
        picture: restored picture, shape (3, H, W), nominally in [0, 1]; overwritten.
        reference: the enlarged input, same shape.
        kind: "wavelet" takes everything coarser than about 30 pixels from the reference, "adain" matches each channel's
            mean and standard deviation, "none" changes nothing.

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
    """Limit every pixel to the range of the enlarged input nearby, in place. Edges may get steeper, but not gain halos.

    Args:
        picture: shape (3, H, W); overwritten.
        reference: the enlarged input, same shape.
        reach: distance that the neighbourhood extends to each side, in pixels. One input pixel at scale 4.
    """
    for channel, source in zip(picture, reference, strict=True):
        channel.clamp_(-_local_maximum(-source, reach), _local_maximum(source, reach))
    return picture


def limit_chroma(picture: Tensor, lr: Tensor, reach: int = 1, slack: float = 2.0) -> Tensor:
    """Limit the spread of a pixel's channels to that of the input nearby, in place. A grey input stays grey.

    Args:
        picture: restored picture, shape (3, H, W) in [0, 1]; overwritten.
        lr: the input, shape (3, h, w) in [0, 1].
        reach: distance that the neighbourhood extends to each side, in input pixels.
        slack: allowed multiple of the input's spread, because restored colours are stronger than blurred ones.
    """
    spread = _local_maximum(lr.amax(0) - lr.amin(0), reach).mul_(slack)
    allowed = F.interpolate(spread[None, None], picture.shape[1:], mode="bilinear")[0, 0]
    for rows, most in _strips(picture, allowed):
        red, green, blue = rows
        grey = 0.299 * red + 0.587 * green + 0.114 * blue  # luma of BT.601, which is preserved
        share = most.div_((rows.amax(0) - rows.amin(0)).clamp_(min=1e-6)).clamp_(max=1)
        rows.sub_(grey).mul_(share).add_(grey).clamp_(0, 1)
    return picture


def _strips(picture: Tensor, plane: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Corresponding rows of both in strips. All at once in an exported graph, whose loops cannot depend on the size."""
    if torch.compiler.is_exporting():
        return [(picture, plane)]
    return zip(picture.split(_ROWS, 1), plane.split(_ROWS), strict=True)


def _local_maximum(plane: Tensor, reach: int) -> Tensor:
    side = 2 * reach + 1
    rows = F.max_pool2d(plane[None, None], (side, 1), 1, (reach, 0))
    return F.max_pool2d(rows, (1, side), 1, (0, reach))[0, 0]


def bleed(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Spread colours from visible to transparent pixels: a pixel less than half as opaque as its neighbours takes their colour.

    The fainter the pixel, the more it takes. Colours of transparent pixels are arbitrary (often black), and a remnant of the
    old background may cling to the rim of a cut-out. Without this step, enlarging draws both as fringes around every logo.

    Args:
        rgb: shape (3, h, w) in [0, 1].
        alpha: shape (1, h, w) in [0, 1].

    Returns:
        Shape (3, h, w): unchanged where alpha is at least half the maximum within six pixels, an average of visible pixels
        nearby where it is 0.
    """
    return _pull_push(rgb[None], alpha[None], 6)[0]


def _pull_push(rgb: Tensor, alpha: Tensor, reach: int = 2) -> Tensor:
    """Fill pixels that are faint beside others within reach from half the resolution, recursively (Gortler et al. 1996)."""
    own = (2 * alpha / F.max_pool2d(alpha, 2 * reach + 1, 1, reach).clamp(min=1e-6)).clamp(max=1)
    if (own >= 1).all() or max(alpha.shape[-2:]) == 1:
        return rgb
    mean = F.avg_pool2d(rgb * alpha, 2, ceil_mode=True) / F.avg_pool2d(alpha, 2, ceil_mode=True).clamp(min=1e-6)
    coarse = _pull_push(mean, F.max_pool2d(alpha, 2, ceil_mode=True))
    return F.interpolate(coarse, alpha.shape[-2:], mode="bilinear").lerp(rgb, own)


def low_pass(plane: Tensor, dilations: tuple[int, ...] = _DILATIONS) -> Tensor:
    """À-trous passes of the binomial kernel (1, 2, 1)/4 along both axes, with replicated edges.

    Five passes give the band that StableSR's wavelet colour fix calls low frequency, computed separably.

    Args:
        plane: shape (H, W).
        dilations: dilation of each pass, in pixels.
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
