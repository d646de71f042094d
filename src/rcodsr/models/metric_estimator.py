"""The metric estimator (MEM): M_L of a picture whose ground truth nobody has."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcodsr.variants import MetricSpec


class MetricEstimator(nn.Module):
    """Regresses M_L, Eq. (6), from z_L and from what another network sees in the picture.

    The paper feeds "a simple MLP" with z_L and the last layer of a degradation estimator (RCOD_S); where there is none, the
    vision tower's class token takes its place. z_L enters by each channel's mean and spread, and pooled to a small grid, so
    that any size of picture works.

    Args:
        spec: widths.
        latent_channels: of z_L.
        bounded: whether the metric is a cosine, in [-1, 1]; otherwise it is a negative distance.
    """

    keeps_float32 = True

    def __init__(self, spec: MetricSpec, latent_channels: int, bounded: bool) -> None:
        super().__init__()
        self.pool = spec.pool
        self.bounded = bounded
        wide = latent_channels * (2 + spec.pool**2) + spec.features
        self.layers = nn.Sequential(nn.Linear(wide, spec.hidden), nn.SiLU(), nn.Linear(spec.hidden, 1))

    def forward(self, z_l: Tensor, features: Tensor) -> Tensor:
        """M̂_L of each picture.

        Args:
            z_l: latents of enlarged low-resolution pictures, shape (B, C, h, w).
            features: class token or degradation features, shape (B, F).

        Returns:
            Shape (B,), float32: in [-1, 1] for cosine, at most 0 for distances.
        """
        z = z_l.float()
        spread = z.std((2, 3)).clamp(min=1e-4).log()
        seen = [z.mean((2, 3)), spread, features.float()]
        if self.pool:
            seen.append(F.adaptive_avg_pool2d(z, self.pool).flatten(1))
        out: Tensor = self.layers(torch.cat(seen, 1)).squeeze(1)
        return torch.tanh(out) if self.bounded else -F.softplus(out)
