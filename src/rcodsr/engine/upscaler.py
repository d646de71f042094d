"""The inference engine: the command line, Python, batches, benchmarks and validation all use `Upscaler`.

It is independent of picture files, names and progress bars, and stateless between pictures, so threads may share it.
"""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, Unpack, overload

import torch
from PIL import Image
from torch import Tensor

from rcodsr.checkpoints.load import load_weights
from rcodsr.engine.arguments import UpscaleArguments, read_arguments
from rcodsr.engine.as_published import FAITHFUL, AsPublished
from rcodsr.engine.estimation import DegradationMap, Estimated, measure
from rcodsr.engine.evidence import Invented, consistency, departure, remark
from rcodsr.engine.fast import ITEMS, choose
from rcodsr.engine.local import local_levels
from rcodsr.engine.runner import Runner, prepare
from rcodsr.engine.runtime import Runtime, choose_runtime, is_out_of_memory
from rcodsr.engine.steering import Steering
from rcodsr.engine.tiled import Network, TiledNetwork, Tiles, ignore
from rcodsr.errors import DeviceError, ModelOutputError, TileMemoryError, UsageError, in_python
from rcodsr.images import color
from rcodsr.images.exchange import Array, ImageLike, to_kind, to_picture, to_srgb_image
from rcodsr.images.picture import Picture
from rcodsr.images.resize import pad_to_multiple, resize, upsample
from rcodsr.messages import Log, silent
from rcodsr.models.one_step import Condition, OneStepSR
from rcodsr.models.prompts import FixedPrompt
from rcodsr.options import Adaptive, Level, RealismMap, UpscaleOptions, WeightsRequest

Kind = TypeVar("Kind", Image.Image, Array, Tensor)


@dataclass(frozen=True)
class Upscaled:
    """An enlarged picture and how it was made."""

    picture: Picture
    realism: float | None
    """The requested realism, or that of the estimated degradation; None for a fixed timestep without a realism."""
    timestep: int
    """Mean over the picture if every tile has its own."""
    level: str | None
    """Name of the nearest level; None if the realism is None."""
    similarity: float | None
    """Estimated M_L, if it was requested."""
    tiles: int
    unet_passes: int
    """Maximum number of passes of any tile."""
    consistency: float
    """PSNR in dB between the input and the result downscaled to its size."""
    dtype: str
    """The dtype used: float32 if the requested dtype produced no valid picture."""
    seconds: float
    invented: Tensor | None = None
    """Departure from the evidence around each pixel, shape (H, W), in steps of 1/255; None unless requested."""

    def against(self, evidence: Upscaled) -> Upscaled:
        """Return a copy with the map of what was invented, and with the combined cost.

        Args:
            evidence: the same picture at realism 0; may be this result.
        """
        found = departure(self.picture.rgb, evidence.picture.rgb, self.picture.alpha)
        if evidence is self:
            return replace(self, invented=found)
        passes, seconds = self.unet_passes + evidence.unet_passes, self.seconds + evidence.seconds
        return replace(self, invented=found, unet_passes=passes, seconds=seconds)


