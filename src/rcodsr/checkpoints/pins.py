"""Pins: commits and hashes of downloaded files that the manifest does not fix.

They are in a small JSON file beside the Hub's cache. From the first download on, a name means exactly those bytes. The file may
be deleted at any time; it is then recreated from the cache or the Hub.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rcodsr.checkpoints.manifest import REPO, ManifestFile
from rcodsr.errors import WeightsError


@dataclass(frozen=True)
class Pin:
    """A commit and its files, hashes included."""

    repo: str
    revision: str
    files: tuple[ManifestFile, ...]


def read_pin(key: str) -> Pin | None:
    """The pin of a name. None if missing or unreadable."""
    return _pin(_read().get(key))


def read_pins() -> dict[str, Pin]:
    """Readable pins by name."""
    pins = {key: _pin(value) for key, value in _read().items()}
    return {key: pin for key, pin in pins.items() if pin is not None}


def _pin(value: Any) -> Pin | None:
    try:
        pin = Pin(value["repo"], value["revision"], tuple(ManifestFile(**file) for file in value["files"]))
    except (TypeError, KeyError, AttributeError, WeightsError):
        return None
    sound = isinstance(pin.repo, str) and isinstance(pin.revision, str) and "/" not in pin.revision and pin.files
    return pin if sound and (not pin.repo or REPO.fullmatch(pin.repo)) else None


def write_pin(key: str, pin: Pin | None) -> None:
    """Record a pin, or delete it (None). A read-only home directory is tolerated."""
    path = pins_file()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            values = _read() | {key: None if pin is None else asdict(pin)}
            kept = {name: value for name, value in values.items() if value is not None}
            temporary.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            temporary.replace(path)
            for leftover in path.parent.glob(f".{path.name}.[0-9]*"):  # left by a killed process, since the lock is held
                leftover.unlink(missing_ok=True)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Lock, so that two processes do not overwrite each other's changes."""
    from filelock import FileLock

    with FileLock(path.with_name(f".{path.name}.lock"), timeout=10):
        yield


def _read() -> dict[str, Any]:
    try:
        values = json.loads(pins_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def pins_file() -> Path:
    """File that records pins."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "rcodsr" / "pins.json"
