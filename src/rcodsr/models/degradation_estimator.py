"""The two-branch degradation estimator of S3Diff, originally from MM-RealSR; frozen in RCOD_S."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcodsr.parts import ModulationSpec


class _Residual(nn.Module):
    """x + conv(ReLU(conv(x))), without normalisation: (B, C, h, w) → the same."""

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
    """Two independent branches with one score each (blur and noise, according to its authors).

    Parameter names are those of the published `de_net.pth`: 2,351,362 parameters in 80 tensors at the default spec.

    Args:
        spec: widths and depths.
    """

    BRANCHES = 2
    STRIP = 256
    """Rows processed at once: at 64 channels, a large picture does not fit in memory."""

    def __init__(self, spec: ModulationSpec) -> None:
        super().__init__()
        branches = range(self.BRANCHES)
        before, after = spec.estimator_blocks
        self.halo = 2 * (2 + before + 2 * after)  # at least the receptive radius, and even, like the stride
        narrow, wide = spec.estimator_channels
        hidden = spec.estimator_hidden
        self.conv_first = nn.ModuleList(nn.Conv2d(3, narrow, 3, padding=1) for _ in branches)
        self.body = nn.ModuleList(_body(spec) for _ in branches)
        self.fc_degree = nn.ModuleList(
            nn.Sequential(nn.Linear(wide, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid()) for _ in branches
        )

    def forward(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores and features.

        Args:
            lr: low-resolution pictures at their own size, shape (B, 3, h, w), RGB in [0, 1].

        Returns:
            Scores (B, 2) in (0, 1), and the pooled features behind them, (B, 256): 128 per branch.
        """
        pooled = [self._pooled(i, lr) for i in range(self.BRANCHES)]
        scores = [head(features) for head, features in zip(self.fc_degree, pooled, strict=True)]
        return torch.cat(scores, 1), torch.cat(pooled, 1)

    def _pooled(self, branch: int, lr: Tensor) -> Tensor:
        """Mean features of a branch over the whole picture, (B, 128), computed in strips without seams."""
        height, total, count = lr.shape[2], lr.new_zeros(()), 0
        for top in range(0, height, self.STRIP):
            start, end = max(0, top - self.halo), min(height, top + self.STRIP)
            features = self.body[branch](self.conv_first[branch](lr[:, :, start : end + self.halo]))
            inner = features[:, :, (top - start) // 2 : (end - start + 1) // 2]
            total = total.to(inner) + inner.sum((2, 3))
            count += inner.shape[2] * inner.shape[3]
        return total / count
