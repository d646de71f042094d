"""Synthetic degradation of photos: Real-ESRGAN's second-order pipeline on tensors, seeded per sample.

All random choices follow from the sample's own seed, so a sample is the same in any batch, worker or run. The choices are first
drawn by numpy (`sample_degradation`), then applied on any device (`apply`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rcodsr.data.jpeg import jpeg
from rcodsr.data.kernels import SIDES, random_kernel, sinc_kernel
from rcodsr.data.presets import DegradationSpec, ProcessingSpec, StageSpec
from rcodsr.data.sensor import mosaic, sharpen
from rcodsr.variants import VariantSpec

_LUMA = (0.299, 0.587, 0.114)
_MODES = ("area", "bilinear", "bicubic")


@dataclass(frozen=True, eq=False)
class Filter:
    """Correlate every channel with one kernel."""

    kernel: np.ndarray
    """Shape (side, side), float32. Not a tensor, which would use a file descriptor when passed from a data worker."""


@dataclass(frozen=True)
class Resize:
    """Interpolate to a size in pixels."""

    height: int
    width: int
    mode: str


@dataclass(frozen=True)
class Noise:
    """Add noise, drawn from the sample's noise generator."""

    kind: Literal["gaussian", "poisson"]
    strength: float
    """Standard deviation in units of the [0, 1] range, or the factor on photon noise."""
    gray: bool
    """Whether all channels get the same noise."""


@dataclass(frozen=True)
class Jpeg:
    """Compress and decompress."""

    quality: int


@dataclass(frozen=True)
class Mosaic:
    """Sample one colour per pixel in a Bayer pattern and demosaic."""

    row: int
    column: int
    """0 or 1: position of the first pixel in the pattern."""


@dataclass(frozen=True)
class Sharpen:
    """Unsharp masking."""

    sigma: float
    """Standard deviation of the blur, in pixels."""
    amount: float


Step = Filter | Resize | Noise | Jpeg | Mosaic | Sharpen


@dataclass(frozen=True)
class Degradation:
    """The degradation of one photo: steps in order, fully determined except for the noise values."""

    steps: tuple[Step, ...]
    noise_seed: int


def degrade(hr: Tensor, spec: DegradationSpec, seed: int | tuple[int, ...], scale: int = VariantSpec.scale) -> Tensor:
    """Make the low-resolution picture of one photo.

    Args:
        hr: shape (3, H, W) in [0, 1], sides multiples of `scale`.
        spec: a preset.
        seed: seeds everything random about this sample.
        scale: factor by which the result is smaller.

    Returns:
        Shape (3, H/scale, W/scale) in [0, 1], rounded to 8-bit values.
    """
    return apply(hr, sample_degradation(spec, seed, hr.shape[-2], hr.shape[-1], scale))


