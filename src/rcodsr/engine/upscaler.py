"""The one inference engine: the command line, Python, batches, benchmarks and validation all go through `Upscaler`.

It knows nothing about files of pictures, names or progress bars, and keeps no state between pictures, so threads may share it.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from rcodsr.checkpoints.format import load_model
from rcodsr.checkpoints.hub import DEFAULT, resolve
from rcodsr.config import Dtype, UpscaleOptions, parse_realism
from rcodsr.engine.runtime import SMALLEST_TILE, Runtime, choose_runtime, is_out_of_memory, plan_tile
from rcodsr.errors import ModelOutputError, TileMemoryError, UsageError
from rcodsr.images import color, io
from rcodsr.images.picture import Picture
from rcodsr.images.resize import pad_to_multiple, resize, upsample
from rcodsr.images.tiling import TileGrid, plan_tiles
from rcodsr.models.one_step import Condition, OneStepSR


@dataclass(frozen=True)
class Upscaled:
    """An enlarged picture and how it was made."""

    picture: Picture
    realism: float
    timestep: int
    level: str
    tiles: int
    unet_passes: int
    seconds: float


class Upscaler:
    """Enlarges pictures with one U-Net step each.

    Args:
        model: on the runtime's device, in its dtype.
        runtime: where the model is.
        weights_id: name and digest of the weights, for records.
    """

    def __init__(self, model: OneStepSR, runtime: Runtime, weights_id: str) -> None:
        self.model = model
        self.runtime = runtime
        self.weights_id = weights_id

    @classmethod
    def load(cls, weights: str = DEFAULT, device: str = "auto", dtype: Dtype = "auto") -> Upscaler:
        """Load weights by name or path.

        Raises:
            WeightsError: when they are unknown, unavailable or damaged.
            DeviceError: when the device or dtype is not available.
        """
        runtime = choose_runtime(device, dtype)
        resolved = resolve(weights)
        model = load_model(resolved.directory).to(runtime.device)
        model.unet.to(runtime.dtype)
        return cls(model, runtime, resolved.id)

    def upscale(self, image: Image.Image | str | Path, realism: float | str | None = None, **options: object) -> Image.Image:
        """Enlarge one picture: the Python counterpart of `rcodsr upscale`.

        Args:
            image: a Pillow image, or the path of a picture file.
            realism: 0 stays with the evidence, 1 fills in believable texture; or fidelity, neutral, realism. Default 0.5.
            options: other fields of `UpscaleOptions`, for example `scale=2` or `tile=256`.

        Returns:
            A Pillow image of mode L, LA, RGB or RGBA, upright, with the input's EXIF, ICC profile and DPI in `info`.

        Raises:
            RcodsrError: as `run`; `InputError` when the file cannot be read.
        """
        if realism is not None:
            options["realism"] = parse_realism(realism) if isinstance(realism, str) else float(realism)
        try:
            chosen = UpscaleOptions(**options)  # type: ignore[arg-type]
        except TypeError as error:
            raise UsageError(
                "upscale", str(error), f"options are {', '.join(f.name for f in dataclasses.fields(UpscaleOptions))}"
            ) from None
        picture = io.from_image(image) if isinstance(image, Image.Image) else io.read(Path(image), scale=chosen.scale)
        return io.to_image(self.run(picture, chosen).picture)

    def run(self, picture: Picture, options: UpscaleOptions) -> Upscaled:
        """Enlarge one picture, keeping its alpha, greyness and metadata.

        Raises:
            TileMemoryError: when the picture, or even the smallest tile, does not fit into memory.
            ModelOutputError: when the model returns NaN, also in float32.
        """
        started = time.perf_counter()
        grouping = self.model.spec.grouping
        timestep = grouping.realism_timestep(options.realism)
        width, height = io.output_size(picture.size, options.scale)
        try:
            with torch.no_grad():
                source = picture.rgb if picture.alpha is None else color.bleed(picture.rgb, picture.alpha)
                rgb, tiles = self._restore(source, timestep, options)
                rgb = resize(rgb[None], height, width)[0]
                alpha = None if picture.alpha is None else resize(picture.alpha[None], height, width)[0]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TileMemoryError("picture", "does not fit into memory", "crop it, or close other programs") from error
        return Upscaled(
            picture=picture.with_pixels(rgb, alpha),
            realism=options.realism,
            timestep=timestep,
            level=grouping.level(timestep),
            tiles=tiles,
            unet_passes=1,
            seconds=time.perf_counter() - started,
        )

    def _restore(self, rgb: Tensor, timestep: int, options: UpscaleOptions) -> tuple[Tensor, int]:
        """(3, h, w) in [0, 1] → the model's own enlargement (3, s·h, s·w) in [0, 1] on the CPU, and the number of tiles."""
        spec = self.model.spec
        enlarged = upsample(rgb[None], spec.scale)
        padded = pad_to_multiple(enlarged, spec.multiple)
        t = torch.tensor([timestep], device=self.runtime.device)
        condition = self.model.condition(enlarged.to(self.runtime.device), t)
        tile = options.tile if options.tile is not None else plan_tile(self.runtime, spec.scale)
        restored, tiles = self._with_smaller_tiles(padded, condition, tile, options.tile_overlap)
        restored = restored[:, : enlarged.shape[2], : enlarged.shape[3]]
        color.match(restored, enlarged[0], options.color_fix or spec.color_fix)
        return color.limit_overshoot(restored, enlarged[0]), tiles

    def _with_smaller_tiles(self, padded: Tensor, condition: Condition, tile: int, overlap: int) -> tuple[Tensor, int]:
        """Run over tiles, halving them when memory runs out."""
        scale, multiple = self.model.spec.scale, self.model.spec.multiple
        while True:
            grid = plan_tiles(padded.shape[2], padded.shape[3], tile * scale, min(overlap, tile // 2) * scale, multiple)
            try:
                return self._over_tiles(padded, condition, grid), len(grid)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # outside the except block, whose traceback would keep the failed tile's tensors alive
            tile = min(tile or max(padded.shape) // scale, max(padded.shape) // scale) // 2
            if tile < SMALLEST_TILE:
                raise TileMemoryError(f"{self.runtime.device}", "out of memory at the smallest tile", "close other programs")

    def _over_tiles(self, padded: Tensor, condition: Condition, grid: TileGrid) -> Tensor:
        """Encode, restore and decode each tile; blend in float32. (1, 3, H, W) → (3, H, W), both in [0, 1]."""
        blended = torch.zeros_like(padded[0])
        for rows, columns, weight in grid:
            tile = padded[:, :, rows, columns].to(self.runtime.device)
            restored = self._finite(2 * tile - 1, condition).add_(1).mul_(0.5)
            blended[:, rows, columns] += restored[0].to(padded.device) * weight
        return blended

    def _finite(self, tile: Tensor, condition: Condition) -> Tensor:
        """The model's output for a tile, computed again in float32 if it is not finite."""
        restored = self.model(tile, condition)
        if torch.isfinite(restored).all():
            return restored
        if self.runtime.dtype != torch.float32:
            restored = copy.deepcopy(self.model).float()(tile, condition)
            if torch.isfinite(restored).all():
                return restored
        raise ModelOutputError("model", "returned values that are not numbers", "try --dtype fp32, or check the weights")


def load(weights: str = DEFAULT, device: str = "auto", dtype: Dtype = "auto") -> Upscaler:
    """Load an `Upscaler`: `rcodsr.load("rcod-tiny").upscale(image, realism=0.5)`.

    Args:
        weights: a name of the manifest or a checkpoint directory.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, fp32, bf16 or fp16.

    Raises:
        WeightsError: when the weights are unknown, unavailable or damaged.
        DeviceError: when the device or dtype is not available.
    """
    return Upscaler.load(weights, device, dtype)
