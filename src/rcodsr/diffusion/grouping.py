"""Degradation grouping: the latent metric (Eq. 6), the timestep it selects (Eq. 5), and the regulariser's window (Eq. 7).

The realism scale for users is the inverse of Eq. (5). It lives in `parts.GroupingSpec.realism_timestep`, so that the command
line can use it without loading torch.
"""

import torch
from torch import Tensor

from rcodsr.options import LAST_TIMESTEP
from rcodsr.parts import GroupingSpec, MetricKind

_FLAT = 1e-3
"""Standard deviation of a channel, in units of standardised latents, below which it is ignored."""


def latent_metric(z_l: Tensor, z_h: Tensor, kind: MetricKind = "cosine") -> Tensor:
    """Level of degradation M_L of each picture, Eq. (6): ⟨z_L, z_H⟩ / (‖z_L‖ ‖z_H‖) over all latent entries.

    Larger always means cleaner: "l1" and "mse" (the distances of Table S1(b)) are returned negated. "channel-cosine" (ours) is
    the mean over the channels of Eq. (6), after subtracting each channel's mean. The cosine over all entries together rates
    detailed pictures as degraded however good they are, because the detail missing from z_L outweighs the agreement.

    Args:
        z_l: latents of the enlarged low-resolution pictures, shape (B, C, h, w).
        z_h: latents of the ground truth, same shape.
        kind: the metric.

    Returns:
        Shape (B,), float32, no gradient; cosines lie in [-1, 1]. NaN where a latent has zero norm.
    """
    with torch.no_grad():
        if kind == "channel-cosine":
            return _channel_cosine(z_l.float().flatten(2), z_h.float().flatten(2))
        a, b = z_l.float().flatten(1), z_h.float().flatten(1)
        if kind == "l1":
            return -(a - b).abs().mean(1)
        if kind == "mse":
            return -(a - b).square().mean(1)
        return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def _channel_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Mean over the channels that vary in the truth `b`; those flat in `a` count as 0. (B, C, N) twice → (B,)."""
    a, b = a - a.mean(2, keepdim=True), b - b.mean(2, keepdim=True)
    floor = _FLAT * a.shape[2] ** 0.5
    cosine = (a * b).sum(2) / (a.norm(dim=2).clamp(min=floor) * b.norm(dim=2))
    return cosine.where(b.norm(dim=2) > floor, torch.nan).nanmean(1)


def group_timestep(metric: Tensor, spec: GroupingSpec) -> Tensor:
    """Timestep of each picture's degradation group, Eq. (5): t = k · (n − ⌊n (M − M_min) / (M_max − M_min)⌋).

    With `spec.continuous` the floor is left out (ours, not the paper's): t = k (1 + (n − 1)(1 − share)), with the same end
    points, k at M_max and n·k at M_min.

    The group index is clamped to [0, n − 1]: as printed, Eq. (5) gives t = 0 at M = M_max and t > n·k below M_min. A NaN metric
    (from a latent of zero norm) counts as M_min.

    Example: n = 3, k = 250, bounds (0.25, 1): M = 0.621 → 500 (the paper's Fig. S6).

    Args:
        metric: M_L of each picture, shape (B,), from `latent_metric` or an estimator.
        spec: n, k, M_min, M_max.

    Returns:
        Timesteps, shape (B,), int64, in {k, 2k, …, n·k}, or anywhere from k to n·k if continuous; at most 999. Larger means
            more generation.
    """
    metric = metric.double().nan_to_num(spec.metric_min)
    share = (metric - spec.metric_min) / (spec.metric_max - spec.metric_min)
    if spec.continuous:
        return (spec.k * (1 + (spec.n - 1) * (1 - share.clamp(0, 1)))).round().long().clamp(max=LAST_TIMESTEP)
    group = torch.floor(spec.n * share).clamp(0, spec.n - 1)
    return (spec.k * (spec.n - group)).long().clamp(max=LAST_TIMESTEP)


def regularizer_timestep(t: Tensor, k: int, generator: torch.Generator | None = None) -> Tensor:
    """Degradation-aware sampling (DAS), Eq. (7): t_r ~ U{max(20, t − k), …, min(980, t + k)}, both ends included.

    Args:
        t: the generator's timesteps, shape (B,), int64.
        k: half width of the window, the grouping's k.
        generator: random state on the device of t; None uses the global one.

    Returns:
        Timesteps for the regulariser, shape (B,), int64.
    """
    low = (t - k).clamp(min=20)
    high = (t + k).clamp(max=980)
    draw = torch.rand(t.shape, generator=generator, device=t.device, dtype=torch.float64)
    return torch.minimum(low + (draw * (high - low + 1)).long(), high)
