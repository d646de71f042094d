"""Runs the networks over tiles of an enlarged picture: checks and blends them, and halves them when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from rcodsr.engine.local import blend
from rcodsr.engine.runner import Runner
from rcodsr.engine.runtime import SMALLEST_TILE, is_out_of_memory, plan_tile
from rcodsr.engine.steering import Steering
from rcodsr.errors import ModelOutputError, TileMemoryError
from rcodsr.images.tiling import TileGrid, plan_tiles
from rcodsr.models.one_step import Condition
from rcodsr.options import UpscaleOptions

Network = Callable[[Tensor, Condition], Tensor]
"""Tiles (B, 3, H, W) in [0, 1] and their conditions → the same shape."""
Tiles = Callable[[int, int], None]
"""Called with the number of finished tiles and their total."""
_FLAT, _LIVELY = 0.5e-4, 0.5e-2
"""Standard deviations of pixels in [0, 1]: an output below the first is blank if its input is above the second."""


def ignore(done: int, total: int) -> None:
    """A progress callback that does nothing."""


class TiledNetwork:
    """Runs a network over the tiles of one picture at a time; stateless between pictures.

    Args:
        runner: the model and how to run it.
        network: applied to tiles; the runner's by default.
    """

    def __init__(self, runner: Runner, network: Network | None = None) -> None:
        self.runner, self.model, self.runtime = runner, runner.model, runner.runtime
        self.network: Network = network or runner.forward

    def plan(self, size: torch.Size, options: UpscaleOptions, tile: int | None = None) -> TileGrid:
        """Plan the tiles of an enlarged, padded picture of size (…, H, W); `tile` overrides the options."""
        spec = self.model.spec
        if tile is None:
            tile = self._tile(options)
        overlap = spec.tile_shared(options, tile)
        return plan_tiles(size[-2], size[-1], tile * spec.scale, overlap * spec.scale, spec.multiple)

    def _tile(self, options: UpscaleOptions) -> int:
        return self.model.spec.tile_side(options, plan_tile(self.runtime, self.model.spec))

    def restore(
        self, padded: Tensor, condition: Condition, steering: Steering, options: UpscaleOptions, progress: Tiles = ignore
    ) -> tuple[Tensor, TileGrid]:
        """Run over tiles, halving them when memory runs out: (1, 3, H, W) → (3, H, W), both in [0, 1], and the tiles used.

        `progress` is called for each tile and starts again after halving.

        Raises:
            TileMemoryError: when even the smallest tile does not fit into memory.
            ModelOutputError: when an output is not a valid picture.
        """
        scale, tile = self.model.spec.scale, self._tile(options)
        while True:
            grid = self.plan(padded.shape, options, tile)
            try:
                return self._over_tiles(padded, condition, steering, grid, progress), grid
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # outside the except block, whose traceback would keep the failed tile's tensors alive
            tile = min(tile or max(padded.shape) // scale, max(padded.shape) // scale) // 2
            if tile < SMALLEST_TILE:
                raise TileMemoryError(f"{self.runtime.device}", "out of memory at the smallest tile", "close other programs")

    def _over_tiles(self, padded: Tensor, condition: Condition, steering: Steering, grid: TileGrid, progress: Tiles) -> Tensor:
        """Encode, restore and decode the tiles; blend in float32. (1, 3, H, W) → (3, H, W), both in [0, 1]."""
        blended = torch.zeros_like(padded[0])
        device, places = self.runtime.device, list(grid)
        # tiles whose parts have their own levels run several passes, one at a time
        several = self.runner.at_once(places[0][2].numel()) if steering.local is None else 1
        progress(0, len(places))
        for first in range(0, len(places), several):
            some = places[first : first + several]
            parts = steering.within(*some[0][:2])
            t = torch.tensor([next(iter(parts), steering.at(rows, columns)) for rows, columns, _ in some], device=device)
            tiles = torch.cat([padded[:, :, rows, columns] for rows, columns, _ in some]).to(device)
            begins = torch.tensor([(rows.start, columns.start) for rows, columns, _ in some], device=device)
            origin = begins // self.model.spec.autoencoder.factor
            restored = self._sound(tiles, replace(condition, timestep=t, origin=origin), parts).to(padded.device)
            for tile, (rows, columns, weight) in zip(restored, some, strict=True):
                blended[:, rows, columns] += tile * weight.to(padded.device)
            progress(first + len(some), len(places))
        return blended

    def _sound(self, tiles: Tensor, condition: Condition, parts: dict[int, Tensor]) -> Tensor:
        """The model's output for tiles in [0, 1], if it is pictures; `parts` has a single tile's timesteps where several.

        Raises:
            ModelOutputError: as in `require_pictures`.
        """
        if len(parts) > 1:
            restored = blend(self.runner.model, tiles, self.runner.whole(condition), parts)
        else:
            restored = self.network(tiles, condition)
        require_pictures(restored, tiles)
        return restored


def require_pictures(restored: Tensor, given: Tensor) -> None:
    """Reject outputs that are not valid pictures.

    Args:
        restored: output of a model, shape (B, 3, H, W), nominally in [0, 1].
        given: its input, in [0, 1].

    Raises:
        ModelOutputError: when one is NaN, infinite, or one flat colour where the input is not.
    """
    finite = torch.isfinite(restored).all()
    blank = ((restored.std((1, 2, 3)) < _FLAT) & (given.std((1, 2, 3)) > _LIVELY)).any()
    finite, blank = torch.stack((finite, blank)).tolist()  # together, for a single GPU synchronisation
    if not finite:
        raise ModelOutputError("model", "returned NaN or infinite values", "try --dtype fp32, or check the weights")
    if blank:
        raise ModelOutputError("model", "returned a blank picture", "try --dtype fp32, or check the weights")
