"""Split a batch between machines. A picture's shard does not depend on the other pictures."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import PurePath

from rcodsr.errors import UsageError

_REMEDY = "use I/N with 1 ≤ I ≤ N, or slurm inside a job array"


def parse_shard(text: str, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Parse `--shard`: "2/5" → (2, 5), "slurm" → the job array's variables.

    Raises:
        UsageError: for anything else.
    """
    if text == "slurm":
        return _slurm(environment)
    number, _, count = text.partition("/")
    if not (number.isascii() and number.isdecimal() and count.isascii() and count.isdecimal()):
        raise UsageError("--shard", f"'{text}' is not a valid shard", _REMEDY)
    if not 1 <= int(number) <= int(count):
        raise UsageError("--shard", f"there is no shard {text}", _REMEDY)
    return int(number), int(count)


def belongs(relative: PurePath, shard: tuple[int, int]) -> bool:
    """Whether a picture belongs to a shard, by a hash of its path, so that new pictures do not move old ones."""
    digest = hashlib.sha256(os.fsencode(relative.as_posix())).digest()
    return int.from_bytes(digest[:8]) % shard[1] == shard[0] - 1


def _slurm(environment: Mapping[str, str]) -> tuple[int, int]:
    try:
        task, count = int(environment["SLURM_ARRAY_TASK_ID"]), int(environment["SLURM_ARRAY_TASK_COUNT"])
        first, step = int(environment.get("SLURM_ARRAY_TASK_MIN", "0")), int(environment.get("SLURM_ARRAY_TASK_STEP", "1"))
    except (KeyError, ValueError):
        raise UsageError("--shard", "slurm, but this is not a task of a Slurm job array", _REMEDY) from None
    number = (task - first) // max(1, step) + 1
    if not 1 <= number <= count:
        raise UsageError("--shard", f"slurm: task {task} does not fit into {count} tasks from {first}", _REMEDY)
    return number, count
