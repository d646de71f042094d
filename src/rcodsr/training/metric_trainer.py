"""Training of the metric estimator (MEM) after the generator, which stays as it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rcodsr.diffusion.grouping import group_timestep
from rcodsr.errors import RcodsrError
from rcodsr.images.resize import upsample
from rcodsr.models.one_step import OneStepSR
from rcodsr.training.processes import Processes
from rcodsr.training.recipe import Phase, Recipe
from rcodsr.training.trainer import Batch, GeneratorTrainer


class MetricTrainer(GeneratorTrainer):
    """Regresses M_L from what inference knows: smooth L1 between M̂_L and Eq. (6).

    Args:
        recipe: rates and phases; a phase's crop is the estimator's window and what lies around it.
        model: on the device; only its estimator requires gradients.
        processes: who the gradients are shared with.
    """

    def __init__(self, recipe: Recipe, model: OneStepSR, processes: Processes) -> None:
        super().__init__(recipe, model, (), None, processes)

    def train_step(self, batches: Sequence[Batch], phase: Phase, rate: float, step: int) -> dict[str, float]:
        """One update; arguments as `GeneratorTrainer.train_step`.

        Returns:
            The loss, the mean absolute error, and the share of pictures that fall into their true group.

        Raises:
            RcodsrError: when the loss is not finite.
        """
        model, grouping, facts = self.model, self.model.spec.grouping, []
        for batch in batches:
            x_l, x_h = windows(model, batch.lr, batch.hr)
            true = model.similarity(x_l, x_h)
            known = ~true.isnan()  # a flat crop has no direction to compare
            estimated = model.estimate(x_l)
            loss = F.smooth_l1_loss(estimated[known], true[known], beta=0.1) if known.any() else estimated.sum() * 0
            (loss / len(batches)).backward()
            error = (estimated - true).abs()[known].mean().nan_to_num()
            right = (group_timestep(estimated, grouping) == group_timestep(true, grouping)).float().mean()
            facts.append({"loss": loss, "mae": error, "group_accuracy": right})
        averaged = self._averaged(facts)
        if not torch.isfinite(averaged["loss"]):
            raise RcodsrError("training", f"the loss is not finite at step {step}", "resume with a lower learning rate")
        averaged["grad_norm"] = self.optimizer.step(rate)
        if self.average is not None:
            self.average.update(step)
        return {name: float(value) for name, value in averaged.items()}


def windows(model: OneStepSR, lr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
    """What is judged of training pairs: the middle of the enlarged crops, as large as a window, and its ground truth.

    Enlarging a window alone would leave marks along its border that no window of a picture has.

    Args:
        model: with a metric estimator.
        lr: shape (B, 3, h, w) in [0, 1].
        hr: shape (B, 3, 4h, 4w) in [0, 1].
    """
    assert model.spec.metric_estimator is not None
    side = model.spec.metric_estimator.window
    top, left = (max(0, length - side) // 2 for length in hr.shape[-2:])
    middle = (..., slice(top, top + side), slice(left, left + side))
    return upsample(lr, model.spec.scale)[middle], hr[middle]
