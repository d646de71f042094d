"""Findings of a look at a file's structure before Pillow opens it, and a view of the file without some parts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

Part = bytes | range
"""New bytes, or a range of offsets in the file."""


@dataclass(frozen=True)
class Survey:
    """Findings about one file."""

    parts: Sequence[Part] = ()
    """Parts that Pillow reads instead of the file. Empty: the file itself."""
    info: dict[str, Any] = field(default_factory=dict)
    """Properties that Pillow does not read, added to the `info` of the opened image.

    `left_out` is a tuple of sentences, `cicp` a tuple of the four numbers of ITU-T H.273, `hdr_chunks` a tuple of (kind, data),
    `icc_profile` bytes, and `lossless` a bool.
    """


class View(io.RawIOBase):
    """A file composed of parts of another, read on demand."""

    def __init__(self, file: BinaryIO, parts: Sequence[Part]) -> None:
        self._file, self._parts, self._at = file, parts, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, as in any file."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: sum(map(len, self._parts))}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the part at the current position."""
        start = 0
        for part in self._parts:
            if self._at < start + len(part):
                data = self._read(part, self._at - start, len(buffer))
                buffer[: len(data)] = data
                self._at += len(data)
                return len(data)
            start += len(part)
        return 0

    def close(self) -> None:
        """Close the underlying file too."""
        self._file.close()
        super().close()

    def _read(self, part: Part, skipped: int, length: int) -> bytes:
        length = min(length, len(part) - skipped)
        if isinstance(part, bytes):
            return part[skipped : skipped + length]
        self._file.seek(part.start + skipped)
        return self._file.read(length)
