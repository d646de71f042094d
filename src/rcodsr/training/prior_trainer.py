"""A small diffusion prior on a variant's own latents: the frozen φ that VSD needs when there is no Stable Diffusion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rcodsr.data.dataset import Batch
from rcodsr.images.resize import upsample
from rcodsr.training.draws import Draws
from rcodsr.training.objectives import Facts
from rcodsr.training.recipe import Phase
from rcodsr.training.trainer import Trainer, floats

_DROPPED = 0.1
"""Share of the samples trained without tokens, for classifier-free guidance."""


class PriorTrainer(Trainer):
    """Trains the same networks as an ordinary noise predictor: L = ‖ε_φ(z_t; t, c_y) − ε‖², t uniform in 0…999.

    The model predicts plain noise; loss weights are not used.
    """

    def train_step(self, batches: Sequence[Batch], phase: Phase, rate: float, step: int) -> dict[str, float]:
        """One update; arguments, results and errors as `Trainer.train_step`."""
        return floats(self._update(self.passes(batches, phase), rate, step))

    def passes(self, batches: Sequence[Batch], phase: Phase) -> list[Facts]:
        """Run forward and backward; see `Trainer.passes`."""
        facts = []
        for batch in batches:
            with self._precision():
                loss = self._loss(batch).mean()
            self.optimizer.backward(loss / len(batches))
            facts.append({"loss": loss.detach()})
        return facts

    def _loss(self, batch: Batch) -> Tensor:
        model, draws = self.model, Draws(self.recipe.seed, batch.samples)
        with torch.no_grad():
            z = model.encode(batch.hr)
        t = draws.integers("t_diff", 0, 999).to(z.device)
        eps = draws.normal("eps_diff", z)
        seen = (draws.uniform("drop") >= _DROPPED).to(z)[:, None, None]
        tokens = model.prompt(upsample(batch.lr, model.spec.scale)) * seen
        z_t = model.schedule.add_noise(z, eps, t).contiguous(memory_format=torch.channels_last)
        predicted: Tensor = model.unet(z_t, t, tokens)
        return (predicted.float() - eps).square().mean((1, 2, 3))
