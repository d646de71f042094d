"""The one bicubic resize, used by training, inference and scoring alike, and padding to what a network needs."""

import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Antialiased bicubic resize with Pillow's kernel (a = −0.5).

    torch's plain bicubic uses a = −0.75 and no antialiasing; a network trained on one and run on the other sees different
    edges. This function is the only resize of pictures in the package.

    Args:
        x: shape (B, C, H, W), float32 in [0, 1].
        height: of the result, in pixels.
        width: of the result, in pixels.

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
    """Pad right and bottom so that both sides are multiples of `multiple` and not below `least`.

    Reflects as far as the picture reaches, then repeats the edge, so every size from 1×1 works.

    Args:
        x: shape (B, C, H, W).
        multiple: in pixels.
        least: smallest side of the result, in pixels.

    Returns:
        Shape (B, C, H', W') with H' ≥ H, W' ≥ W; the top left part is x.
    """
    height, width = x.shape[-2:]
    down, right = (-side % multiple if side >= least else -least % multiple + least - side for side in (height, width))
    if not (down or right):
        return x
    mirrored = (0, min(right, width - 1), 0, min(down, height - 1))
    x = F.pad(x, mirrored, mode="reflect")
    return F.pad(x, (0, right - mirrored[1], 0, down - mirrored[3]), mode="replicate")
