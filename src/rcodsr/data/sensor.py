"""In-camera processing: a Bayer mosaic, demosaicing and sharpening."""

import torch
import torch.nn.functional as F
from torch import Tensor

from rcodsr.data.kernels import gaussian_kernel

# Malvar, He and Cutler (ICASSP 2004), figure 2, times 8: green at red or blue; red or blue at green, with its neighbours in the
# row, then in the column; blue at red and the reverse
_GREEN = ((0, 0, -1, 0, 0), (0, 0, 2, 0, 0), (-1, 2, 4, 2, -1), (0, 0, 2, 0, 0), (0, 0, -1, 0, 0))
_BESIDE = ((0, 0, 0.5, 0, 0), (0, -1, 0, -1, 0), (-1, 4, 5, 4, -1), (0, -1, 0, -1, 0), (0, 0, 0.5, 0, 0))
_ABOVE = tuple(zip(*_BESIDE, strict=True))
_ACROSS = ((0, 0, -1.5, 0, 0), (0, 2, 0, 2, 0), (-1.5, 0, 6, 0, -1.5), (0, 2, 0, 2, 0), (0, 0, -1.5, 0, 0))


def mosaic(x: Tensor, shift: tuple[int, int]) -> Tensor:
    """Sample a picture through a Bayer pattern and demosaic it (Malvar, He and Cutler 2004).

    Per-pixel noise turns into colour blotches, fine stripes get coloured fringes.

    Args:
        x: shape (B, 3, H, W) in [0, 1].
        shift: row and column, 0 or 1, of the first pixel in the pattern red green / green blue.

    Returns:
        Same shape, in [0, 1].
    """
    height, width = x.shape[-2:]
    rows = (torch.arange(height, device=x.device) + shift[0])[:, None] % 2
    columns = (torch.arange(width, device=x.device) + shift[1])[None] % 2
    red, blue = (rows + columns == 0), (rows + columns == 2)
    green = ~(red | blue)
    measured = torch.where(red, x[:, 0], torch.where(blue, x[:, 2], x[:, 1]))[:, None]
    # reflection about the outermost pixel continues the pattern
    padded = F.pad(measured, (2, 2, 2, 2), mode="reflect" if min(height, width) > 2 else "replicate")
    guesses = F.conv2d(padded, x.new_tensor((_GREEN, _BESIDE, _ABOVE, _ACROSS))[:, None] / 8)
    measured, (at_green, beside, above, across) = measured[:, 0], guesses.unbind(1)
    in_red_rows = torch.where(rows == 0, beside, above), torch.where(rows == 0, above, beside)
    planes = (
        torch.where(red, measured, torch.where(blue, across, in_red_rows[0])),
        torch.where(green, measured, at_green),
        torch.where(blue, measured, torch.where(red, across, in_red_rows[1])),
    )
    return torch.stack(planes, 1).clamp(0, 1)


def sharpen(x: Tensor, sigma: float, amount: float) -> Tensor:
    """Unsharp masking: x + amount · (x − blurred x).

    Args:
        x: shape (B, 3, H, W) in [0, 1].
        sigma: standard deviation of the Gaussian, in pixels, at most 1.5.
        amount: strength; 0 changes nothing.

    Returns:
        Same shape, in [0, 1].
    """
    pad = 4
    bell = gaussian_kernel(2 * pad + 1, (sigma, sigma), 0.0).to(x)[None, None]
    padded = F.pad(x, (pad, pad, pad, pad), mode="reflect" if min(x.shape[-2:]) > pad else "replicate")
    blurred = F.conv2d(padded.flatten(0, 1)[:, None], bell).view(x.shape)
    return (x + amount * (x - blurred)).clamp(0, 1)
