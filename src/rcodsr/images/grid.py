"""The number of tiles that cover a picture, computed without torch for dry runs."""

import math


def padded_side(side: int, multiple: int, least: int = 1) -> int:
    """The smallest multiple of `multiple` that is at least `side` and `least`."""
    return (max(side, least) + multiple - 1) // multiple * multiple


def tile_side(length: int, tile: int, multiple: int) -> int:
    """Largest side of a tile along an axis: a multiple of `multiple`, or the whole axis if `tile` is 0 or larger."""
    return min(length, max(multiple, tile // multiple * multiple)) if tile else length


def tiles_along(length: int, tile: int, overlap: int, multiple: int) -> int:
    """Number of tiles along one axis. See `tiling.plan_tiles` for the arguments."""
    tile = tile_side(length, tile, multiple)
    overlap = min(overlap, tile - multiple)
    return 1 if tile == length else math.ceil((length - overlap) / (tile - overlap))
