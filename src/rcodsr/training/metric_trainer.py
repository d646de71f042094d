"""Training of the metric estimator (MEM) after the generator, which stays frozen."""

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
    """Regresses M_L from what is available at inference: smooth L1 between M̂_L and Eq. (6).

    Only the model's estimator is trainable. A phase's crop covers the estimator's window and its surroundings.
    """

    def train_step(self, batches: Sequence[Batch], phase: Phase, rate: float, step: int) -> dict[str, float]:
        """Run one update; arguments and errors as in `Trainer.train_step`.

        Returns:
            The loss, the mean absolute error, and the share of pictures assigned to their true group.
        """
        return floats(self._update(self.passes(batches, phase), rate, step))

    def passes(self, batches: Sequence[Batch], phase: Phase) -> list[Facts]:
        """Run forward and backward; see `Trainer.passes`."""
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
    """Cut the estimator's input from training pairs: the middle of the enlarged crops, one window in size, and its target.

    Enlarging a window alone would leave border artefacts that windows within a picture do not have.

    Args:
        model: with a metric estimator.
        batch: crops larger than the window are cut to it.

    Returns:
        Twice (B, 3, window, window) in [0, 1]; smaller where the crops are.
    """
    assert model.spec.metric_estimator is not None
    side = model.spec.metric_estimator.window
    top, left = (max(0, length - side) // 2 for length in batch.hr.shape[-2:])
    middle = (..., slice(top, top + side), slice(left, left + side))
    return upsample(batch.lr, model.spec.scale)[middle], batch.hr[middle]
