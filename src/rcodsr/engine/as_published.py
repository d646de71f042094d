"""Processes a picture as in the inference script published with its weights: `--as-published`.

Enlargement, sides, whole-picture encoding, tiling of latents and rounding to bytes between steps follow the script. Two things
stay ours: the mean of the posterior, which the scripts sample, and the requested size of the result.
"""

from __future__ import annotations

import math
import threading

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rcodsr.engine.runtime import is_out_of_memory
from rcodsr.engine.tiled import Tiles, require_pictures
from rcodsr.errors import TileMemoryError
from rcodsr.images import color
from rcodsr.images.resize import pad_to_multiple
from rcodsr.images.tiling import TileGrid, plan_tiles
from rcodsr.models.one_step import Condition, OneStepSR
from rcodsr.models.prompts import FixedPrompt
from rcodsr.options import UpscaleOptions
from rcodsr.variants import AuthorsScript

FAITHFUL = frozenset({"channels-last"})
"""Usable items of `engine.fast.ITEMS`: the others need sides that the scripts do not ensure."""
_ENCODER_MARGIN, _DECODER_MARGIN = 64, 22
"""Pixels and latent positions by which a picture may exceed one tile of the autoencoder without being tiled."""
_SHARED = 16
"""Overlap of the autoencoder's tiles, in latent positions."""
_NARROW = 0.1
"""Standard deviation of a latent tile's blending weights, relative to its side."""


