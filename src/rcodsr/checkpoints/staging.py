"""Atomic creation of directories."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """A temporary directory to write into, which replaces `directory` when the `with` block succeeds.

    An old directory is replaced as a whole, and parents are created. When the block fails, nothing remains.

    Raises:
        OSError: when the directories cannot be created or renamed.
    """
    new, old = (directory.with_name(f".{directory.name}.{word}") for word in ("new", "old"))
    _settle(directory, new, old)  # clean up after a killed process
    try:
        new.mkdir(parents=True)
        yield new
        if directory.exists():
            directory.rename(old)
        new.rename(directory)
    finally:
        _settle(directory, new, old)


def _settle(directory: Path, new: Path, old: Path) -> None:
    """Remove leftovers. An old directory without a successor is moved back."""
    if old.exists() and not directory.exists():
        old.rename(directory)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
