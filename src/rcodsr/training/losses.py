"""Losses as pure functions. Per-sample losses return shape (B,), so that each sample can be weighted by its timestep.

Pictures are in [0, 1], but their differences are doubled, as in [-1, 1]: OSEDiff and our recipes set loss weights for that
range.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rcodsr.models.autoencoder import wavelet
from rcodsr.models.pixels import signed


def clamped_mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error per sample of pictures clamped to [0, 1], as in OSEDiff. (B, C, H, W) twice → (B,)."""
    return _difference(a.clamp(0, 1), b).square().mean((1, 2, 3))


def charbonnier(a: Tensor, b: Tensor, eps: float = 1e-3) -> Tensor:
    """Mean of √((a − b)² + ε²) per sample: L1 with a smooth minimum. (B, C, H, W) twice → (B,)."""
    return (_difference(a, b).square() + eps**2).sqrt().mean((1, 2, 3))


def low_frequency(a: Tensor, b: Tensor, side: int = 4) -> Tensor:
    """L1 between side×side averages, per sample: constrains colour and shading but not texture. → (B,)."""
    return F.avg_pool2d(_difference(a, b), side).abs().mean((1, 2, 3))


def mesh(a: Tensor, b: Tensor, period: int = 4, window: int = 8) -> Tensor:
    """Error of local means per sub-pixel phase, per sample: detects patterns that repeat every `period` pixels. → (B,).

    A network on the low-resolution grid can distinguish sub-pixel phases only by its output channels, and texture losses tempt
    it to paint the same small pattern everywhere. Averaged over `window`×`window` repetitions, true texture vanishes but a mesh
    remains.
    """
    return F.avg_pool2d(F.pixel_unshuffle(_difference(a, b), period), window).abs().mean((1, 2, 3))


def overshoot(a: Tensor, b: Tensor, reach: int = 2) -> Tensor:
    """Distance by which pixels of `a` leave the range of `b` within `reach` pixels, per sample. (B, C, H, W) twice → (B,).

    Halos beside edges are penalised; texture that is merely displaced is not.
    """
    side = 2 * reach + 1
    with torch.no_grad():
        highest, lowest = F.max_pool2d(b, side, 1, reach), -F.max_pool2d(-b, side, 1, reach)
    return (F.relu(_difference(a, highest)) + F.relu(_difference(lowest, a))).mean((1, 2, 3))


def wavelet_distance(a: Tensor, b: Tensor, levels: int = 3) -> Tensor:
    """A perceptual stand-in without weights: L1 between local energies of detail sub-bands, per sample. → (B,).

    Texture of the right strength costs nothing even where its phase differs; missing or excessive texture does.
    """
    return _between_details(a, b, levels, _energy)


def faint_distance(a: Tensor, b: Tensor, levels: int = 2) -> Tensor:
    """L1 between logarithms of local energies where detail is weak in both, per sample. (B, C, H, W) twice → (B,).

    `wavelet_distance` is nearly blind to the grain of a smooth sky. Here, halving or doubling the grain costs as much as
    halving or doubling any texture. Detail stronger than about three of 255 levels counts as equally strong.
    """
    return _between_details(a, b, levels, _faint)


def _difference(a: Tensor, b: Tensor) -> Tensor:
    return 2 * (a - b)


def _between_details(a: Tensor, b: Tensor, levels: int, measure: Callable[[Tensor], Tensor]) -> Tensor:
    a, b, total = signed(a), signed(b), a.new_zeros(len(a))
    for _ in range(levels):
        (a, a_detail), (b, b_detail) = _details(a), _details(b)
        total = total + (measure(a_detail) - measure(b_detail)).abs().mean((1, 2, 3))
    return total / levels


def _faint(x: Tensor, weakest: float = 0.4 / 127.5, strongest: float = 3 / 127.5) -> Tensor:
    energy = F.avg_pool2d(x.square(), 8, stride=4, ceil_mode=True)
    return 0.5 * (energy.clamp(max=strongest**2) + weakest**2).log()


def _details(x: Tensor) -> tuple[Tensor, Tensor]:
    bands = wavelet(x)
    return bands[:, : x.shape[1]], bands[:, x.shape[1] :]


def _energy(x: Tensor) -> Tensor:
    # the small number keeps the root's gradient finite in flat areas
    return (F.avg_pool2d(x.square(), 4, stride=2, ceil_mode=True) + 1e-6).sqrt()


def distillation(z: Tensor, x0_regularizer: Tensor, x0_frozen: Tensor) -> Tensor:
    """Variational score distillation as a loss with the right gradient, per sample: (B, C, h, w) three times → (B,).

    Algorithm 1, line 15, stops the gradient of both estimates inside the norm; taken literally, no gradient is left. This is
    OSEDiff's surrogate: the distance to a fixed target, so that for the mean over the batch
    dL/dẑ = 2 (x0′ − x0*) / (w · numel): ẑ_H moves towards the frozen φ's estimate and away from φ′'s.

    Args:
        z: ẑ_H.
        x0_regularizer: x0′, the estimate of φ′ from the noised ẑ_H.
        x0_frozen: x0*, the estimate of the frozen φ, with guidance.
    """
    with torch.no_grad():
        weight = (z - x0_frozen).abs().mean((1, 2, 3), keepdim=True) + 1e-6
        target = z - (x0_regularizer - x0_frozen) / weight
    return (z - target).square().mean((1, 2, 3))


def generator_hinge(fake: Tensor) -> Tensor:
    """−D(fake) per sample: (B, 1, h, w) scores → (B,)."""
    return -fake.mean((1, 2, 3))


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator per sample: mean max(0, 1 − D(real)) + mean max(0, 1 + D(fake)). → (B,)."""
    return F.relu(1 - real).mean((1, 2, 3)) + F.relu(1 + fake).mean((1, 2, 3))


def pair_loss(margins: Sequence[Tensor], real_wins: bool) -> Tensor:
    """Relativistic pairs: mean log(1 + e^∓m) over places and levels, per sample. Margins D(real) − D(fake), (B, n) each → (B,).

    The discriminator wants the real picture to win, the generator its own. A sample that looks as real as its ground truth has
    half the gradient of one that does not; a sample that looks more real has almost none.
    """
    sign = -1 if real_wins else 1
    return torch.stack([F.softplus(sign * m).mean(1) for m in margins]).mean(0)


def cross_entropy(scores: Sequence[Tensor], real: bool) -> Tensor:
    """Binary cross entropy of a multi-level discriminator, summed over its heads, per sample: logits (B, n) each → (B,).

    The target for "real" is 0.8, as in S3Diff, for the discriminator and the generator; for "fake" it is 0.
    """
    target = 0.8 if real else 0.0
    terms = [F.binary_cross_entropy_with_logits(s, torch.full_like(s, target), reduction="none").mean(1) for s in scores]
    return torch.stack(terms).sum(0)


def realism_weight(t: Tensor, first: int, last: int) -> Tensor:
    """w(t) = (t − first) / (last − first): 0 at the fidelity timestep, 1 at the realism timestep. (B,) → (B,)."""
    return ((t - first).float() / max(1, last - first)).clamp(0, 1).to(torch.float32)
