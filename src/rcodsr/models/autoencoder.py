"""Pixels ↔ latents. `rcod-tiny` uses a fixed wavelet transform: nothing to train, no bottleneck, exactly invertible."""

import itertools

import torch
from torch import Tensor, nn

from rcodsr.models.layout import like_weights
from rcodsr.models.pixels import signed, unsigned
from rcodsr.parts import WaveletSpec


def lift(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """One CDF 5/3 lifting step along one dimension.

    The filters overlap (5 and 3 taps), so a change that a network makes in one sub-band fades out across its neighbours instead
    of ending at a block border. Source: Sweldens, The lifting scheme (1996); JPEG 2000 part 1.

    Args:
        x: shape (B, C, H, W), with an even number of entries along `dim`.
        dim: 2 or 3.

    Returns:
        Low-pass and high-pass halves; the same shape, half as long along `dim`.
    """
    even, odd = x.unflatten(dim, (-1, 2)).unbind(dim + 1)
    high = odd - 0.5 * (even + _next(even, dim))
    return even + 0.25 * (_previous(high, dim) + high), high


def unlift(low: Tensor, high: Tensor, dim: int) -> Tensor:
    """Inverse of `lift`: two halves of the same shape → (B, C, H, W), twice as long along `dim` (2 or 3)."""
    even = low - 0.25 * (_previous(high, dim) + high)
    odd = high + 0.5 * (even + _next(even, dim))
    return torch.stack((even, odd), dim + 1).flatten(dim, dim + 1)


def _next(x: Tensor, dim: int) -> Tensor:
    """Shift by one along `dim`: each entry's successor; the last entry repeats."""
    n = x.shape[dim]
    return torch.cat((x.narrow(dim, 1, n - 1), x.narrow(dim, n - 1, 1)), dim)


def _previous(x: Tensor, dim: int) -> Tensor:
    """Shift by one along `dim`: each entry's predecessor; the first entry repeats."""
    return torch.cat((x.narrow(dim, 0, 1), x.narrow(dim, 0, x.shape[dim] - 1)), dim)


def wavelet(x: Tensor) -> Tensor:
    """One level in two dimensions: (B, C, H, W) → (B, 4C, H/2, W/2), sub-bands LL, LH, HL, HH (first letter: across)."""
    low, high = lift(x, 3)
    return torch.cat((*lift(low, 2), *lift(high, 2)), 1)


def inverse_wavelet(z: Tensor) -> Tensor:
    """Inverse of `wavelet`: (B, 4C, H/2, W/2) → (B, C, H, W)."""
    ll, lh, hl, hh = z.chunk(4, 1)
    return unlift(unlift(ll, lh, 2), unlift(hl, hh, 2), 3)


class WaveletAutoencoder(nn.Module):
    """Two-level CDF 5/3 wavelet latents, each channel standardised, with a small refinement after the inverse.

    Without standardising, the low-pass channels would dominate M_L (Eq. 6) and hide degradation. The refinement removes the
    faint ringing left by edits of sub-bands; it starts as the identity.

    Args:
        spec: levels and width of the refinement.
    """

    keeps_float32 = True  # the transform subtracts nearly equal numbers
    mean: Tensor
    std: Tensor

    def __init__(self, spec: WaveletSpec) -> None:
        super().__init__()
        self.levels = spec.levels
        self.register_buffer("mean", torch.zeros(1, spec.channels, 1, 1))
        self.register_buffer("std", torch.ones(1, spec.channels, 1, 1))
        self.refine = _refinement(spec.refine_channels) if spec.refine_channels else None

    def fit(self, x: Tensor) -> None:
        """Set the channels' mean and standard deviation from ground-truth pictures, shape (B, 3, H, W) in [0, 1]."""
        z = self._transform(signed(x))
        self.mean.copy_(z.mean((0, 2, 3), keepdim=True))
        self.std.copy_(z.std((0, 2, 3), keepdim=True).clamp(min=1e-4))

    def encode(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] → standardised latents (B, 48, H/4, W/4), float32."""
        return self.standardise(signed(x))

    def standardise(self, x: Tensor) -> Tensor:
        """`encode` for a network's output: (B, 3, H, W), nominally in [-1, 1]."""
        return (self._transform(x) - self.mean) / self.std

    def decode(self, z: Tensor) -> Tensor:
        """Latents → pictures (B, 3, H, W), float32, nominally in [0, 1] but not clamped."""
        x = z * self.std + self.mean
        for _ in range(self.levels):
            x = inverse_wavelet(x)
        if self.refine is None:
            return unsigned(x)
        x = like_weights(x, self.refine)
        return unsigned(x + self.refine(x))

    def _transform(self, x: Tensor) -> Tensor:
        for _ in range(self.levels):
            x = wavelet(x)
        return x


def _refinement(channels: int) -> nn.Sequential:
    widths = (3, channels, channels, channels)
    layers: list[nn.Module] = []
    for wide_in, wide_out in itertools.pairwise(widths):
        layers += [nn.Conv2d(wide_in, wide_out, 3, padding=1), nn.LeakyReLU(0.1, inplace=True)]
    last = nn.Conv2d(channels, 3, 3, padding=1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, last)
