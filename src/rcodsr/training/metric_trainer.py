"""Training of the metric estimator (MEM) after the generator, which stays as it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from rcodsr.data.dataset import Batch
from rcodsr.diffusion.grouping import group_timestep
from rcodsr.images.resize import upsample
from rcodsr.models.one_step import OneStepSR
from rcodsr.training.objectives import Facts
from rcodsr.training.recipe import Phase
from rcodsr.training.trainer import Trainer, floats


class MetricTrainer(Trainer):
    """Regresses M_L from what inference knows: smooth L1 between M̂_L and Eq. (6).

    Only the estimator of the model requires gradients. A phase's crop is the estimator's window and what lies around it.
    """

    def train_step(self, batches: Sequence[Batch], phase: Phase, rate: float, step: int) -> dict[str, float]:
        """One update; arguments and errors as `Trainer.train_step`.

        Returns:
            The loss, the mean absolute error, and the share of pictures that fall into their true group.
        """
        return floats(self._update(self.passes(batches, phase), rate, step))

    def passes(self, batches: Sequence[Batch], phase: Phase) -> list[Facts]:
        """Forward and back; arguments as `Trainer.passes`."""
        facts = []
        for batch in batches:
            loss, seen = self._loss(batch)
            self.optimizer.backward(loss / len(batches))
            facts.append({"loss": loss.detach(), **seen})
        return facts

    def _loss(self, batch: Batch) -> tuple[Tensor, Facts]:
        model, grouping = self.model, self.model.spec.grouping
        x_l, x_h = windows(model, batch)
        true = model.similarity(x_l, x_h)
        known = ~true.isnan()  # a flat crop has no direction to compare
        counted = known.sum().clamp(min=1)
        estimated, wanted = model.estimate(x_l), true.nan_to_num()
        loss = (F.smooth_l1_loss(estimated, wanted, beta=0.1, reduction="none") * known).sum() / counted
        error = ((estimated - wanted).abs() * known).sum() / counted
        right = (group_timestep(estimated, grouping) == group_timestep(true, grouping)).float().mean()
        return loss, {"mae": error, "group_accuracy": right}


def windows(model: OneStepSR, batch: Batch) -> tuple[Tensor, Tensor]:
    """What is judged of training pairs: the middle of the enlarged crops, as large as a window, and its ground truth.

    Enlarging a window alone would leave marks along its border that no window of a picture has.

    Args:
        model: with a metric estimator.
        batch: crops at least as large as its window are cut to it.

    Returns:
        Twice (B, 3, window, window) in [0, 1]; smaller where the crops are.
    """
    assert model.spec.metric_estimator is not None
    side = model.spec.metric_estimator.window
    top, left = (max(0, length - side) // 2 for length in batch.hr.shape[-2:])
    middle = (..., slice(top, top + side), slice(left, left + side))
    return upsample(batch.lr, model.spec.scale)[middle], batch.hr[middle]
