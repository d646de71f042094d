"""Directories that appear whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """A directory to write into, beside the wanted one, whose place it takes when the `with` block ends well.

    An old directory of the same name is replaced as a whole; parents are created. When the block fails, nothing of it remains.

    Raises:
        OSError: when the directories cannot be made or renamed.
    """
    new, old = (directory.with_name(f".{directory.name}.{word}") for word in ("new", "old"))
    _settle(directory, new, old)  # what a killed process has left
    try:
        new.mkdir(parents=True)
        yield new
        if directory.exists():
            directory.rename(old)
        new.rename(directory)
    finally:
        _settle(directory, new, old)


def _settle(directory: Path, new: Path, old: Path) -> None:
    """Remove what is not in its place; an old directory without successor goes back to its own."""
    if old.exists() and not directory.exists():
        old.rename(directory)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
