"""Peak rates of this machine, measured in the same process as the benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from rcodsr.bench.clock import lap


@dataclass(frozen=True)
class Ceilings:
    """Median rates of three plain operations on random data."""

    matmul: float
    """FLOP/s of a square matrix product."""
    conv: float
    """FLOP/s of a 3×3 convolution in channels_last layout."""
    copy: float
    """Bytes read and written per second."""

    def floor(self, flops: int, read: int) -> float:
        """Minimum seconds for this many operations and bytes: the slower of both, at its full rate."""
        return max(flops / max(self.matmul, self.conv), read / self.copy)


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Measure the rates; takes less than a second on a GPU, a few seconds on a CPU."""
    large = device.type == "cuda"
    side, channels, picture, batch = (8192, 256, 512, 8) if large else (1024, 128, 128, 1)
    repeats = 20 if large else 7

    def middle(call: Callable[[], object]) -> float:
        call()
        return statistics.median(lap(call, device).seconds for _ in range(repeats))

    with torch.no_grad():
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        matmul = 2 * side**3 / middle(lambda: a @ b)
        x = torch.randn(batch, channels, picture, picture, device=device, dtype=dtype).contiguous(
            memory_format=torch.channels_last
        )
        kernel = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        conv = 2 * 9 * channels**2 * batch * picture**2 / middle(lambda: F.conv2d(x, kernel, padding=1))
        source = torch.empty(_copied(device), dtype=torch.uint8, device=device).fill_(1)
        target = torch.empty_like(source)
        copy = 2 * source.numel() / middle(lambda: target.copy_(source))
    return Ceilings(matmul, conv, copy)


def _copied(device: torch.device) -> int:
    """Bytes to copy, far more than any cache holds."""
    if device.type != "cuda":
        return 256 << 20
    return int(min(8 << 30, torch.cuda.mem_get_info(device)[0] // 8))
