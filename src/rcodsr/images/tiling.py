"""Overlapping tiles: crossed 1-D segments with weights that sum to one everywhere.

This module does not process tiles. All tiles of a picture have the same size, start on multiples of the network's grid, and
blend over the inner half of their overlap. The outer quarters are context that never reaches the result.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """An interval of one axis and its blending weights."""

    start: int
    weight: Tensor
    """Shape (length,), float32 in [0, 1]. The weights of all segments sum to 1 at each position."""

    @property
    def span(self) -> slice:
        """The covered positions."""
        return slice(self.start, self.start + len(self.weight))


@dataclass(frozen=True)
class TileGrid:
    """The tiles of one picture, row by row."""

    rows: list[Segment]
    columns: list[Segment]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Rows, columns and weight (h, w) of each tile."""
        for row in self.rows:
            for column in self.columns:
                yield row.span, column.span, row.weight[:, None] * column.weight


def plan_tiles(height: int, width: int, tile: int, overlap: int, multiple: int) -> TileGrid:
    """Cover a picture with equal tiles.

    Args:
        height: height of the picture, a multiple of `multiple`.
        width: width of the picture, a multiple of `multiple`.
        tile: largest side of a tile in pixels. 0, or a value that covers both sides, gives a single tile.
        overlap: pixels shared by neighbours, less than `tile`.
        multiple: starts and sides of tiles are multiples of this many pixels, so that a tile is on the same grid as the
            whole picture.
    """
    return TileGrid(segments(height, tile, overlap, multiple), segments(width, tile, overlap, multiple))


def segments(length: int, tile: int, overlap: int, multiple: int) -> list[Segment]:
    """Cover one axis with equal segments. See `plan_tiles` for the arguments."""
    tile = max(multiple, tile // multiple * multiple) if tile else length
    if tile >= length:
        return [Segment(0, torch.ones(length))]
    overlap = min(overlap, tile - multiple)
    count = math.ceil((length - overlap) / (tile - overlap))
    side = min(tile, math.ceil((length + (count - 1) * overlap) / count / multiple) * multiple)
    starts = [round(i * (length - side) / (count - 1) / multiple) * multiple for i in range(count)]
    ramps = [_ramp(length, right, left + side) for left, right in itertools.pairwise(starts)]
    everywhere, nowhere = torch.ones(length), torch.zeros(length)
    entering, leaving = [everywhere, *ramps], [*ramps, nowhere]
    weights = ((rise - fall)[start : start + side] for start, rise, fall in zip(starts, entering, leaving, strict=True))
    return [Segment(start, weight) for start, weight in zip(starts, weights, strict=True)]


def _ramp(length: int, first: int, last: int) -> Tensor:
    """0 before, 1 after, a raised cosine over the inner half of [first, last). A step if that is empty."""
    if first >= last:
        return (torch.arange(length) >= first).float()
    quarter = (last - first) / 4
    position = (torch.arange(length) + 0.5 - first - quarter) / (2 * quarter)
    return 0.5 - 0.5 * torch.cos(math.pi * position.clamp(0, 1))
