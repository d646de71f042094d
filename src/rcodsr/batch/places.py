"""Picture locations: local paths, and objects of a store (s3://bucket/key), which behave like paths in the plan."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PosixPath
from typing import Any

from rcodsr.errors import UsageError
from rcodsr.images.formats import SUFFIXES

PROTOCOLS = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
"""Stores, and the package through which fsspec accesses each."""
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 4, "read_timeout": 30, "retries": {"max_attempts": 2, "mode": "standard"}}}
}
_WORDS = {
    "NoCredentialsError": (errno.EACCES, "no credentials found"),
    "PartialCredentialsError": (errno.EACCES, "credentials are incomplete"),
    "EndpointConnectionError": (errno.EHOSTUNREACH, "the store cannot be reached"),
    "ConnectTimeoutError": (errno.ETIMEDOUT, "the store does not answer"),
    "ReadTimeoutError": (errno.ETIMEDOUT, "the store does not answer"),
    "FileNotFoundError": (errno.ENOENT, "no such bucket or object"),
    "PermissionError": (errno.EACCES, "permission denied"),
}


class RemotePath(PosixPath):
    """An object of a store, or a key prefix that acts as a folder. Joins, parents and suffixes work as for any path.

    A name with a picture's suffix is a file, any other a folder, without a request to the store. Faults are `OSError`s.
    """

    def __str__(self) -> str:
        protocol, *parts = self.parts
        return f"{protocol}//{'/'.join(parts)}"

    @property
    def store(self) -> Any:
        """The fsspec file system."""
        return _store(self.parts[0].removesuffix(":"))

    def is_dir(self, **_: Any) -> bool:
        """Whether the name lacks a picture's suffix."""
        return self.suffix.lower() not in SUFFIXES

    def is_file(self, **_: Any) -> bool:
        """False, without a request to the store."""
        return False

    def exists(self, **_: Any) -> bool:
        """Whether the object exists."""
        with _our_errors():
            return bool(self.store.exists(str(self)))

    def stat(self, **_: Any) -> os.stat_result:
        """An inode number unique to this name. For an object also its time of modification."""
        kind = stat.S_IFDIR if self.is_dir() else stat.S_IFREG
        number = int.from_bytes(hashlib.sha256(str(self).encode()).digest()[:7])
        written = 0.0 if self.is_dir() else self.written()
        return os.stat_result((kind, number, -1, 1, 0, 0, 0, written, written, written))

    def iterdir(self) -> Generator[RemotePath, None, None]:
        """Entries of the folder, as far as paths can represent them."""
        with _our_errors():
            entries = self.store.ls(str(self), detail=False, refresh=True)
        for entry in entries:
            name = entry.rstrip("/").rpartition("/")[2]
            if name and self / name != self and str(self / name).endswith(f"//{entry.rstrip('/')}"):
                yield self / name

    def mkdir(self, *_: Any, **__: Any) -> None:
        """Do nothing, since store folders are parts of names. The bucket must exist.

        Raises:
            FileNotFoundError: when the bucket does not exist.
        """
        with _our_errors():
            bucket = str(RemotePath(*self.parts[:2]))
            if not self.store.exists(bucket):
                raise FileNotFoundError(bucket)

    def fetch(self, to: Path) -> None:
        """Copy the object to a local file, in one request."""
        with _our_errors():
            self.store.get_file(str(self), str(to))

    def send(self, data: bytes) -> None:
        """Write the object. It appears only once it is complete."""
        with _our_errors():
            self.store.pipe_file(str(self), data)

    def written(self) -> float:
        """When the object was written, in seconds since 1970."""
        with _our_errors():
            written = self.store.modified(str(self))
        return written.timestamp() if isinstance(written, datetime) else float(written)


def place(text: str) -> Path:
    """Parse a local path or a store object.

    Raises:
        UsageError: for a web address, and for a store object on Windows.
    """
    protocol, remote, _ = text.partition("://")
    if remote and protocol.lower() in {"http", "https"}:
        raise UsageError(text, "a web address is not a file", f"fetch it: curl -L {text} | rcodsr upscale - > out.png")
    if not remote or protocol not in PROTOCOLS:
        return Path(text)
    if sys.platform == "win32":  # its paths cannot hold such names
        raise UsageError(text, "object stores are not supported on Windows", "copy the pictures to a folder, or use WSL")
    return RemotePath(text)


class RealPaths:
    """Resolves links in paths. Each folder is resolved once, and each file only if it is itself a link."""

    def __init__(self) -> None:
        self._folders: dict[Path, str] = {}

    def of(self, path: Path) -> str:
        """The absolute path without links. A store object or a name that no system accepts is returned as it is."""
        if isinstance(path, RemotePath):
            return str(path)
        try:
            if path.name in {"", ".."} or path.is_symlink():
                return os.path.realpath(path)
            folder = self._folders.get(path.parent)
            if folder is None:
                folder = self._folders[path.parent] = os.path.realpath(path.parent)
            return os.path.join(folder, path.name)  # noqa: PTH118
        except (OSError, ValueError):
            return str(path)


def existing(places: list[Path | None]) -> set[Path]:
    """Those of the paths that exist. Each folder is listed once."""
    found: set[Path] = set()
    for directory in {place.parent for place in places if place is not None}:
        try:
            found.update(directory.iterdir())
        except OSError:  # missing or unreadable
            continue
    return found


def _store(protocol: str) -> Any:
    try:
        import fsspec

        return fsspec.filesystem(protocol, **_OPTIONS.get(protocol, {}))
    except ImportError as error:
        cause = f"{protocol}:// needs {PROTOCOLS[protocol]}, which is not installed"
        raise UsageError(f"{protocol}://", cause, f"pip install fsspec {PROTOCOLS[protocol]}") from error


@contextmanager
def _our_errors() -> Iterator[None]:
    """Turn every fault of a store into an `OSError` with a readable text."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        number, words = errno.EIO, str(error).partition("\n")[0][:160] or type(error).__name__
        for kind in type(error).__mro__:
            if kind.__name__ in _WORDS:
                number, words = _WORDS[kind.__name__]
                break
        raise OSError(number, words) from error
