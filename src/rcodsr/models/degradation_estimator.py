"""How degraded is a picture? The two-branch estimator of S3Diff, which took it from MM-RealSR; frozen in RCOD_S."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcodsr.variants import ModulationSpec


class _Residual(nn.Module):
    """x + conv(ReLU(conv(x))), without normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.relu(self.conv1(x)))
        return out


def _body(spec: ModulationSpec) -> nn.Sequential:
    (narrow, wide), (before, after) = spec.estimator_channels, spec.estimator_blocks
    down = nn.Conv2d(narrow, wide, 3, stride=2, padding=1)
    return nn.Sequential(*(_Residual(narrow) for _ in range(before)), down, *(_Residual(wide) for _ in range(after)))


class DegradationEstimator(nn.Module):
    """Two independent branches, one score each (its authors say: blur and noise).

    Parameter names are those of the published `de_net.pth`: 2,351,362 parameters in 80 tensors at the default spec.

    Args:
        spec: widths and depths.
    """

    BRANCHES = 2

    def __init__(self, spec: ModulationSpec) -> None:
        super().__init__()
        branches = range(self.BRANCHES)
        narrow, wide = spec.estimator_channels
        hidden = spec.estimator_hidden
        self.conv_first = nn.ModuleList(nn.Conv2d(3, narrow, 3, padding=1) for _ in branches)
        self.body = nn.ModuleList(_body(spec) for _ in branches)
        self.fc_degree = nn.ModuleList(
            nn.Sequential(nn.Linear(wide, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid()) for _ in branches
        )

    def forward(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and features.

        Args:
            lr: low-resolution pictures at their own size, shape (B, 3, h, w), RGB in [0, 1].

        Returns:
            Scores (B, 2) in (0, 1), and the pooled features they were made from, (B, 256): 128 of each branch.
        """
        pairs = zip(self.conv_first, self.body, strict=True)
        pooled = [body(first(lr)).mean((2, 3)) for first, body in pairs]
        scores = [head(features) for head, features in zip(self.fc_degree, pooled, strict=True)]
        return torch.cat(scores, 1), torch.cat(pooled, 1)
