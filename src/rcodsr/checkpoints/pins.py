"""What was downloaded from where: commits and hashes of files whose manifest entry does not fix them.

A small JSON file beside the Hub's cache. From the first download on, a name means exactly those bytes. The file may be deleted
at any time; it is then made anew from the cache or the Hub.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rcodsr.checkpoints.manifest import ManifestFile


@dataclass(frozen=True)
class Pin:
    """A commit and its files, hashes included."""

    repo: str
    revision: str
    files: tuple[ManifestFile, ...]


def read_pin(key: str) -> Pin | None:
    """The pin of a name, or None; an unreadable file counts as empty."""
    try:
        value = _read()[key]
        return Pin(value["repo"], value["revision"], tuple(ManifestFile(**file) for file in value["files"]))
    except (TypeError, KeyError):
        return None


def write_pin(key: str, pin: Pin) -> None:
    """Record a pin. A read-only home costs only the memory of it."""
    path = _path()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({**_read(), key: asdict(pin)}, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError:
        return


def _read() -> dict[str, Any]:
    try:
        values = json.loads(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _path() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "rcodsr" / "pins.json"
