"""Colour correction of the assembled picture against the enlarged input."""

import torch
from torch import Tensor
from torch.nn import functional as F

from rcodsr.config import ColorFix

_DILATIONS = (1, 2, 4, 8, 16)


def match(picture: Tensor, reference: Tensor, kind: ColorFix) -> Tensor:
    """Give a picture the colours of its reference, in place.

    Args:
        picture: restored picture, shape (3, H, W), nominally in [0, 1]; overwritten.
        reference: the enlarged input, same shape.
        kind: "wavelet" replaces everything coarser than about 30 pixels by the reference's, "adain" matches each
            channel's mean and standard deviation, "none" leaves the picture alone.

    Returns:
        The picture in [0, 1].
    """
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


def _local_maximum(plane: Tensor, reach: int) -> Tensor:
    side = 2 * reach + 1
    rows = F.max_pool2d(plane[None, None], (side, 1), 1, (reach, 0))
    return F.max_pool2d(rows, (1, side), 1, (0, reach))[0, 0]


def bleed(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Spread the visible colours under the transparent pixels, whose own colour is arbitrary (often black).

    Without this, enlarging mixes the arbitrary colour into visible edges: dark fringes around every logo.

    Args:
        rgb: shape (3, h, w) in [0, 1].
        alpha: shape (1, h, w) in [0, 1].

    Returns:
        Shape (3, h, w): unchanged where alpha > 0, elsewhere an average of the nearest visible pixels.
    """
    known = (alpha > 0).float()
    return _pull_push((rgb * known)[None], known[None])[0]


def _pull_push(weighted: Tensor, weight: Tensor) -> Tensor:
    """Where nothing is known, take the average of what is known at half the resolution, and so on (Gortler et al. 1996)."""
    known = weight > 0
    here = weighted / weight.clamp(min=1e-6)
    if known.all() or max(weight.shape[-2:]) == 1:
        return here
    coarse = _pull_push(*(F.avg_pool2d(x, 2, ceil_mode=True) for x in (weighted, weight)))
    return torch.where(known, here, F.interpolate(coarse, weight.shape[-2:], mode="bilinear"))


def low_pass(plane: Tensor) -> Tensor:
    """Five à-trous passes of the binomial kernel (1, 2, 1)/4 along both axes, edges repeated.

    The same band that StableSR's wavelet colour fix calls low frequency, computed separably.

    Args:
        plane: shape (H, W).
    """
    for dilation in _DILATIONS:
        for axis in (0, 1):
            plane = _binomial(plane, dilation, axis)
    return plane


def _binomial(plane: Tensor, dilation: int, axis: int) -> Tensor:
    length = plane.shape[axis]
    pad = (0, 0, dilation, dilation) if axis == 0 else (dilation, dilation)
    padded = F.pad(plane[None, None], pad if axis == 0 else (*pad, 0, 0), mode="replicate")[0, 0]
    outer = padded.narrow(axis, 0, length) + padded.narrow(axis, 2 * dilation, length)
    return outer.mul_(0.25).add_(plane, alpha=0.5)
