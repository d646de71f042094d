"""Where pictures lie: paths of this machine, and objects of a store (s3://bucket/key), which look like paths to the plan."""

from __future__ import annotations

from pathlib import Path


def place(text: str) -> Path:
    """A path as the user wrote it."""
    return Path(text)
