"""Losses as pure functions. Per-sample losses return shape (B,), so that each sample can be weighted by its timestep."""

import torch
import torch.nn.functional as F
from torch import Tensor


def charbonnier(a: Tensor, b: Tensor, eps: float = 1e-3) -> Tensor:
    """Mean of √((a − b)² + ε²) per sample: L1 with a smooth minimum. (B, C, H, W) twice → (B,)."""
    return ((a - b).square() + eps**2).sqrt().mean((1, 2, 3))


def low_frequency(a: Tensor, b: Tensor, side: int = 4) -> Tensor:
    """L1 between side×side averages per sample: holds colour and shading while texture is free. → (B,)."""
    return (F.avg_pool2d(a, side) - F.avg_pool2d(b, side)).abs().mean((1, 2, 3))


def mesh(a: Tensor, b: Tensor, period: int = 4, window: int = 8) -> Tensor:
    """Error of local means per sub-pixel phase, per sample: sees a pattern that repeats every `period` pixels. → (B,).

    A network that works on the low-resolution grid can only tell sub-pixel phases apart by its output channels, and a texture
    loss tempts it to paint the same little pattern everywhere. Over `window`×`window` repetitions true texture averages out, a
    mesh does not.
    """
    return F.avg_pool2d(F.pixel_unshuffle(a - b, period), window).abs().mean((1, 2, 3))


def generator_hinge(fake: Tensor) -> Tensor:
    """−D(fake) per sample: (B, 1, h, w) scores → (B,)."""
    return -fake.mean((1, 2, 3))


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator: mean max(0, 1 − D(real)) + mean max(0, 1 + D(fake)). → scalar."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def realism_weight(t: Tensor, first: int, last: int) -> Tensor:
    """w(t) = (t − first) / (last − first): 0 at the fidelity timestep, 1 at the realism timestep. (B,) → (B,)."""
    return ((t - first).float() / max(1, last - first)).clamp(0, 1).to(torch.float32)
