"""DISTS: distance of structure and texture, from statistics of VGG16's feature maps."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcodsr.models.lpips import LpipsVgg, normalised

_CHANNELS = (3, *LpipsVgg.WIDTHS)
_C = 1e-6
"""Keeps ratios of two small statistics near 1."""


class Dists(nn.Module):
    """Deep image structure and texture similarity (Ding et al. 2020), as a distance.

    Compares each channel of the picture and of VGG16's maps by its mean (texture) and its covariance (structure).
    Frozen; gradients flow only to the pictures.

    Args:
        vgg: provides the features and may be shared with LPIPS. Its own file is that of LPIPS-VGG.
    """

    SMALLEST = LpipsVgg.SMALLEST
    """Minimum side of a picture, in pixels."""

    def __init__(self, vgg: LpipsVgg | None = None) -> None:
        super().__init__()
        self.vgg = vgg or LpipsVgg()
        start = {name: torch.ones(sum(_CHANNELS)) for name in ("alpha", "beta")}
        self.shares = nn.ParameterDict(start)
        """Weights of the means and covariances; the DISTS file contains these two."""
        self.eval().requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of two pictures.

        Args:
            a: shape (B, 3, H, W) in [0, 1], sides of at least `SMALLEST`.
            b: same shape.

        Returns:
            Shape (B,), float32: 0 for equal pictures, 1 for pictures with nothing in common.
        """
        alpha, beta = (self.shares[name].split(_CHANNELS) for name in ("alpha", "beta"))
        similarity = torch.zeros(len(a), device=a.device)
        for f, g, texture, structure in zip(self._maps(a), self._maps(b), alpha, beta, strict=True):
            f, g = f.float(), g.float()
            mean_f, mean_g = f.mean((2, 3)), g.mean((2, 3))
            f, g = f - mean_f[..., None, None], g - mean_g[..., None, None]
            spread = f.square().mean((2, 3)) + g.square().mean((2, 3))
            means = (2 * mean_f * mean_g + _C) / (mean_f.square() + mean_g.square() + _C)
            covariances = (2 * (f * g).mean((2, 3)) + _C) / (spread + _C)
            similarity = similarity + (texture * means + structure * covariances).sum(1)
        return 1 - similarity / (self.shares["alpha"].sum() + self.shares["beta"].sum())

    def _maps(self, x: Tensor) -> list[Tensor]:
        """The picture in [0, 1] and VGG16's maps of it, with L2 pooling between the blocks."""
        maps = [x]
        x = normalised(x)
        for i in range(len(LpipsVgg.WIDTHS)):
            x = self.vgg.level(i, x, _l2_pool)
            maps.append(x)
        return maps


def _l2_pool(x: Tensor) -> Tensor:
    """Root mean square under a 3×3 Hanning window, at every second pixel; unlike max pooling, it does not alias."""
    row = x.new_tensor((0.25, 0.5, 0.25))
    window = torch.outer(row, row).expand(x.shape[1], 1, 3, 3)
    power = F.conv2d(x.square(), window, stride=2, padding=1, groups=x.shape[1])
    # the small number keeps the gradient finite where the map is zero; it vanishes in float16
    return (power.float() + 1e-12).sqrt()
