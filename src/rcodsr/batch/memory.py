"""How much memory a picture will take, and how much there is; asked before anything is decoded. Without torch."""

from contextlib import suppress
from pathlib import Path

import psutil

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
    known = [value for value in (_of_machine(), _of_group(), _of_process()) if value is not None]
    return min(known, default=None)


def _of_machine() -> int | None:
    with suppress(OSError, psutil.Error):
        return psutil.virtual_memory().available
    return None


def _of_group(root: Path = Path("/")) -> int | None:
    """What a container or a systemd unit leaves, which psutil does not know of; Linux only."""
    with suppress(OSError, ValueError, LookupError):
        group = root / "sys/fs/cgroup" / (root / "proc/self/cgroup").read_text().split("::/", 1)[1].split("\n")[0]
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        return max(0, limit - used + int(cached))
    return None


def _of_process() -> int | None:
    """What `ulimit -v` leaves, where there is such a limit."""
    if not hasattr(psutil, "RLIMIT_AS"):
        return None
    with suppress(OSError, psutil.Error):
        process = psutil.Process()
        limit, _ = process.rlimit(psutil.RLIMIT_AS)
        if limit != psutil.RLIM_INFINITY:
            return max(0, limit - process.memory_info().vms)
    return None
