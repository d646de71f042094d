"""Distributed training, one process per device: `torchrun` or `accelerate launch` starts them, accelerate connects them.

Gradients are averaged by hand. A step runs the same U-Net under several LoRA states and alternates between two optimisers,
which no module wrapper supports. Since few parameters are trainable, one reduction per step costs almost nothing.
"""

import os
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from rcodsr.engine.runtime import choose_runtime
from rcodsr.errors import DeviceError, UsageError
from rcodsr.messages import Log


class Processes:
    """This process and its peers.

    Args:
        device: same as `--device`; with several processes, `auto` assigns each its own GPU.
    """

    def __init__(self, device: str = "auto") -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.count == 1:
            self.device = choose_runtime(device, "fp32").device
            return
        try:
            from accelerate import PartialState  # type: ignore[import-untyped]
        except ImportError as error:
            raise UsageError("several processes", f"accelerate is missing ({error})", "pip install accelerate") from error
        self.device = PartialState(cpu=device == "cpu").device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and log lines."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes."""
        if self.count == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = self.average(torch.cat([g.flatten() for g in gradients]))
        for parameter, piece in zip(parameters, flat.split([g.numel() for g in gradients]), strict=True):
            parameter.grad = piece.view_as(parameter).clone()

    def average(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes, same shape."""
        if self.count == 1:
            return value
        torch.distributed.all_reduce(value)
        return value / self.count

    def wait(self) -> None:
        """Block until all processes arrive."""
        if self.count > 1:
            torch.distributed.barrier()


def check_precision(device: torch.device, dtype: str, log: Log) -> None:
    """Check that a device supports a precision; log a note if it only emulates it.

    Raises:
        DeviceError: when it does not.
    """
    if dtype == "fp16" and device.type == "cpu":
        raise DeviceError("machine.dtype", "fp16 is not computed on a CPU", "use fp32 or bf16")
    if dtype == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        log(f"{torch.cuda.get_device_name(device)} has no bfloat16 and emulates it slowly; machine.dtype=fp16 is faster")
