"""Which timestep a picture, or each of its tiles, is restored at."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from rcodsr.diffusion.grouping import group_timestep
from rcodsr.engine.estimation import DegradationMap
from rcodsr.images.tiling import TileGrid
from rcodsr.variants import GroupingSpec


@dataclass(frozen=True)
class Steering:
    """The timestep of a picture, or of its tiles."""

    grouping: GroupingSpec
    timestep: int
    """Of the whole picture; the mean where tiles differ."""
    similarity: float | None = None
    """Estimated M_L of the picture, where degradation decides."""
    degradation: DegradationMap | None = None
    """Where each tile's own degradation decides."""

    @classmethod
    def by_degradation(cls, grouping: GroupingSpec, degradation: DegradationMap, by_tile: bool) -> Steering:
        """The degradation decides: M̂_L → Eq. (5)."""
        similarity = degradation.mean
        return cls(grouping, _timestep(similarity, grouping), similarity, degradation if by_tile else None)

    def at(self, rows: slice, columns: slice) -> int:
        """Timestep of the tile that covers these pixels of the enlarged picture."""
        if self.degradation is None:
            return self.timestep
        return _timestep(self.degradation.inside(rows, columns), self.grouping)

    def settled(self, grid: TileGrid) -> Steering:
        """The same with the mean of what the tiles really got, weighted by their share of the picture."""
        if self.degradation is None:
            return self
        shares = [(float(weight.sum()), self.at(rows, columns)) for rows, columns, weight in grid]
        mean = sum(share * t for share, t in shares) / sum(share for share, _ in shares)
        return replace(self, timestep=round(mean))


def _timestep(similarity: float, grouping: GroupingSpec) -> int:
    return int(group_timestep(torch.tensor([similarity]), grouping))
