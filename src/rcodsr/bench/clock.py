"""Timing: CUDA events on a GPU, the monotonic clock and the process's CPU time elsewhere; contenders take turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Lap:
    """One call."""

    seconds: float
    cpu_seconds: float
    """Of this process, all threads: what a busy machine does not change much."""


def lap(call: Callable[[], object], device: torch.device) -> Lap:
    """Time one call, from the moment the device is idle until it is idle again."""
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
    """Blocks of calls in turn, ABCABC…, so that what disturbs the machine disturbs all of them alike.

    Args:
        contenders: what to time, by name.
        rounds: blocks of each.
        calls: in each block.
        device: they run on.

    Returns:
        For each name its blocks.
    """
    blocks: dict[str, list[list[Lap]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            blocks[name].append([lap(call, device) for _ in range(calls)])
    return blocks


def summary(blocks: list[list[Lap]]) -> dict[str, float]:
    """Median, tenth and ninetieth percentile in seconds, number of calls, median CPU seconds."""
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
    """How many times faster: the median over rounds of the ratio of the blocks' medians."""

    def middle(block: list[Lap]) -> float:
        return statistics.median(each.cpu_seconds if cpu else each.seconds for each in block)

    return statistics.median(middle(a) / middle(b) for a, b in zip(slow, fast, strict=True))
