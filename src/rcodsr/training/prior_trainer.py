"""A small diffusion prior on a variant's own latents: the frozen φ that VSD needs where there is no Stable Diffusion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rcodsr.errors import RcodsrError
from rcodsr.images.resize import upsample
from rcodsr.models.one_step import OneStepSR
from rcodsr.training.processes import Processes
from rcodsr.training.recipe import Phase, Recipe
from rcodsr.training.trainer import Batch, GeneratorTrainer

_DROPPED = 0.1
"""Share of the samples that see no tokens, so that guidance has something to point away from."""


class PriorTrainer(GeneratorTrainer):
    """Trains the same networks as an ordinary noise predictor: L = ‖ε_φ(z_t; t, c_y) − ε‖², t uniform in 0…999.

    Args:
        recipe: rates and phases; weights of losses are not used.
        model: on the device, with plain noise prediction.
        processes: who the gradients are shared with.
    """

    def __init__(self, recipe: Recipe, model: OneStepSR, processes: Processes) -> None:
        super().__init__(recipe, model, (), None, processes)

    def train_step(self, batches: Sequence[Batch], phase: Phase, rate: float, step: int) -> dict[str, float]:
        """One update; arguments as `GeneratorTrainer.train_step`.

        Raises:
            RcodsrError: when the loss is not finite.
        """
        losses = []
        for batch in batches:
            with self._precision():
                loss = self._loss(batch).mean()
            (loss / len(batches)).backward()
            losses.append(loss.detach())
        mean = self.processes.average(torch.stack(losses).mean())
        if not torch.isfinite(mean):
            raise RcodsrError("training", f"the loss is not finite at step {step}", "resume with a lower learning rate")
        norm = self.optimizer.step(rate)
        if self.average is not None:
            self.average.update(step)
        return {"loss": float(mean), "grad_norm": float(norm)}

    def _loss(self, batch: Batch) -> Tensor:
        model, draws = self.model, batch.draws
        with torch.no_grad():
            z = model.encode(2 * batch.hr - 1)
        t = draws.integers("t_diff", 0, 999).to(z.device)
        eps = draws.normal("eps_diff", z)
        seen = (draws.uniform("drop") >= _DROPPED).to(z)[:, None, None]
        tokens = model.prompt(upsample(batch.lr, model.spec.scale)) * seen
        z_t = model.schedule.add_noise(z, eps, t).contiguous(memory_format=torch.channels_last)
        predicted: Tensor = model.unet(z_t, t, tokens)
        return (predicted.float() - eps).square().mean((1, 2, 3))
