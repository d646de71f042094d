"""L_data: the pixel error, λ1 · perceptual distance, and our additional terms."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from rcodsr.models.one_step import OneStepSR
from rcodsr.parts import GroupingSpec
from rcodsr.training.losses import (
    charbonnier,
    clamped_mse,
    faint_distance,
    low_frequency,
    mesh,
    overshoot,
    realism_weight,
    wavelet_distance,
)
from rcodsr.training.objectives import Facts, Generated
from rcodsr.training.perceptual import Distance
from rcodsr.training.recipe import Phase, Recipe


@dataclass(frozen=True)
class Term:
    """One term added to the pixel error."""

    name: str
    """Name in the log."""
    weight: Callable[[Phase], float]
    """Returns the term's weight in a phase; a term of weight 0 is skipped."""
    distance: Callable[[Generated, Phase], Tensor]
    """Distance per sample, shape (B,)."""
    textured: bool = False
    """Whether the term is scaled by each sample's texture weight."""


class DataLoss:
    """Weighted sum of a phase's terms.

    Args:
        recipe: says whether losses are weighted by the timestep, and whether any phase restrains the model.
        model: at the start of the run; a frozen copy of it serves as the restraint.
        perceptual: distance for λ1, or None.
    """

    def __init__(self, recipe: Recipe, model: OneStepSR, perceptual: Distance | None) -> None:
        self.weight_losses = recipe.timestep.weight_losses
        restrained = any(phase.restrain for phase in recipe.phases)
        self.before = copy.deepcopy(model).eval().requires_grad_(False) if restrained else None
        self.perceptual = perceptual
        self.terms = (
            Term("mesh", lambda phase: phase.mesh, _compared(partial(mesh, period=model.spec.scale))),
            Term("overshoot", lambda phase: phase.overshoot, _compared(overshoot)),
            Term("energy", lambda phase: phase.energy, _compared(wavelet_distance), textured=True),
            Term("faint", lambda phase: phase.faint, _compared(faint_distance), textured=True),
            Term("departure", lambda phase: phase.restrain, self._departure),
            Term("perceptual", lambda phase: phase.perceptual, self._perceived, textured=True),
        )

    def __call__(self, made: Generated, phase: Phase) -> tuple[Tensor, Facts]:
        """Return the loss per sample, (B,), and the mean of each term before weighting."""
        pixel, error = self._pixel(made, phase)
        loss, facts = phase.pixel_weight * pixel, {"pixel": error.mean()}
        for term in self.terms:
            if weight := term.weight(phase):
                distance = term.distance(made, phase)
                loss = loss + (weight * made.texture if term.textured else weight) * distance
                facts[term.name] = distance.mean()
        return loss, facts

    def _pixel(self, made: Generated, phase: Phase) -> tuple[Tensor, Tensor]:
        """Weighted and raw pixel error. Charbonnier fades with w(t) and constrains low frequencies instead."""
        error = (clamped_mse if phase.pixel == "mse" else charbonnier)(made.picture, made.target)
        if phase.pixel == "mse" or not self.weight_losses:
            return error, error
        return error * (1 - phase.pixel_fade * made.weight) + low_frequency(made.picture, made.target) * made.weight, error

    def _perceived(self, made: Generated, phase: Phase) -> Tensor:
        assert self.perceptual is not None  # checked by the recipe
        shown = made.picture.clamp(0, 1) if phase.pixel == "mse" else made.picture
        return self.perceptual(shown, made.target)

    def _departure(self, made: Generated, phase: Phase) -> Tensor:
        return charbonnier(made.picture, self.restrained(made, phase))

    @torch.no_grad()
    def restrained(self, made: Generated, phase: Phase) -> Tensor:
        """Restore the batch with the run's initial weights, at timesteps nearer to k: (B, 3, H, W)."""
        assert self.before is not None
        first, last = realism_range(self.before.spec.grouping)
        nearer = phase.restraint * realism_weight(made.timestep, first, last) ** phase.bend
        t = (first + nearer * (last - first)).round().long()
        condition = replace(self.before.condition(made.x_l, t), origin=made.draws.origins().to(t.device))
        picture: Tensor = self.before(made.x_l, condition)
        return picture


def _compared(distance: Distance) -> Callable[[Generated, Phase], Tensor]:
    return lambda made, phase: distance(made.picture, made.target)


def realism_range(grouping: GroupingSpec) -> tuple[int, int]:
    """Timesteps at realism 0 and 1."""
    return grouping.realism_timestep(0.0), grouping.realism_timestep(1.0)
