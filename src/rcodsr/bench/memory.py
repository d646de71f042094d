"""Peak memory of this process, on every system."""

from __future__ import annotations

import sys

import psutil


def peak_resident() -> int:
    """Peak resident memory of this process so far, in bytes.

    `getrusage` returns KiB on Linux and bytes on macOS. Windows has no such call; there psutil reads the peak working set.
    """
    try:
        import resource
    except ImportError:
        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
