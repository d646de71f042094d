"""AdamW with clipping and loss scaling over named parameters, and the running average of weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rcodsr.training.processes import Processes


class Optimizer:
    """AdamW whose gradients are averaged over the processes and clipped by their norm.

    Args:
        parameters: by name, each once.
        betas: of AdamW.
        weight_decay: of AdamW.
        clip: largest norm; 0 does not clip.
        processes: who the gradients are shared with.
        rate: learning rate where `step` is given none.
        scaled: scale losses before the backward pass, so that float16 gradients do not underflow.

    Attributes:
        skips: whether the last gathered gradients overflowed, so that `step` skips the update.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        betas: tuple[float, float],
        weight_decay: float,
        clip: float,
        processes: Processes,
        rate: float = 0.0,
        scaled: bool = False,
    ) -> None:
        self.parameters = list(parameters.values())
        fused = all(parameter.is_cuda for parameter in self.parameters)  # one kernel for all; on the CPU it rounds differently
        self.inner = torch.optim.AdamW(self.parameters, lr=rate, betas=betas, weight_decay=weight_decay, fused=fused)
        self.clip = clip
        self.processes = processes
        self.scale = LossScale(processes.device) if scaled else None
        self.skips = False

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a loss."""
        (loss if self.scale is None else loss * self.scale.value).backward()

    def gather(self) -> Tensor:
        """Average the gradients over the processes and clip them. Returns their norm (a scalar), which may not be finite."""
        self.processes.average_gradients(self.parameters)
        if self.scale is not None:
            torch._foreach_div_([p.grad for p in self.parameters if p.grad is not None], self.scale.value)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip or float("inf"))
        self.skips = self.scale is not None and self.scale.may_fall and not norm.isfinite()
        return norm

    def step(self, rate: float | None = None) -> None:
        """Update with the gathered gradients at a learning rate, and clear them."""
        if rate is not None:
            for group in self.inner.param_groups:
                group["lr"] = rate
        if not self.skips:
            self.inner.step()
        if self.scale is not None:
            self.scale.follow(overflow=self.skips)
        self.inner.zero_grad(set_to_none=True)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Tensors of a saved state besides the moments, prefixed with a name."""
        return {} if self.scale is None else {f"{name}_scale/{part}": value for part, value in vars(self.scale).items()}


class LossScale:
    """Dynamic loss scale, with the rule of `torch.amp.GradScaler`, which accelerate uses too.

    Starts at 65536, is halved when gradients overflow, and doubled after 2000 consecutive steps without overflow. All processes
    agree, because gradients are averaged over them first.

    Args:
        device: device of the parameters.
    """

    def __init__(self, device: torch.device) -> None:
        self.value = torch.tensor(65536.0, device=device)
        self.calm = torch.tensor(0, device=device)

    @property
    def may_fall(self) -> bool:
        """Whether overflow can still be due to the scale."""
        return bool(self.value > 1)

    def follow(self, overflow: bool) -> None:
        """Update the scale after a step."""
        self.calm.copy_(torch.zeros_like(self.calm) if overflow else self.calm + 1)
        if overflow:
            self.value.div_(2)
        elif self.calm >= 2000:
            self.value.mul_(2)
            self.calm.zero_()


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
