"""Calibration of the grouping on a set of M_L: quantiles, shares of the groups, and the accuracy of an estimator."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from rcodsr.bench.latents import spearman
from rcodsr.diffusion.grouping import group_timestep
from rcodsr.parts import GroupingSpec

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def borders(grouping: GroupingSpec) -> list[float]:
    """M_L at which a picture changes group, ascending."""
    step = (grouping.metric_max - grouping.metric_min) / grouping.n
    return [grouping.metric_min + i * step for i in range(1, grouping.n)]


def group_shares(values: Sequence[float], grouping: GroupingSpec) -> dict[int, float]:
    """Share of pictures at each group's timestep, from fidelity to realism."""
    t = group_timestep(torch.tensor(values), replace(grouping, continuous=False)).tolist()
    return {timestep: t.count(timestep) / len(t) for timestep in grouping.timesteps}


def suggested_bounds(values: Sequence[float], n: int) -> tuple[float, float]:
    """M_min and M_max that give both outer groups an equal share.

    Only the outer borders can be chosen, because groups have equal widths; with n = 3 all shares become equal.
    """
    low, high = np.quantile(values, [1 / n, 1 - 1 / n])
    width = (high - low) / max(1, n - 2)
    return float(low - width), float(high + width)


def quality(estimated: Sequence[float], true: Sequence[float], grouping: GroupingSpec) -> dict[str, float]:
    """Accuracy of estimates: mean absolute error, rank correlation, and group accuracy beside the largest group's share."""
    plain = replace(grouping, continuous=False)
    guessed, right = (group_timestep(torch.tensor(values), plain) for values in (estimated, true))
    return {
        "mae": float(np.abs(np.subtract(estimated, true)).mean()),
        "spearman": spearman(estimated, true),
        "group_accuracy": float((guessed == right).float().mean()),
        "majority_share": max(group_shares(true, grouping).values()),
    }
