"""Timing: CUDA events on a GPU, otherwise the monotonic clock and the process's CPU time; contenders alternate."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Lap:
    """Timing of one call."""

    seconds: float
    cpu_seconds: float
    """CPU seconds of all threads of this process: hardly affected by other load on the machine."""


def lap(call: Callable[[], object], device: torch.device) -> Lap:
    """Time one call, from an idle device to an idle device."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        busy = time.process_time()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize(device)
        return Lap(start.elapsed_time(end) / 1000, time.process_time() - busy)
    started, busy = time.perf_counter(), time.process_time()
    call()
    if device.type == "mps":
        torch.mps.synchronize()
    return Lap(time.perf_counter() - started, time.process_time() - busy)


def take_turns(
    contenders: dict[str, Callable[[], object]], rounds: int, calls: int, device: torch.device
) -> dict[str, list[list[Lap]]]:
    """Time blocks of calls in turn, ABCABC…, so that disturbances affect all contenders alike.

    Args:
        contenders: functions to time, by name.
        rounds: number of blocks per contender.
        calls: calls per block.
        device: device on which they run.

    Returns:
        Blocks by name.
    """
    blocks: dict[str, list[list[Lap]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            blocks[name].append([lap(call, device) for _ in range(calls)])
    return blocks


def summary(blocks: list[list[Lap]]) -> dict[str, float]:
    """Median, 10th and 90th percentile in seconds, number of calls, median CPU seconds."""
    laps = [each for block in blocks for each in block]
    seconds = sorted(each.seconds for each in laps)
    return {
        "median": statistics.median(seconds),
        "p10": seconds[round(0.1 * (len(seconds) - 1))],
        "p90": seconds[round(0.9 * (len(seconds) - 1))],
        "n": len(seconds),
        "cpu_median": statistics.median(each.cpu_seconds for each in laps),
    }


def ratio(slow: list[list[Lap]], fast: list[list[Lap]], cpu: bool = False) -> float:
    """Speedup: the median over rounds of the ratio of the blocks' medians."""

    def middle(block: list[Lap]) -> float:
        return statistics.median(each.cpu_seconds if cpu else each.seconds for each in block)

    return statistics.median(middle(a) / middle(b) for a, b in zip(slow, fast, strict=True))
