"""The metric estimator (MEM): M_L of a picture without ground truth."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcodsr.parts import MetricSpec

_QUANTILES = (0.5, 0.9, 0.99)
"""Quantiles of a channel's amplitude over its entries."""
_BLOCK = 4
"""Side, in latent positions, of the blocks whose energies are ranked."""
_BLOCK_QUANTILES = (0.0, 0.1, 0.5, 0.9)
"""Quantiles of the blocks' energies: the lowest separate noise, which is everywhere, from texture, which is not."""
_LAGS = (1, 2)
"""Autocorrelation lags of a channel, in latent positions."""
_STATISTICS = 2 + len(_QUANTILES) + len(_BLOCK_QUANTILES) + 2 * len(_LAGS)


class MetricEstimator(nn.Module):
    """Regresses M_L, Eq. (6), from z_L and from features of another network.

    The paper feeds "a simple MLP" with z_L and the last layer of a degradation estimator (RCOD_S); where there is none, the
    vision tower's class token replaces it. z_L enters as statistics of each channel, so that any size of picture works: mean,
    spread, quantiles of the amplitude (noise raises the middle, edges the top) and of the energies of small blocks (noise
    raises the lowest), and the correlation of neighbours (near zero for noise, high for blur). Learned latents are also
    pooled to a small grid.

    Args:
        spec: widths.
        latent_channels: channels of z_L.
        bounded: whether the metric is a cosine, in [-1, 1]; otherwise it is a negative distance.
    """

    keeps_float32 = True
    center: Tensor
    scale: Tensor

    def __init__(self, spec: MetricSpec, latent_channels: int, bounded: bool) -> None:
        super().__init__()
        self.pool = spec.pool
        self.bounded = bounded
        wide = latent_channels * (_STATISTICS + spec.pool**2) + spec.features
        self.register_buffer("center", torch.zeros(wide))
        self.register_buffer("scale", torch.ones(wide))
        self.layers = nn.Sequential(nn.Linear(wide, spec.hidden), nn.SiLU(), nn.Linear(spec.hidden, 1))

    def forward(self, z_l: Tensor, features: Tensor) -> Tensor:
        """Estimate M_L of each picture.

        Args:
            z_l: latents of enlarged low-resolution pictures, shape (B, C, h, w).
            features: class token or degradation features, shape (B, F).

        Returns:
            Shape (B,), float32: in [-1, 1] for cosine, at most 0 for distances.
        """
        out: Tensor = self.layers((self._seen(z_l, features) - self.center) / self.scale).squeeze(1)
        return torch.tanh(out) if self.bounded else -F.softplus(out)

    def fit(self, z_l: Tensor, features: Tensor) -> None:
        """Standardise the inputs by their mean and spread over a sample of pictures; arguments as in `forward`."""
        seen = self._seen(z_l, features)
        self.center.copy_(seen.mean(0))
        self.scale.copy_(seen.std(0).clamp(min=1e-2))

    def _seen(self, z_l: Tensor, features: Tensor) -> Tensor:
        z = z_l.float()
        seen = [_statistics(z), features.float()]
        if self.pool:
            seen.append(F.adaptive_avg_pool2d(z, self.pool).flatten(1))
        return torch.cat(seen, 1)


def _statistics(z: Tensor) -> Tensor:
    """Channel statistics of latents (B, C, h, w): (B, 13 C), each of order one."""
    energy = z.square().mean((2, 3)) + 1e-4
    some = z[..., ::2, ::2].abs().flatten(2)  # sorting dominates the cost
    quantiles = some.quantile(z.new_tensor(_QUANTILES), dim=2).add(1e-3).log()
    blocks = F.avg_pool2d(z.square(), min(_BLOCK, *z.shape[2:])).flatten(2)
    levels = 0.5 * blocks.quantile(z.new_tensor(_BLOCK_QUANTILES), dim=2).add(1e-6).log()
    across = [(z[..., lag:] * z[..., :-lag]).sum((2, 3)) / z[0, 0].numel() / energy for lag in _LAGS]
    down = [(z[..., lag:, :] * z[..., :-lag, :]).sum((2, 3)) / z[0, 0].numel() / energy for lag in _LAGS]
    return torch.cat((z.mean((2, 3)), 0.5 * energy.log(), *quantiles, *levels, *across, *down), 1)