def sample_degradation(
    spec: DegradationSpec, seed: int | tuple[int, ...], height: int, width: int, scale: int = VariantSpec.scale
) -> Degradation:
    """Draw the degradation of one photo of (height, width) pixels; arguments as in `degrade`."""
    rng = np.random.default_rng(seed)
    noise_seed = int(rng.integers(2**62))
    return Degradation(tuple(_draw_steps(spec, rng, (height, width), (height // scale, width // scale))), noise_seed)


def apply(hr: Tensor, degradation: Degradation) -> Tensor:
    """Apply a degradation to its photo.

    The noise is drawn from the sample's own seed, on CUDA by the device's generator, otherwise on the CPU. It is the same in
    any batch and worker, but differs between CUDA and CPU.

    Args:
        hr: shape (3, H, W) in [0, 1], float32, on any device; of the size that the degradation was drawn for.
        degradation: from `sample_degradation`.

    Returns:
        Shape (3, H/scale, W/scale) in [0, 1], rounded to 8-bit values.
    """
    noise = torch.Generator(hr.device if hr.is_cuda else "cpu").manual_seed(degradation.noise_seed)
    x = hr[None]
    # a trainer's autocast to half precision would be too coarse for 8-bit values
    with torch.no_grad(), torch.autocast(hr.device.type, enabled=False):
        for step in degradation.steps:
            x = _carry_out(step, x, noise)
        return (x[0].clamp(0, 1) * 255).round() / 255


def degrade_batch(hr: Tensor, degradations: Sequence[Degradation]) -> Tensor:
    """Apply one degradation per photo; each result equals that of `apply` for the photo alone, bit for bit.

    A plain loop: sizes in between differ from photo to photo.

    Args:
        hr: shape (B, 3, H, W) in [0, 1], float32, on any device.
        degradations: B of them, from any presets, drawn for (H, W) and a common scale.

    Returns:
        Shape (B, 3, H/scale, W/scale) in [0, 1], rounded to 8-bit values, on the same device.
    """
    return torch.stack([apply(photo, degradation) for photo, degradation in zip(hr, degradations, strict=True)])


# ------------------------------------------------------------------------- drawing: the order of draws determines the data


def _draw_steps(spec: DegradationSpec, rng: np.random.Generator, high: tuple[int, int], low: tuple[int, int]) -> Iterator[Step]:
    first, second = spec.first, spec.second
    yield from _draw_blur(first, rng)
    if second is None:
        yield Resize(*low, "area" if rng.random() < 0.5 else "bicubic")
        yield from _draw_noise(first, rng)
        if spec.processing is not None:
            yield from _draw_processing(spec.processing, rng)
        yield from _draw_jpeg(first, rng)
        return
    yield _draw_resize(first, rng, high)
    yield from _draw_noise(first, rng)
    yield from _draw_jpeg(first, rng)
    yield from _draw_blur(second, rng)
    yield _draw_resize(second, rng, low)
    yield from _draw_noise(second, rng)
    # the last resize with its sinc filter comes before or after the last JPEG
    compress_last = rng.random() < 0.5
    if not compress_last:
        yield from _draw_jpeg(second, rng)
    yield Resize(*low, str(rng.choice(_MODES)))
    if rng.random() < spec.final_sinc_probability:
        yield Filter(sinc_kernel(int(rng.choice(SIDES)), rng.uniform(np.pi / 3, np.pi)).numpy())
    if compress_last:
        yield from _draw_jpeg(second, rng)


def _draw_blur(stage: StageSpec, rng: np.random.Generator) -> Iterator[Filter]:
    if rng.random() < stage.blur_probability:
        kernel = random_kernel(rng, stage.blur_sigma, stage.sinc_probability, stage.beta_gaussian, stage.beta_plateau)
        yield Filter(kernel.numpy())


def _draw_resize(stage: StageSpec, rng: np.random.Generator, size: tuple[int, int]) -> Resize:
    """Resize to a random share of a size."""
    smallest, largest = stage.resize_range
    choice = rng.choice(3, p=stage.resize_probabilities)
    share = (rng.uniform(1, largest), rng.uniform(smallest, 1), 1.0)[choice]
    height, width = (max(4, int(side * share)) for side in size)
    return Resize(height, width, str(rng.choice(_MODES)))


def _draw_noise(stage: StageSpec, rng: np.random.Generator) -> Iterator[Noise]:
    if rng.random() < stage.noise_probability:
        gray = rng.random() < stage.gray_probability
        if rng.random() < 0.5:
            yield Noise("gaussian", rng.uniform(*stage.gaussian_sigma) / 255, gray)
        else:
            yield Noise("poisson", rng.uniform(*stage.poisson_scale), gray)


def _draw_processing(spec: ProcessingSpec, rng: np.random.Generator) -> Iterator[Step]:
    if rng.random() < spec.mosaic_probability:
        yield Mosaic(int(rng.integers(2)), int(rng.integers(2)))
    if rng.random() < spec.sharpen_probability:
        yield Sharpen(rng.uniform(*spec.sharpen_sigma), rng.uniform(*spec.sharpen_amount))


def _draw_jpeg(stage: StageSpec, rng: np.random.Generator) -> Iterator[Jpeg]:
    if rng.random() < stage.jpeg_probability:
        lowest, highest = stage.jpeg_quality
        yield Jpeg(int(rng.integers(lowest, highest + 1)))


# --------------------------------------------------------------------------------------------------------------------- applying


def _carry_out(step: Step, x: Tensor, noise: torch.Generator) -> Tensor:
    match step:
        case Filter(kernel):
            return _filter(x, torch.from_numpy(kernel))
        case Resize(height, width, mode):
            return _resize(x, height, width, mode)
        case Noise(kind, strength, gray):
            return (_add_gaussian if kind == "gaussian" else _add_poisson)(x, strength, gray, noise)
        case Jpeg(quality):
            return jpeg(x.clamp(0, 1), quality)
        case Mosaic(row, column):
            return mosaic(x.clamp(0, 1), (row, column))
        case Sharpen(sigma, amount):
            return sharpen(x.clamp(0, 1), sigma, amount)


def _filter(x: Tensor, kernel: Tensor) -> Tensor:
    """Correlate every channel with one kernel by FFT: four times faster on a CPU than a 21×21 convolution."""
    side = kernel.shape[-1]
    pad = side // 2
    mode = "reflect" if min(x.shape[-2:]) > pad else "replicate"
    x = F.pad(x, (pad, pad, pad, pad), mode=mode)
    size = x.shape[-2:]
    product = torch.fft.rfft2(x) * torch.fft.rfft2(kernel.flip(0, 1).to(x), s=size)
    return torch.fft.irfft2(product, s=size)[..., side - 1 :, side - 1 :]


def _resize(x: Tensor, height: int, width: int, mode: str) -> Tensor:
    # plain interpolation without antialiasing is part of the degradation, unlike `images.resize`
    if x.shape[-2:] == (height, width):
        return x
    return F.interpolate(x, (height, width), mode=mode)


def _add_gaussian(x: Tensor, sigma: float, gray: bool, noise: torch.Generator) -> Tensor:
    shape = (1, 1, *x.shape[-2:]) if gray else x.shape
    return (x + sigma * torch.randn(shape, generator=noise, device=noise.device).to(x)).clamp(0, 1)


def _add_poisson(x: Tensor, factor: float, gray: bool, noise: torch.Generator) -> Tensor:
    clean = (x.clamp(0, 1) * 255).round() / 255
    if gray:
        clean = torch.einsum("c,bchw->bhw", x.new_tensor(_LUMA), clean)[:, None]
    # as many photons per unit of light as the picture has distinct values, rounded up to a power of two
    photons = 2.0 ** np.ceil(np.log2(max(2, len(torch.unique(clean)))))
    counts = torch.poisson((clean * photons).to(noise.device), generator=noise).to(x)
    return (x + factor * (counts / photons - clean)).clamp(0, 1)
