"""AdamW with clipping over named parameters, and the running average of weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rcodsr.training.processes import Processes


class Optimizer:
    """One AdamW whose gradients are averaged over the processes and clipped by their norm.

    Args:
        parameters: by name, each once.
        betas: of AdamW.
        weight_decay: of AdamW.
        clip: largest norm; 0 does not clip.
        processes: who the gradients are shared with.
        rate: learning rate where `step` is given none.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        betas: tuple[float, float],
        weight_decay: float,
        clip: float,
        processes: Processes,
        rate: float = 0.0,
    ) -> None:
        self.parameters = list(parameters.values())
        fused = all(parameter.is_cuda for parameter in self.parameters)  # one kernel for all; on a CPU it rounds differently
        self.inner = torch.optim.AdamW(self.parameters, lr=rate, betas=betas, weight_decay=weight_decay, fused=fused)
        self.clip = clip
        self.processes = processes

    def gather(self) -> Tensor:
        """Average the gradients over the processes and clip them; returns their norm before, which may not be finite."""
        self.processes.average_gradients(self.parameters)
        return nn.utils.clip_grad_norm_(self.parameters, self.clip or float("inf"))

    def step(self, rate: float | None = None) -> None:
        """Update with what `gather` left, at a learning rate, and forget the gradients."""
        if rate is not None:
            for group in self.inner.param_groups:
                group["lr"] = rate
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)


class Average:
    """Exponential running average of weights.

    Args:
        parameters: by name.
        decay: share of the old average that a step keeps, once warm.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters = parameters
        self.decay = decay
        self.tensors = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the current weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.tensors.values()), [p.detach() for p in self.parameters.values()], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the place of the weights for the length of a `with` block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            mine = self.tensors[name]
            kept = parameter.detach().clone()
            parameter.copy_(mine)
            mine.copy_(kept)
