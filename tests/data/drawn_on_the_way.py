"""Degradation as it was when the embedded weights were trained: choices drawn during processing.

Kept as the reference for `data.degradation`, which draws all choices first and must produce the same bits.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rcodsr.data.jpeg import jpeg
from rcodsr.data.kernels import random_kernel, sinc_kernel
from rcodsr.data.presets import DegradationSpec, StageSpec

_LUMA = (0.299, 0.587, 0.114)
_MODES = ("area", "bilinear", "bicubic")


def drawn_on_the_way(hr: Tensor, spec: DegradationSpec, seed: int | tuple[int, ...], scale: int = 4) -> Tensor:
    rng = np.random.default_rng(seed)
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
    height, width = hr.shape[-2] // scale, hr.shape[-1] // scale
    x = hr[None]
    if spec.second is None:
        x = _resize(_blur(x, spec.first, rng), height, width, "area" if rng.random() < 0.5 else "bicubic")
        x = _compress(_noise(x, spec.first, rng, noise), spec.first, rng)
    else:
        x = _blur(x, spec.first, rng)
        x = _random_resize(x, spec.first, rng, hr.shape[-2], hr.shape[-1])
        x = _compress(_noise(x, spec.first, rng, noise), spec.first, rng)
        x = _blur(x, spec.second, rng)
        x = _random_resize(x, spec.second, rng, height, width)
        x = _noise(x, spec.second, rng, noise)
        x = _finish(x, spec, rng, height, width)
    return (x[0].clamp(0, 1) * 255).round() / 255


def _finish(x: Tensor, spec: DegradationSpec, rng: np.random.Generator, height: int, width: int) -> Tensor:
    """The last resize with its sinc filter, before or after the last JPEG."""
    assert spec.second is not None
    compress_last = rng.random() < 0.5
    if not compress_last:
        x = _compress(x, spec.second, rng)
    x = _resize(x, height, width, str(rng.choice(_MODES)))
    if rng.random() < spec.final_sinc_probability:
        x = _filter(x, sinc_kernel(int(rng.choice(range(7, 22, 2))), rng.uniform(np.pi / 3, np.pi)))
    return _compress(x, spec.second, rng) if compress_last else x


def _blur(x: Tensor, stage: StageSpec, rng: np.random.Generator) -> Tensor:
    if rng.random() >= stage.blur_probability:
        return x
    return _filter(x, random_kernel(rng, stage.blur_sigma, stage.sinc_probability, stage.beta_gaussian, stage.beta_plateau))


def _filter(x: Tensor, kernel: Tensor) -> Tensor:
    """Correlate every channel with one kernel, by FFT: four times faster than a 21×21 convolution on a CPU."""
    side = kernel.shape[-1]
    pad = side // 2
    mode = "reflect" if min(x.shape[-2:]) > pad else "replicate"
    x = F.pad(x, (pad, pad, pad, pad), mode=mode)
    size = x.shape[-2:]
    product = torch.fft.rfft2(x) * torch.fft.rfft2(kernel.flip(0, 1).to(x), s=size)
    return torch.fft.irfft2(product, s=size)[..., side - 1 :, side - 1 :]


def _random_resize(x: Tensor, stage: StageSpec, rng: np.random.Generator, height: int, width: int) -> Tensor:
    """Resize to a random share of (height, width)."""
    low, high = stage.resize_range
    choice = rng.choice(3, p=stage.resize_probabilities)
    share = (rng.uniform(1, high), rng.uniform(low, 1), 1.0)[choice]
    return _resize(x, max(4, int(height * share)), max(4, int(width * share)), str(rng.choice(_MODES)))


def _resize(x: Tensor, height: int, width: int, mode: str) -> Tensor:
    # plain interpolation without antialiasing is part of the degradation, unlike `images.resize`
    if x.shape[-2:] == (height, width):
        return x
    return F.interpolate(x, (height, width), mode=mode)


def _noise(x: Tensor, stage: StageSpec, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
    if rng.random() >= stage.noise_probability:
        return x
    gray = rng.random() < stage.gray_probability
    if rng.random() < 0.5:
        sigma = rng.uniform(*stage.gaussian_sigma) / 255
        shape = (1, 1, *x.shape[-2:]) if gray else x.shape
        return (x + sigma * torch.randn(shape, generator=generator).to(x)).clamp(0, 1)
    clean = (x.clamp(0, 1) * 255).round() / 255
    if gray:
        clean = torch.einsum("c,bchw->bhw", x.new_tensor(_LUMA), clean)[:, None]
    # photon counts: as many per unit of light as the picture has distinct values, rounded up to a power of two
    photons = 2.0 ** np.ceil(np.log2(max(2, len(torch.unique(clean)))))
    counts = torch.poisson((clean * photons).cpu(), generator=generator).to(x)
    return (x + rng.uniform(*stage.poisson_scale) * (counts / photons - clean)).clamp(0, 1)


def _compress(x: Tensor, stage: StageSpec, rng: np.random.Generator) -> Tensor:
    if rng.random() >= stage.jpeg_probability:
        return x
    low, high = stage.jpeg_quality
    return jpeg(x.clamp(0, 1), int(rng.integers(low, high + 1)))
