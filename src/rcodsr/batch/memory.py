"""Estimate needed and free memory before a picture is decoded. Loads no torch."""

from contextlib import suppress
from pathlib import Path

import psutil

from rcodsr.errors import TileMemoryError
from rcodsr.messages import size_text

_BYTES_PER_PIXEL = 40
"""CPU memory per pixel of the model's output: enlarged input, its padded copy, the result, and the writer's buffers."""
_TILE_PIXELS, _TILE_BYTES = 1 << 20, 512
"""The network's own memory, for each pixel of one tile."""
_SPARE = 64 << 20


def require_memory(subject: object, pixels: int) -> None:
    """Refuse a picture that does not fit, so that the system does not kill the batch halfway through.

    Args:
        subject: named in the error message.
        pixels: number of pixels of the model's output.

    Raises:
        TileMemoryError: when it needs more memory than is free.
    """
    needed, free = _needed(pixels), free_memory()
    if free is not None and needed > free + _SPARE:
        cause = f"needs about {size_text(needed)} of memory, and {size_text(free)} is free"
        raise TileMemoryError(subject, cause, "crop it, or close other programs")


def has_memory(pixels: int) -> bool:
    """Whether pictures whose outputs have this many pixels in total fit into memory."""
    free = free_memory()
    return free is None or _needed(pixels) <= free


def _needed(pixels: int) -> int:
    return _BYTES_PER_PIXEL * pixels + _TILE_BYTES * min(pixels, _TILE_PIXELS)


def free_memory() -> int | None:
    """Bytes that this process may still allocate, limited by machine, control group and ulimit. None if unknown."""
    known = [value for value in (_of_machine(), _of_group(), _of_process()) if value is not None]
    return min(known, default=None)


def _of_machine() -> int | None:
    with suppress(OSError, psutil.Error):
        return psutil.virtual_memory().available
    return None


def _of_group(root: Path = Path("/")) -> int | None:
    """Bytes left in the control group of a container or systemd unit, which psutil ignores. Linux only."""
    with suppress(OSError, ValueError, LookupError):
        group = root / "sys/fs/cgroup" / (root / "proc/self/cgroup").read_text().split("::/", 1)[1].split("\n")[0]
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        return max(0, limit - used + int(cached))
    return None


def _of_process() -> int | None:
    """Bytes left under `ulimit -v`, if it is set."""
    if not hasattr(psutil, "RLIMIT_AS"):
        return None
    with suppress(OSError, psutil.Error):
        process = psutil.Process()
        limit, _ = process.rlimit(psutil.RLIMIT_AS)
        if limit != psutil.RLIM_INFINITY:
            return max(0, limit - process.memory_info().vms)
    return None
