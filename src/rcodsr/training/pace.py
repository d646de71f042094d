"""Learning rate and time limit of a run."""

import math
import time

from rcodsr.training.recipe import Phase


class Clock:
    """Measures progress within a time limit.

    Args:
        seconds: time limit, from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._begin: float | None = None

    def share(self) -> float:
        """Elapsed share of the time between the first reading and the end, in [0, 1]."""
        now = time.monotonic()
        if now >= self._end:
            return 1.0
        if self._begin is None:
            self._begin = now
        return (now - self._begin) / (self._end - self._begin)

    @property
    def over(self) -> bool:
        """Whether the time limit is reached."""
        return time.monotonic() >= self._end


def learning_rate(phase: Phase, done: float, step: int, warmup: int) -> float:
    """Cosine from the phase's first to its last learning rate, with linear warm-up at the start of the run.

    Args:
        phase: steps and rates.
        done: completed steps of the phase.
        step: completed steps of the run.
        warmup: steps over which the rate rises.
    """
    high, low = phase.learning_rate
    rate = low + (high - low) * 0.5 * (1 + math.cos(math.pi * done / phase.steps))
    return rate * min(1.0, (step + 1) / warmup) if warmup else rate
