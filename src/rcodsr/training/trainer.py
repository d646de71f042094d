"""The base of all trainers: the end of a step, precision, and the content of a saved state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from rcodsr.data.dataset import Batch
from rcodsr.errors import RcodsrError
from rcodsr.models.one_step import OneStepSR
from rcodsr.training.objectives import Facts
from rcodsr.training.optimizer import Average, Optimizer
from rcodsr.training.processes import Processes
from rcodsr.training.recipe import Phase, Recipe

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Dtype of the networks by `machine.dtype`; fp32 means no mixed precision."""


class Trainer(ABC):
    """Trains the parameters of a model that require gradients, one step at a time.

    Args:
        recipe: rates and phases.
        model: on the device; parameters that require gradients are trained.
        processes: the processes to average gradients with.
        apart: parameters of the model that have their own optimiser.
    """

    def __init__(self, recipe: Recipe, model: OneStepSR, processes: Processes, apart: Collection[nn.Parameter] = ()) -> None:
        self.recipe, self.model, self.processes = recipe, model, processes
        others = {id(parameter) for parameter in apart}
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad and id(p) not in others}
        optim = recipe.optim
        self.scaled = recipe.machine.dtype == "fp16"
        self.optimizer = Optimizer(self.trained, optim.betas, optim.weight_decay, optim.clip, processes, scaled=self.scaled)
        self.average = Average(self.trained, optim.ema) if optim.ema else None

    @abstractmethod
    def train_step(self, batches: Sequence[Batch], phase: Phase, rate: float, step: int) -> dict[str, float]:
        """Run one update.

        Args:
            batches: their gradients are averaged.
            phase: loss weights.
            rate: learning rate.
            step: number of completed steps, for messages and the running average.

        Returns:
            Losses and other facts, averaged over the batches and processes.

        Raises:
            RcodsrError: when a loss or gradient norm is not finite; the affected network has not been updated then.
        """

    @abstractmethod
    def passes(self, batches: Sequence[Batch], phase: Phase) -> Sequence[object]:
        """Run all forward and backward passes of a step without updates, to measure its memory.

        Args:
            batches: as in `train_step`.
            phase: loss weights.

        Returns:
            Objects kept until the step ends.
        """

    def _update(self, facts: Sequence[Facts], rate: float, step: int) -> Facts:
        """Finish a step: average the facts, stop if they are not finite, otherwise update θ and its running average."""
        averaged = self._averaged(facts)
        averaged["grad_norm"] = self.optimizer.gather()
        norm = {} if self.optimizer.skips else {"norm of the gradient": averaged["grad_norm"]}
        require_finite(step, {"loss": averaged["loss"], **norm})
        if self.optimizer.scale is not None:
            averaged["loss_scale"] = self.optimizer.scale.value.clone()
            averaged["grad_norm"] = averaged["grad_norm"].nan_to_num(0, 0)  # a skipped step changes nothing
        self.optimizer.step(rate)
        if self.average is not None:
            self.average.update(step)
        return averaged

    def _averaged(self, facts: Sequence[Facts]) -> Facts:
        means = {name: torch.stack([f[name].detach().float() for f in facts]).mean() for name in facts[0]}
        return {name: self.processes.average(mean) for name, mean in means.items()}

    def _precision(self) -> AbstractContextManager[object]:
        half = HALF.get(self.recipe.machine.dtype)
        return nullcontext() if half is None else torch.autocast(self.processes.device.type, half)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training changes, by name: the content of a saved state besides the optimisers."""
        found: dict[str, Tensor] = {f"model/{name}": parameter for name, parameter in self.trained.items()}
        found |= {f"model/{name}": buffer for name, buffer in self.model.autoencoder.named_buffers(prefix="autoencoder")}
        if self.model.metric_estimator is not None:
            estimator = self.model.metric_estimator.named_buffers(prefix="metric_estimator")
            found |= {f"model/{name}": buffer for name, buffer in estimator}
        if self.average is not None:
            found |= {f"average/{name}": tensor for name, tensor in self.average.tensors.items()}
        return found | self.optimizer.tensors("optimizer")

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers by name, for a saved state."""
        return {"optimizer": self.optimizer.inner}

    def averaged(self) -> AbstractContextManager[object]:
        """Use the weights that are exported within a `with` block."""
        return nullcontext() if self.average is None else self.average.applied()


def floats(facts: Facts) -> dict[str, float]:
    """Convert scalars to Python floats in one transfer, since each transfer makes a GPU wait."""
    return dict(zip(facts, torch.stack([value.float() for value in facts.values()]).tolist(), strict=True))


def require_finite(step: int, values: Facts) -> None:
    """Stop a run before it uses a value that is not finite. Synchronises with the GPU once.

    Raises:
        RcodsrError: names the first value that is not finite.
    """
    for name, finite in zip(values, torch.stack(list(values.values())).isfinite().tolist(), strict=True):
        if not finite:
            raise RcodsrError("training", f"the {name} is not finite at step {step}", "resume with a lower learning rate")
