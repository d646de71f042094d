"""How much memory a picture will take, and how much there is; asked before anything is decoded. Without torch."""

import sys
from contextlib import suppress
from pathlib import Path

from rcodsr.errors import TileMemoryError
from rcodsr.messages import size_text

_BYTES_PER_PIXEL = 40
"""Of the model's enlargement, held at once on the CPU: the enlarged input, its padded copy, the result, what writing needs."""
_TILE_PIXELS, _TILE_BYTES = 1 << 20, 512
"""The network's own, for each pixel of one tile."""
_SPARE = 64 << 20


def require_memory(subject: object, pixels: int) -> None:
    """Refuse a picture that cannot fit, rather than let the system kill the batch in the middle of it.

    Args:
        subject: for the error message.
        pixels: of the model's enlargement.

    Raises:
        TileMemoryError: when less memory is free than it takes.
    """
    needed, free = _needed(pixels), free_memory()
    if free is not None and needed > free + _SPARE:
        cause = f"needs about {size_text(needed)} of memory, and {size_text(free)} are free"
        raise TileMemoryError(subject, cause, "crop it, or close other programs")


def has_memory(pixels: int) -> bool:
    """Whether there is room for pictures whose enlargements have so many pixels together."""
    free = free_memory()
    return free is None or _needed(pixels) <= free


def _needed(pixels: int) -> int:
    return _BYTES_PER_PIXEL * pixels + _TILE_BYTES * min(pixels, _TILE_PIXELS)


def free_memory() -> int | None:
    """Bytes that this process may still take: of the machine, its control group and its own limit; None where unknown."""
    if not sys.platform.startswith("linux"):
        return None
    known = [value for value in (_of_machine(), _of_group(), _of_process()) if value is not None]
    return min(known, default=None)


def _of_machine() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return None


def _of_group() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        group = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().split("::/", 1)[1].split("\n")[0]
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        return max(0, limit - used + int(cached))
    return None


def _of_process() -> int | None:
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return max(0, limit - pages * resource.getpagesize())
    return None
