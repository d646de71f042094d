"""The most memory a process has held, on every system."""

from __future__ import annotations

import sys

import psutil


def peak_resident() -> int:
    """Bytes that this process held resident at most so far.

    `getrusage` counts KiB on Linux and bytes on macOS. Windows has no such call; psutil reads its peak working set.
    """
    try:
        import resource
    except ImportError:
        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
