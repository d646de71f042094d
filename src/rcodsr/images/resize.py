"""The only bicubic resize, used in training, inference and scoring, and padding to the network's grid."""

import torch
import torch.nn.functional as F
from torch import Tensor

from rcodsr.images.grid import padded_side


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Antialiased bicubic resize with Pillow's kernel (a = −0.5).

    torch's plain bicubic uses a = −0.75 and no antialiasing. A network trained with one and run with the other sees different
    edges. This function is the only resize of pictures in the package, except in `engine.as_published`.

    Args:
        x: shape (B, C, H, W), float32 in [0, 1].
        height: height of the result in pixels.
        width: width of the result in pixels.

    Returns:
        Shape (B, C, height, width) in [0, 1].
    """
    if x.shape[-2:] == (height, width):
        return x
    return F.interpolate(x, (height, width), mode="bicubic", antialias=True).clamp_(0, 1)


def upsample(x: Tensor, scale: int) -> Tensor:
    """Enlarge low-resolution pictures by an integer factor: (B, 3, h, w) → (B, 3, scale·h, scale·w), in [0, 1]."""
    return resize(x, x.shape[-2] * scale, x.shape[-1] * scale)


def pad_to_multiple(x: Tensor, multiple: int, least: int = 1) -> Tensor:
    """Pad right and bottom so that both sides are multiples of `multiple` and at least `least`; see `mirrored`.

    Args:
        x: shape (B, C, H, W).
        multiple: pixels that each side is a multiple of.
        least: smallest side of the result, in pixels.

    Returns:
        Shape (B, C, H', W') with H' ≥ H, W' ≥ W. The top left part is x.
    """
    height, width = (padded_side(side, multiple, least) for side in x.shape[-2:])
    return x if x.shape[-2:] == (height, width) else mirrored(x, height, width)


def mirrored(x: Tensor, height: int, width: int) -> Tensor:
    """Extend pictures to the right and bottom: reflected as far as possible, then replicated, so that 1×1 works too.

    Args:
        x: shape (B, C, H, W).
        height: height of the result, at least H.
        width: width of the result, at least W.
    """
    for dim, length in ((2, height), (3, width)):
        places = torch.arange(length, device=x.device)
        x = x.index_select(dim, torch.minimum(places, 2 * (x.shape[dim] - 1) - places).clamp(min=0))
    return x
