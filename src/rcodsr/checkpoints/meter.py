"""Progress of a download: an occasional line with share, speed and remaining time."""

import time

from rcodsr.messages import Log, size_text

EVERY = 5.0
"""Seconds between two lines."""


class Meter:
    """Counts the bytes of one file.

    Args:
        what: name of the file, for messages.
        total: its bytes, if known.
        log: receives the lines.
    """

    def __init__(self, what: str, total: int | None, log: Log) -> None:
        self.what, self.total, self.log = what, total, log
        self.done = self.told = 0
        self.started = self.last = time.monotonic()

    def add(self, count: int) -> None:
        """Count newly arrived bytes."""
        self.done += count
        now = time.monotonic()
        if now - self.last < EVERY:
            return
        speed = self.done / (now - self.started)
        self.last = now
        if not self.total:
            self.log(f"{self.what}: {size_text(self.done)}, {size_text(speed)}/s")
            return
        share, left = 100 * self.done / self.total, max(0, self.total - self.done) / max(speed, 1)
        self.log(f"{self.what}: {share:.0f}% of {size_text(self.total)}, {size_text(speed)}/s, eta {left:.0f}s")