class Upscaler:
    """Enlarges pictures with one U-Net step each: one pass, or two if requested at loading.

    Args:
        model: on the runtime's device, in its dtype.
        runtime: the model's device and dtype.
        weights_id: name and digest of the weights, for records.
        reload: loads the weights again in float32, for pictures that fail in reduced precision.
        runner: how to run the model; plainly by default.
        network: what tiles go through; the runner's by default.
        as_published: process pictures as in the script of the weights' authors.
    """

    def __init__(
        self,
        model: OneStepSR,
        runtime: Runtime,
        weights_id: str,
        reload: Callable[[], OneStepSR] | None = None,
        runner: Runner | None = None,
        network: Network | None = None,
        as_published: bool = False,
    ) -> None:
        self.model, self.runtime = model, runtime
        self.runner = runner or Runner(model, runtime)
        self.weights_id = weights_id
        self.tiled = TiledNetwork(self.runner, network)
        script = model.spec.script if as_published else None
        self.as_published = None if script is None else AsPublished(model, runtime.device, script)
        self._reload = reload or (lambda: copy.deepcopy(model).to_dtype(torch.float32))
        self._exact: Upscaler | None = None
        self._exact_lock = threading.Lock()
        self._process = os.getpid()

    @classmethod
    def load(
        cls,
        request: WeightsRequest | None = None,
        options: UpscaleOptions | None = None,
        log: Log = silent,
        items: Collection[str] | None = None,
    ) -> Upscaler:
        """Load the requested weights, by default the packaged ones, and move them to their device.

        Args:
            request: weights, device, dtype.
            options: options of the pictures to come, as in `load_weights`.
            log: receives a line when a file is downloaded.
            items: names of `engine.fast.ITEMS`; None uses the device's defaults.

        Raises:
            UsageError: when the request contradicts itself.
            WeightsError: when the weights are unknown, unavailable or corrupt.
            DeviceError: when the device or dtype is not available.
        """
        asked, coming = request or WeightsRequest(), options or UpscaleOptions()
        device = choose_runtime(asked.device, asked.dtype).device  # rejects an unavailable device before anything is downloaded
        chosen = choose(device.type, items) & (FAITHFUL if asked.as_published else set(ITEMS))
        loaded = load_weights(asked, coming, log=log)
        runtime = choose_runtime(asked.device, asked.dtype, loaded.model.spec)

        def reload() -> OneStepSR:
            return runtime.place(load_weights(asked, coming, log=log).model, torch.float32)

        runner = prepare(loaded.model, runtime, chosen, log)
        return cls(runner.model, runtime, loaded.id, reload, runner, as_published=asked.as_published)

    @overload
    def upscale(
        self,
        image: ImageLike,
        realism: float | str | None = None,
        *,
        returns: Literal["pillow"] = "pillow",
        **asked: Unpack[UpscaleArguments],
    ) -> Image.Image: ...

    @overload
    def upscale(
        self, image: Kind, realism: float | str | None = None, *, returns: Literal["same"], **asked: Unpack[UpscaleArguments]
    ) -> Kind: ...

    def upscale(
        self,
        image: ImageLike,
        realism: float | str | None = None,
        *,
        returns: Literal["pillow", "same"] = "pillow",
        **asked: Unpack[UpscaleArguments],
    ) -> Image.Image | Array | Tensor:
        """Enlarge one picture: the Python counterpart of `rcodsr upscale`.

        Args:
            image: the path, bytes or stream of a picture file, a Pillow image, or a numpy array (h, w[, c]) or torch tensor
                (c, h, w) of uint8, uint16, or floats in [0, 1].
            realism: 0 stays with the evidence, 1 adds believable texture; or fidelity, neutral, realism. Default 0.5.
            returns: "pillow", or "same" for the input's kind: an array or tensor of its dtype.
            asked: see `UpscaleArguments`; for example `adaptive=True`, `realism_map=mask`, `scale=2` or `tile=256`.

        Returns:
            A Pillow image of mode L, LA, RGB or RGBA, upright, in sRGB, with the input's EXIF, XMP and DPI in `info`;
            `rcodsr.save` writes it with the input's own colour profile and depth.

        Raises:
            RcodsrError: as in `run`. `InputError` when the file cannot be read, `UsageError` for a wrong argument.
        """
        with in_python():
            options = read_arguments(realism, asked)
            self.check(options)
            if returns not in {"pillow", "same"}:
                raise UsageError("returns", f"{returns!r} is not known", "use pillow or same")
            made = self.run(to_picture(image, options.scale), options).picture
            return to_kind(made, image) if returns == "same" else to_srgb_image(made)

    def invented(self, image: ImageLike, realism: float | str | None = None, **asked: Unpack[UpscaleArguments]) -> Invented:
        """Enlarge one picture and measure its departure from the evidence, the result at realism 0.

        Args:
            image: as for `upscale`.
            realism: as for `upscale`.
            asked: as for `upscale`.

        Raises:
            RcodsrError: as in `upscale`; `UsageError` for weights without a realism 0.
        """
        with in_python():
            options = replace(read_arguments(realism, asked), invented=True)
            self.check(options)
            made = self.run(to_picture(image, options.scale), options)
        assert made.invented is not None
        return Invented(to_srgb_image(made.picture), made.invented.numpy(), made.consistency)

    def estimate(self, image: ImageLike) -> Estimated:
        """Estimate the degradation of a picture and the level that `adaptive=True` would choose; see `rcodsr estimate`.

        Args:
            image: as for `upscale`.

        Raises:
            UsageError: when the weights have no estimator.
            InputError: when the file cannot be read.
        """
        with in_python():
            self.check(UpscaleOptions(Adaptive()))
            picture = to_picture(image, self.model.spec.scale)
        return self.judge(picture.without_alpha().rgb)

    def judge(self, rgb: Tensor) -> Estimated:
        """Estimate the degradation of an opaque picture from its pixels (3, h, w) in [0, 1]."""
        with torch.no_grad():
            degradation = self.degradation(upsample(rgb[None], self.model.spec.scale))
        return Steering.by_degradation(self.model.spec.grouping, degradation, by_tile=False).estimated()

    def __repr__(self) -> str:
        """Return weights, device and dtype."""
        return f"<Upscaler {self.weights_id} on {self.runtime.reason}>"

    def run(self, picture: Picture, options: UpscaleOptions, progress: Tiles = ignore) -> Upscaled:
        """Enlarge one picture; preserves alpha, greyscale and metadata.

        If reduced precision yields NaNs or a blank picture, it is recomputed in float32.

        Args:
            picture: the decoded picture.
            options: realism, size, tiles and colour fix.
            progress: called with the number of finished tiles and their total; alpha counts as much as the colours.

        Raises:
            TileMemoryError: when the picture, or even the smallest tile, does not fit into memory.
            ModelOutputError: when the output is not a valid picture, even in float32.
        """
        self._require_own_process()
        made = self._run_soundly(picture, options, progress)
        if not options.invented:
            return made
        plain = replace(options, control=Level(0.0), protect=None, invented=False)
        if replace(options, invented=False) == plain:
            return made.against(made)
        return made.against(self._run_soundly(picture.without_alpha(), plain, ignore))

    def _run_soundly(self, picture: Picture, options: UpscaleOptions, progress: Tiles) -> Upscaled:
        try:
            return self._run(picture, options, progress)
        except ModelOutputError:
            if self.runtime.dtype == torch.float32:
                raise
        return self._in_float32()._run(picture, options, progress)

    def _require_own_process(self) -> None:
        """Handle a fork, which ends torch's threads: a CPU continues with one, a GPU cannot be used."""
        if os.getpid() == self._process:
            return
        if self.runtime.device.type != "cpu":
            raise DeviceError(
                f"{self.runtime.device}",
                "cannot be used after a fork",
                "load the weights in the child process, or use the spawn start method",
            )
        torch.set_num_threads(1)
        self._process = os.getpid()

    def through(self, wrap: Callable[[Network], Network]) -> Upscaler:
        """Return an engine that shares everything but runs tiles through `wrap(network)` (see `batch.tiles`)."""
        wrapped = wrap(self.tiled.network)

        def network(tiles: Tensor, condition: Condition) -> Tensor:
            return wrapped(tiles, self.runner.whole(condition))

        way = self.as_published is not None
        return Upscaler(self.model, self.runtime, self.weights_id, self._reload, self.runner, network, way)

    def _in_float32(self) -> Upscaler:
        """The same weights in float32, loaded on first use."""
        with self._exact_lock:
            if self._exact is None:
                runtime = Runtime(self.runtime.device, torch.float32, f"fp32 (no picture in {self.runtime.dtype_name})")
                self._exact = Upscaler(self._reload(), runtime, self.weights_id, as_published=self.as_published is not None)
            return self._exact

    def check(self, options: UpscaleOptions) -> None:
        """Reject options that the weights do not support.

        Raises:
            UsageError: when an option is not supported.
        """
        if self.as_published is not None:
            self.model.spec.check_as_published(options)
        self.model.spec.check(options, self.model.passes.realism)

    def _run(self, picture: Picture, options: UpscaleOptions, progress: Tiles) -> Upscaled:
        started = time.perf_counter()
        self.check(options)
        width, height = options.output_size(picture.size)
        try:
            with torch.no_grad():
                source = picture.without_alpha().rgb
                rounds = 1 if picture.alpha is None or picture.alpha.min() == picture.alpha.max() else 2
                rgb, steering, passes = self.restore(source, options, lambda done, total: progress(done, rounds * total))
                rgb = resize(rgb[None], height, width)[0].cpu()
                alpha = None if picture.alpha is None else self._enlarged_alpha(picture.alpha, steering, options, progress)
                # differences have a sign, and `resize` clamps to [0, 1]
                beyond = None if picture.beyond is None else resize(picture.beyond[None] / 2 + 0.5, height, width)[0] * 2 - 1
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TileMemoryError("picture", "does not fit into memory", "crop it, or close other programs") from error
        realism, level = self._level(steering, options)
        made = picture.with_pixels(rgb, alpha, beyond).with_note(*steering.notes(passes))
        agreement = consistency(made.rgb, source)
        return Upscaled(
            picture=made.with_note(*remark(agreement)),
            realism=realism,
            timestep=steering.timestep,
            level=level,
            similarity=steering.similarity,
            tiles=len(passes),
            unet_passes=self.model.passes.count * max(passes),
            consistency=agreement,
            dtype=self.runtime.dtype_name,
            seconds=time.perf_counter() - started,
        )

    def _enlarged_alpha(self, alpha: Tensor, steering: Steering, options: UpscaleOptions, progress: Tiles) -> Tensor:
        """(1, h, w) → (1, H, W), both in [0, 1]: restored like the colours, so that its edges are as sharp; no overshoot."""
        width, height = options.output_size((alpha.shape[2], alpha.shape[1]))
        if alpha.min() < alpha.max():
            level = steering.grouping.timestep_realism(steering.timestep)
            plainly = replace(options, control=None, default_realism=level, protect=None)
            enlarged = upsample(alpha[None], self.model.spec.scale)[0]
            second_half: Tiles = lambda done, total: progress(total + done, 2 * total)  # noqa: E731
            restored = self.restore(alpha.expand(3, -1, -1), plainly, second_half)[0].cpu()
            alpha = color.limit_overshoot(restored.mean(0, keepdim=True), enlarged)
        return resize(alpha[None], height, width)[0]

    def _level(self, steering: Steering, options: UpscaleOptions) -> tuple[float | None, str | None]:
        """Realism and level name, if the weights have a knob; a weighted pair of passes has no name."""
        spec, grouping = self.model.spec, self.model.spec.grouping
        if spec.fixed_timestep is not None:
            return self.model.passes.realism, None
        control = options.chosen
        realism = control.realism if isinstance(control, Level) else grouping.timestep_realism(steering.timestep)
        return realism, grouping.level(steering.timestep)

    def restore(self, rgb: Tensor, options: UpscaleOptions, progress: Tiles = ignore) -> tuple[Tensor, Steering, list[int]]:
        """(3, h, w) in [0, 1] → the model's own enlargement (3, s·h, s·w) in [0, 1], its steering, and passes by tile.

        The result is on the runner's device for pictures: a GPU with enough memory, otherwise the CPU.
        """
        spec = self.model.spec
        if self.as_published is not None:
            restored, tiles = self.as_published.restore(rgb, options, progress)
            return restored, Steering(spec.grouping, spec.grouping.k), [1] * tiles
        rgb = rgb.to(self.runner.home(spec.scale**2 * rgb[0].numel()))
        enlarged = upsample(rgb[None], spec.scale)
        padded = pad_to_multiple(enlarged, spec.multiple, spec.least_side)
        steering = self._steering(enlarged, options)
        output = options.output_size((rgb.shape[2], rgb.shape[1]))
        sides = (padded.shape[2], padded.shape[3])
        local = local_levels(options, rgb.cpu(), spec.scale, spec.autoencoder.factor, sides, output)
        steering = replace(steering, local=local)
        device = self.runtime.device
        condition = self.runner.condition(enlarged.to(device), rgb[None].to(device))
        if options.prompt is not None and isinstance(self.model.prompt, FixedPrompt):
            condition = replace(condition, tokens=self.model.context(self.model.prompt.speak(options.prompt)))
        restored, grid = self.tiled.restore(padded, condition, steering, options, progress)
        restored = restored[:, : enlarged.shape[2], : enlarged.shape[3]]
        restored = self.runner.finish(restored, enlarged[0], rgb, options.color_fix or spec.color_fix)
        return restored, steering.over(grid), steering.passes(grid)

    def _steering(self, enlarged: Tensor, options: UpscaleOptions) -> Steering:
        grouping, control = self.model.spec.grouping, options.chosen
        if isinstance(control, RealismMap):
            return Steering.by_map(grouping, control)
        if isinstance(control, Level):
            return Steering(grouping, grouping.realism_timestep(control.realism))
        return Steering.by_degradation(grouping, self.degradation(enlarged), control.by == "tile")

    def degradation(self, enlarged: Tensor) -> DegradationMap:
        """M̂_L over an enlarged picture (1, 3, H, W) in [0, 1]."""
        return measure(self.model, enlarged.to(self.runtime.device))
