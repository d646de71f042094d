"""What a look at a file's structure finds before Pillow opens it, and a view of the file that leaves parts of it out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

Part = bytes | range
"""Bytes of their own, or a range of offsets in the file."""


@dataclass(frozen=True)
class Survey:
    """Findings of one file."""

    parts: Sequence[Part] = ()
    """What Pillow is to be shown in place of the file; empty where that is the file itself."""
    info: dict[str, Any] = field(default_factory=dict)
    """What Pillow does not find itself; joins the `info` of the opened image.

    `left_out`: tuple of sentences; `cicp`: tuple of the four numbers of ITU-T H.273; `hdr_chunks`: tuple of (kind, data);
    `icc_profile`: bytes; `lossless`: bool.
    """


class View(io.RawIOBase):
    """A file made of parts of another, read as they are asked for."""

    def __init__(self, file: BinaryIO, parts: Sequence[Part]) -> None:
        self._file, self._parts, self._at = file, parts, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place, as in any file."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: sum(map(len, self._parts))}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the part at the current place."""
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
        """Close the file behind it too."""
        self._file.close()
        super().close()

    def _read(self, part: Part, skipped: int, length: int) -> bytes:
        length = min(length, len(part) - skipped)
        if isinstance(part, bytes):
            return part[skipped : skipped + length]
        self._file.seek(part.start + skipped)
        return self._file.read(length)
