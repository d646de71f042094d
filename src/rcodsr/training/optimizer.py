"""AdamW with gradient clipping over named parameters, and the running average of weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rcodsr.training.processes import Processes


class Optimizer:
    """AdamW whose gradients are averaged over the processes and clipped by their norm.

    Args:
        parameters: by name, each once.
        betas: AdamW's.
        weight_decay: AdamW's.
        clip: largest norm; 0 disables clipping.
        processes: the processes to average gradients with.
        rate: learning rate used when none is passed to `step`.
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
        fused = all(parameter.is_cuda for parameter in self.parameters)  # one kernel for all; on the CPU it rounds differently
        self.inner = torch.optim.AdamW(self.parameters, lr=rate, betas=betas, weight_decay=weight_decay, fused=fused)
        self.clip = clip
        self.processes = processes

    def gather(self) -> Tensor:
        """Average the gradients over the processes and clip them. Returns their norm (a scalar), which may not be finite."""
        self.processes.average_gradients(self.parameters)
        return nn.utils.clip_grad_norm_(self.parameters, self.clip or float("inf"))

    def step(self, rate: float | None = None) -> None:
        """Update with the gathered gradients at a learning rate, and clear them."""
        if rate is not None:
            for group in self.inner.param_groups:
                group["lr"] = rate
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)


class Average:
    """Exponential running average of weights.

    Args:
        parameters: by name.
        decay: share of the old average that each step keeps, after warm-up.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters = parameters
        self.decay = decay
        self.tensors = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the current weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.tensors.values()), [p.detach() for p in self.parameters.values()], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the weights by their average within a `with` block."""
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