class AsPublished:
    """Runs a model over one picture at a time.

    Args:
        model: on its device, in its dtype.
        device: the model's device.
        script: settings of the published script.
    """

    def __init__(self, model: OneStepSR, device: torch.device, script: AuthorsScript) -> None:
        self.model, self.device, self.script = model, device, script
        self._one_at_a_time = threading.Lock()  # a whole picture needs the memory of many tiles

    def restore(self, rgb: Tensor, options: UpscaleOptions, progress: Tiles) -> tuple[Tensor, int]:
        """(3, h, w) in [0, 1] → the enlargement (3, s·h, s·w) on the CPU, and the number of latent tiles.

        Raises:
            ModelOutputError: when the output is not a valid picture.
            TileMemoryError: when the picture does not fit into memory.
        """
        scale, (height, width) = self.model.spec.scale, rgb.shape[-2:]
        enlarged = enlarge(rgb.cpu(), scale, self.script)
        try:
            with self._one_at_a_time:
                restored, tiles = self._networks(enlarged, rgb[None].to(self.device), options, progress)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            remedy = "omit --as-published, whose tiles are larger than ours, or crop the picture"
            raise TileMemoryError("picture", "does not fit into memory", remedy) from error
        reference, restored = _bytes(enlarged[0]), _bytes(restored[0, :, : enlarged.shape[2], : enlarged.shape[3]])
        restored = _bytes(color.match(restored, reference, options.color_fix or self.model.spec.color_fix))
        if restored.shape[-2:] != (scale * height, scale * width):
            restored = _pixels(_pillow(restored).resize((scale * width, scale * height), Image.Resampling.BICUBIC))
        return restored, tiles

    def _networks(self, enlarged: Tensor, lr: Tensor, options: UpscaleOptions, progress: Tiles) -> tuple[Tensor, int]:
        x = pad_to_multiple(enlarged, self.script.multiple).to(self.device)
        condition = self.model.condition(x, torch.tensor([self.model.spec.grouping.k], device=self.device), lr)
        if options.prompt is not None and isinstance(self.model.prompt, FixedPrompt):
            tokens = self.model.context(self.model.prompt.speak(options.prompt))
            condition = Condition(condition.timestep, tokens, condition.modulation)
        with self.model.modulator.using(condition.modulation):
            z, tiles = self._step(self._encode(x), condition, progress)
            restored = self._decode(z)
        require_pictures(restored, x)
        return restored.cpu(), tiles

    def _encode(self, x: Tensor) -> Tensor:
        script, factor = self.script, self.model.spec.autoencoder.factor
        if max(x.shape[-2:]) <= script.encoder_tile + _ENCODER_MARGIN:
            return self.model.encode(x)
        grid = _grid(x.shape[-2] // factor, x.shape[-1] // factor, script.encoder_tile // factor)
        parts = []
        for rows, columns, weight in grid:
            part = x[..., _times(rows, factor), _times(columns, factor)]
            parts.append((rows, columns, weight.to(x.device), self.model.encode(part)))
        return _blended(parts)

    def _decode(self, z: Tensor) -> Tensor:
        script, factor = self.script, self.model.spec.autoencoder.factor
        height, width = z.shape[-2:]
        if max(height, width) <= script.decoder_tile + _DECODER_MARGIN:
            return self.model.decode(z)
        parts = []
        for rows, columns, weight in plan_tiles(
            factor * height, factor * width, factor * script.decoder_tile, factor * _SHARED, factor
        ):
            part = z[..., _over(rows, factor), _over(columns, factor)]
            parts.append((rows, columns, weight, self.model.decode(part).cpu()))
        return _blended(parts).to(z.device)

    def _step(self, z: Tensor, condition: Condition, progress: Tiles) -> tuple[Tensor, int]:
        """Run one step over the whole latent or, if it is large, over overlapping squares, blended by a narrow Gaussian.

        The scripts blend eps; Eq. (3) is linear and the weights sum to one, so blending ẑ_H is the same.
        """
        height, width = z.shape[-2:]
        if height * width <= self.script.latent_tile**2:
            progress(0, 1)
            restored = self.model.restore(z, condition)
            progress(1, 1)
            return restored, 1
        side = min(self.script.latent_tile, height, width)
        places = [
            (top, left)
            for left in starts(width, side, self.script.latent_overlap)
            for top in starts(height, side, self.script.latent_overlap)
        ]
        weight = gaussian(side).to(z.device)
        total, weights = torch.zeros_like(z), torch.zeros_like(z[:1, :1])
        progress(0, len(places))
        for done, (top, left) in enumerate(places, 1):
            square = (..., slice(top, top + side), slice(left, left + side))
            total[square] += weight * self.model.restore(z[square], condition)
            weights[square] += weight
            progress(done, len(places))
        return total / weights, len(places)


def enlarge(rgb: Tensor, scale: int, script: AuthorsScript) -> Tensor:
    """(3, h, w) in [0, 1] → (1, 3, H, W) in [0, 1], in the script's network size before padding."""
    if script.enlargement == "bilinear":
        return F.interpolate(rgb[None], scale_factor=scale, mode="bilinear", align_corners=False).clamp(0, 1)
    picture = _pillow(rgb)
    if min(picture.size) < script.least_side:
        factor = script.least_side / min(picture.size)
        width, height = (int(factor * side) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    width, height = (scale * side for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    width, height = (side - side % script.multiple for side in picture.size)
    return _pixels(picture.resize((width, height), Image.Resampling.LANCZOS))[None]


def starts(length: int, side: int, overlap: int) -> list[int]:
    """Starts of the tiles along one axis; the last tile ends with the axis.

    With tiles not longer than the overlap, the scripts would loop forever; here neighbours then overlap by half.
    """
    stride = side - overlap if side > overlap else max(1, side // 2)
    count = 1 + max(0, math.ceil((length - side) / stride))
    return [min(i * stride, length - side) for i in range(count)]


def gaussian(side: int) -> Tensor:
    """Blending weights of a latent tile, (side, side), float32: centred horizontally, half a position lower vertically."""
    places = torch.arange(side, dtype=torch.float64)
    across, down = (torch.exp(-(((places - middle) / side) ** 2) / (2 * _NARROW**2)) for middle in ((side - 1) / 2, side / 2))
    return (down[:, None] * across / (2 * math.pi * _NARROW**2)).float()


def _pillow(x: Tensor) -> Image.Image:
    """(3, h, w) in [0, 1] → an 8-bit Pillow image."""
    return Image.fromarray((x * 255).round().byte().permute(1, 2, 0).numpy())


def _pixels(picture: Image.Image) -> Tensor:
    """Inverse of `_pillow`."""
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.view(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255


def _bytes(x: Tensor) -> Tensor:
    """Clamp and truncate to 8 bits, as between the steps of the scripts."""
    return (x.clamp(0, 1) * 255).floor() / 255


def _grid(height: int, width: int, tile: int) -> TileGrid:
    return plan_tiles(height, width, tile, _SHARED, 1)


def _times(place: slice, factor: int) -> slice:
    return slice(place.start * factor, place.stop * factor)


def _over(place: slice, factor: int) -> slice:
    return slice(place.start // factor, place.stop // factor)


def _blended(parts: list[tuple[slice, slice, Tensor, Tensor]]) -> Tensor:
    """Blend tiles (1, C, h, w) by their positions and weights into the whole."""
    height, width = max(rows.stop for rows, *_ in parts), max(columns.stop for _, columns, *_ in parts)
    first = parts[0][3]
    whole = first.new_zeros(*first.shape[:2], height, width)
    for rows, columns, weight, tile in parts:
        whole[..., rows, columns] += weight * tile
    return whole
