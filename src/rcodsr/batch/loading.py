"""What to load, as a value: every process and every machine of a batch loads the same engine from it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rcodsr.config import Dtype, UpscaleOptions

if TYPE_CHECKING:
    from rcodsr.checkpoints.resolve import Log
    from rcodsr.engine.upscaler import Upscaler


@dataclass(frozen=True)
class EngineRequest:
    """Weights, device and dtype as the user wrote them, and what the pictures will ask of them."""

    weights: str
    device: str = "auto"
    dtype: Dtype = "auto"
    base_model: str | None = None
    revision: str | None = None
    offline: bool = False
    settled: dict[str, Any] = field(default_factory=dict)
    """Of `rcodsr.load`."""
    options: UpscaleOptions = field(default_factory=UpscaleOptions)
    steered: bool = False
    """Whether a realism was asked for, rather than left at its default."""

    def load(self, log: Log) -> Upscaler:
        """Load the engine and see that it can do what is asked.

        Raises:
            RcodsrError: as `Upscaler.load` and `Upscaler.check`.
        """
        from rcodsr.engine.upscaler import Upscaler

        upscaler = Upscaler.load(
            self.weights, self.device, self.dtype, self.base_model, self.revision, self.offline, log, **self.settled
        )
        upscaler.check(self.options, steered=self.steered)
        return upscaler

    def of_process(self, number: int) -> EngineRequest:
        """The same on the device of one process out of several: they take the GPUs in turn, where no single one was named."""
        import torch

        if self.device in {"auto", "cuda"} and torch.cuda.is_available():
            return replace(self, device=f"cuda:{number % torch.cuda.device_count()}")
        return self


def threads_each(processes: int) -> int:
    """How many threads each of several processes computes with: the cores divided, OMP_NUM_THREADS at most."""
    share = max(
        1, len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)) // processes
    )
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(asked)) if asked.isdecimal() and int(asked) > 0 else share
