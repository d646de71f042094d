"""Local realism: restores parts of a picture at different levels and blends them in the latent.

A tile needs one U-Net pass for each level with a share in it; the encoder and the decoder run once. A level's share falls
off smoothly over a few latent positions, and the shares at each position sum to one. Shares are computed over the whole
picture, so that neighbouring tiles agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rcodsr.images.text_regions import find_text
from rcodsr.models.one_step import Condition, OneStepSR
from rcodsr.options import RealismMap, UpscaleOptions

SOFT = 16
"""Width of the ramp on each side of a border, in pixels of the enlarged picture."""


@dataclass(frozen=True)
class LocalLevels:
    """Realism levels and the share each has at every latent position of a picture."""

    levels: tuple[float | None, ...]
    """Realism of each level; None stands for the level chosen elsewhere."""
    shares: Tensor
    """Shape (levels, H', W'), float32 in [0, 1], on the CPU; each position sums to one."""
    factor: int
    """Pixels of the enlarged picture per latent position."""
    protected: float | None
    """Share of the picture kept at realism 0 for its text; None if text is not protected."""

    def inside(self, rows: slice, columns: slice) -> list[tuple[float | None, Tensor]]:
        """Levels with a share in a tile, and their shares (h', w') there.

        Args:
            rows: of the enlarged picture, in pixels, on multiples of `factor`.
            columns: likewise.
        """
        down, across = (slice(span.start // self.factor, span.stop // self.factor) for span in (rows, columns))
        found = zip(self.levels, self.shares[:, down, across], strict=True)
        return [(level, share) for level, share in found if share.any()]


def local_levels(
    options: UpscaleOptions, rgb: Tensor, scale: int, factor: int, padded: tuple[int, int], output: tuple[int, int]
) -> LocalLevels | None:
    """Compute the levels for parts of a picture; None if the whole picture has one level.

    Args:
        options: with a realism map, text protection, both or neither.
        rgb: the picture, shape (3, h, w) in [0, 1].
        scale: the model's scale.
        factor: pixels of the enlarged picture per latent position.
        padded: height and width of the enlarged, padded picture, multiples of `factor`.
        output: width and height of the final picture.

    Raises:
        UsageError: when the map fits neither the input nor the output.
    """
    realism_map = options.control if isinstance(options.control, RealismMap) else None
    if realism_map is None and options.protect is None:
        return None
    height, width = rgb.shape[1:]
    grid = tuple(side // factor for side in padded)
    levels: tuple[float | None, ...] = (None,)
    index = torch.zeros(grid, dtype=torch.long)
    if realism_map is not None:
        realism_map.require_fit("--realism-map", (width, height), output)
        levels = realism_map.levels
        index = _sampled(_indices(realism_map), (height * scale, width * scale), grid, factor).long()
    protected = None
    if options.protect == "text":
        text = find_text(rgb)
        protected = float(text.float().mean())
        if 0.0 not in levels:
            levels = (*levels, 0.0)
        index = index.masked_fill(_sampled(text, (height * scale, width * scale), grid, factor), levels.index(0.0))
    shares = F.one_hot(index, len(levels)).permute(2, 0, 1).float()
    return LocalLevels(levels, _softened(shares, factor), factor, protected)


def blend(model: OneStepSR, tile: Tensor, condition: Condition, shares: dict[int, Tensor]) -> Tensor:
    """Encode once, restore at each timestep, blend the latents by their shares, decode once.

    Args:
        model: the model.
        tile: shape (1, 3, H, W) in [0, 1].
        condition: the picture's condition; its timestep is not used.
        shares: timestep → share (H', W') on the latent's grid, on any device; they sum to one.

    Returns:
        Same shape as the tile, not clamped.
    """
    with model.modulator.using(condition.modulation):
        z_l = model.encode(tile)
        z = torch.zeros_like(z_l)
        for timestep, share in shares.items():
            here = replace(condition, timestep=torch.tensor([timestep], device=z_l.device))
            z.addcmul_(model.restore(z_l, here), share.to(z))
        return model.decode(z)


def _indices(realism_map: RealismMap) -> Tensor:
    return torch.from_numpy(np.frombuffer(realism_map.indices, np.uint8).copy()).view(realism_map.height, realism_map.width)


def _sampled(plane: Tensor, enlarged: tuple[int, int], grid: tuple[int, ...], factor: int) -> Tensor:
    """Sample a plane over the picture at the middle of each latent position; the padding repeats the edge."""
    where = []
    for side, pixels, positions in zip(plane.shape, enlarged, grid, strict=True):
        middles = (torch.arange(positions) * factor + factor // 2) * side // pixels
        where.append(middles.clamp(max=side - 1))
    return plane[where[0][:, None], where[1]]


def _softened(shares: Tensor, factor: int) -> Tensor:
    """Apply a box filter twice along both axes: a ramp of `SOFT` pixels on each side. Sums stay one."""
    reach = max(1, SOFT // factor // 2)
    for _ in range(2):
        padded = F.pad(shares[None], (reach,) * 4, mode="replicate")
        shares = F.avg_pool2d(padded, 2 * reach + 1, 1)[0]
    return shares
