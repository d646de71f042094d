"""Selects the timestep of a picture, of each tile, or of each part of a tile."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rcodsr.diffusion.grouping import group_timestep
from rcodsr.engine.estimation import DegradationMap, Estimated
from rcodsr.engine.local import LocalLevels
from rcodsr.images.tiling import TileGrid
from rcodsr.options import RealismMap
from rcodsr.parts import GroupingSpec


@dataclass(frozen=True)
class Steering:
    """The timestep of a picture, or of its tiles."""

    grouping: GroupingSpec
    timestep: int
    """Timestep of the whole picture; the mean if tiles differ."""
    similarity: float | None = None
    """Estimated M_L of the picture, if chosen by degradation."""
    degradation: DegradationMap | None = None
    """Set if each tile's own degradation decides."""
    local: LocalLevels | None = None
    """Set if parts of the picture have their own levels."""

    @classmethod
    def by_degradation(cls, grouping: GroupingSpec, degradation: DegradationMap, by_tile: bool) -> Steering:
        """Choose by degradation: M̂_L → Eq. (5)."""
        similarity = degradation.mean
        return cls(grouping, _timestep(similarity, grouping), similarity, degradation if by_tile else None)

    @classmethod
    def by_map(cls, grouping: GroupingSpec, realism_map: RealismMap) -> Steering:
        """Give each part its own level; the mean represents the picture."""
        parts = zip(realism_map.levels, realism_map.parts, strict=True)
        return cls(grouping, round(sum(part * grouping.realism_timestep(level) for level, part in parts)))

    def estimated(self) -> Estimated:
        """Estimate of a picture whose level is chosen by degradation, and the resulting timestep."""
        assert self.similarity is not None
        return Estimated(
            self.similarity, self.timestep, self.grouping.timestep_realism(self.timestep), self.grouping.level(self.timestep)
        )

    def at(self, rows: slice, columns: slice) -> int:
        """Timestep of the tile that covers these pixels of the enlarged picture."""
        if self.degradation is None:
            return self.timestep
        return _timestep(self.degradation.inside(rows, columns), self.grouping)

    def within(self, rows: slice, columns: slice) -> dict[int, Tensor]:
        """A tile's timesteps → their shares (h', w') on the latent's grid; empty if parts have no levels of their own."""
        found: dict[int, Tensor] = {}
        for level, share in self.local.inside(rows, columns) if self.local is not None else ():
            t = self.at(rows, columns) if level is None else self.grouping.realism_timestep(level)
            found[t] = found[t] + share if t in found else share
        return found

    def passes(self, grid: TileGrid) -> list[int]:
        """U-Net passes per tile, one for each of its timesteps."""
        return [max(1, len(self.within(rows, columns))) for rows, columns, _ in grid]

    def notes(self, passes: list[int]) -> tuple[str, ...]:
        """Notes on protected text and on additional U-Net passes."""
        if self.local is None:
            return ()
        held = self.local.protected
        said = [] if held is None else [f"text on {held:.0%} of the picture kept at realism 0"]
        if max(passes) > 1:
            said.append(f"U-Net passes: {sum(passes)}" + (f" over {len(passes)} tiles" if len(passes) > 1 else ""))
        return tuple(said)

    def over(self, grid: TileGrid) -> Steering:
        """Return a copy whose timestep is the mean over the tiles, weighted by their share of the picture."""
        if self.degradation is None:
            return self
        shares = [(float(weight.sum()), self.at(rows, columns)) for rows, columns, weight in grid]
        mean = sum(share * t for share, t in shares) / sum(share for share, _ in shares)
        return replace(self, timestep=round(mean))


def _timestep(similarity: float, grouping: GroupingSpec) -> int:
    return int(group_timestep(torch.tensor([similarity]), grouping))
