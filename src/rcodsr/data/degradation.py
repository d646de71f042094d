"""Synthetic degradation of photos: Real-ESRGAN's second-order pipeline on tensors, seeded per sample.

Every random choice follows from the sample's own seed, so a sample is the same whatever batch, worker or run asks for it. The
choices are drawn first, by numpy (`sample_degradation`), and carried out later, on any device (`apply`).
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

Range = tuple[float, float]


@dataclass(frozen=True)
class StageSpec:
    """One round of blur → resize → noise → JPEG."""

    blur_probability: float
    blur_sigma: Range
    beta_gaussian: Range
    beta_plateau: Range
    sinc_probability: float
    resize_probabilities: tuple[float, float, float]
    """Of enlarging, shrinking, keeping."""
    resize_range: Range
    noise_probability: float
    gaussian_sigma: Range
    """In 8-bit steps; half of the noisy pictures are Gaussian, half Poisson."""
    poisson_scale: Range
    gray_probability: float
    jpeg_probability: float
    jpeg_quality: tuple[int, int]


@dataclass(frozen=True)
class DegradationSpec:
    """A preset: one or two stages and a final sinc filter."""

    first: StageSpec
    second: StageSpec | None
    final_sinc_probability: float


# Real-ESRGAN's x4plus options, which OSEDiff trains on
_FULL = DegradationSpec(
    first=StageSpec(
        blur_probability=1.0,
        blur_sigma=(0.2, 3.0),
        beta_gaussian=(0.5, 4.0),
        beta_plateau=(1.0, 2.0),
        sinc_probability=0.1,
        resize_probabilities=(0.2, 0.7, 0.1),
        resize_range=(0.15, 1.5),
        noise_probability=1.0,
        gaussian_sigma=(1, 30),
        poisson_scale=(0.05, 3.0),
        gray_probability=0.4,
        jpeg_probability=1.0,
        jpeg_quality=(30, 95),
    ),
    second=StageSpec(
        blur_probability=0.8,
        blur_sigma=(0.2, 1.5),
        beta_gaussian=(0.5, 4.0),
        beta_plateau=(1.0, 2.0),
        sinc_probability=0.1,
        resize_probabilities=(0.3, 0.4, 0.3),
        resize_range=(0.3, 1.2),
        noise_probability=1.0,
        gaussian_sigma=(1, 25),
        poisson_scale=(0.05, 2.5),
        gray_probability=0.4,
        jpeg_probability=1.0,
        jpeg_quality=(30, 95),
    ),
    final_sinc_probability=0.8,
)
# the milder setting shared by S3Diff, StableSR's published test data and AdcSR
_LIGHT = DegradationSpec(
    first=StageSpec(
        blur_probability=1.0,
        blur_sigma=(0.2, 1.5),
        beta_gaussian=(0.5, 2.0),
        beta_plateau=(1.0, 1.5),
        sinc_probability=0.1,
        resize_probabilities=(0.2, 0.7, 0.1),
        resize_range=(0.3, 1.5),
        noise_probability=1.0,
        gaussian_sigma=(1, 15),
        poisson_scale=(0.05, 2.0),
        gray_probability=0.4,
        jpeg_probability=1.0,
        jpeg_quality=(60, 95),
    ),
    second=StageSpec(
        blur_probability=0.5,
        blur_sigma=(0.2, 1.0),
        beta_gaussian=(0.5, 2.0),
        beta_plateau=(1.0, 1.5),
        sinc_probability=0.1,
        resize_probabilities=(0.3, 0.4, 0.3),
        resize_range=(0.6, 1.2),
        noise_probability=1.0,
        gaussian_sigma=(1, 12),
        poisson_scale=(0.05, 1.0),
        gray_probability=0.4,
        jpeg_probability=1.0,
        jpeg_quality=(60, 100),
    ),
    final_sinc_probability=0.8,
)
# ours: what a camera does at its worst: lens blur, then little noise and light JPEG, each on half of the pictures
_CAMERA = DegradationSpec(
    first=StageSpec(
        blur_probability=1.0,
        blur_sigma=(0.6, 3.0),
        beta_gaussian=(0.5, 2.0),
        beta_plateau=(1.0, 2.0),
        sinc_probability=0.0,
        resize_probabilities=(0.0, 0.0, 1.0),
        resize_range=(1.0, 1.0),
        noise_probability=0.5,
        gaussian_sigma=(1, 8),
        poisson_scale=(0.05, 0.8),
        gray_probability=0.4,
        jpeg_probability=0.5,
        jpeg_quality=(60, 98),
    ),
    second=None,
    final_sinc_probability=0.0,
)
# ours: pictures that were only made small, so that sharp inputs are not sharpened into halos
_CLEAN = DegradationSpec(
    first=StageSpec(
        blur_probability=0.5,
        blur_sigma=(0.2, 0.8),
        beta_gaussian=(0.5, 2.0),
        beta_plateau=(1.0, 2.0),
        sinc_probability=0.0,
        resize_probabilities=(0.0, 0.0, 1.0),
        resize_range=(1.0, 1.0),
        noise_probability=0.0,
        gaussian_sigma=(0, 0),
        poisson_scale=(0.0, 0.0),
        gray_probability=0.0,
        jpeg_probability=0.3,
        jpeg_quality=(85, 98),
    ),
    second=None,
    final_sinc_probability=0.0,
)
PRESETS = {"full": _FULL, "light": _LIGHT, "camera": _CAMERA, "clean": _CLEAN}
_LUMA = (0.299, 0.587, 0.114)
_MODES = ("area", "bilinear", "bicubic")


@dataclass(frozen=True, eq=False)
class Filter:
    """Correlate every channel with one kernel."""

    kernel: np.ndarray
    """Shape (side, side), float32. No tensor: each would cost a file descriptor on its way from a data worker."""


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
    """The same in every channel."""


@dataclass(frozen=True)
class Jpeg:
    """Compress and decompress."""

    quality: int


Step = Filter | Resize | Noise | Jpeg


@dataclass(frozen=True)
class Degradation:
    """What happens to one photo: steps in their order, nothing left to chance but the noise itself."""

    steps: tuple[Step, ...]
    noise_seed: int


def degrade(hr: Tensor, spec: DegradationSpec, seed: int | tuple[int, ...], scale: int = 4) -> Tensor:
    """Make the low-resolution picture of one photo.

    Args:
        hr: shape (3, H, W) in [0, 1], sides multiples of `scale`.
        spec: a preset.
        seed: decides everything random about this sample.
        scale: how much smaller the result is.

    Returns:
        Shape (3, H/scale, W/scale) in [0, 1], rounded to 8-bit values.
    """
    return apply(hr, sample_degradation(spec, seed, hr.shape[-2], hr.shape[-1], scale))


def sample_degradation(
    spec: DegradationSpec, seed: int | tuple[int, ...], height: int, width: int, scale: int = 4
) -> Degradation:
    """Draw what happens to one photo of (height, width) pixels; arguments as in `degrade`."""
    rng = np.random.default_rng(seed)
    noise_seed = int(rng.integers(2**62))
    return Degradation(tuple(_draw_steps(spec, rng, (height, width), (height // scale, width // scale))), noise_seed)


def apply(hr: Tensor, degradation: Degradation) -> Tensor:
    """Carry out a degradation on its photo.

    The noise is drawn from the sample's own seed, on a CUDA device by its own generator, otherwise on the CPU: the same in any
    batch and worker, but other noise on CUDA than on a CPU.

    Args:
        hr: shape (3, H, W) in [0, 1], float32, on any device; of the size that the degradation was drawn for.
        degradation: from `sample_degradation`.

    Returns:
        Shape (3, H/scale, W/scale) in [0, 1], rounded to 8-bit values.
    """
    noise = torch.Generator(hr.device if hr.is_cuda else "cpu").manual_seed(degradation.noise_seed)
    x = hr[None]
    # half precision, where a trainer has it on, is too coarse for 8-bit values
    with torch.no_grad(), torch.autocast(hr.device.type, enabled=False):
        for step in degradation.steps:
            x = _carry_out(step, x, noise)
        return (x[0].clamp(0, 1) * 255).round() / 255


def degrade_batch(hr: Tensor, degradations: Sequence[Degradation]) -> Tensor:
    """Carry out one degradation per photo; each result is what `apply` gives for the photo alone, bit for bit.

    A plain loop: sizes in between differ from photo to photo.

    Args:
        hr: shape (B, 3, H, W) in [0, 1], float32, on any device.
        degradations: B of them, of any presets, drawn for (H, W) and one scale.

    Returns:
        Shape (B, 3, H/scale, W/scale) in [0, 1], rounded to 8-bit values, on the same device.
    """
    return torch.stack([apply(photo, degradation) for photo, degradation in zip(hr, degradations, strict=True)])


# ------------------------------------------------------------------------- drawing; the order of the draws is part of the data


def _draw_steps(spec: DegradationSpec, rng: np.random.Generator, high: tuple[int, int], low: tuple[int, int]) -> Iterator[Step]:
    first, second = spec.first, spec.second
    yield from _draw_blur(first, rng)
    if second is None:
        yield Resize(*low, "area" if rng.random() < 0.5 else "bicubic")
        yield from _draw_noise(first, rng)
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
    """To a random share of a size."""
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


def _draw_jpeg(stage: StageSpec, rng: np.random.Generator) -> Iterator[Jpeg]:
    if rng.random() < stage.jpeg_probability:
        lowest, highest = stage.jpeg_quality
        yield Jpeg(int(rng.integers(lowest, highest + 1)))


# ----------------------------------------------------------------------------------------------------------------- carrying out


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


def _filter(x: Tensor, kernel: Tensor) -> Tensor:
    """Correlate every channel with one kernel, by FFT: four times faster than a 21×21 convolution on a CPU."""
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
    # photon counts: as many per unit of light as the picture has distinct values, rounded up to a power of two
    photons = 2.0 ** np.ceil(np.log2(max(2, len(torch.unique(clean)))))
    counts = torch.poisson((clean * photons).to(noise.device), generator=noise).to(x)
    return (x + factor * (counts / photons - clean)).clamp(0, 1)
