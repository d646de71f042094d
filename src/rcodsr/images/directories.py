"""Directories of a TIFF: find the main picture, and recognise camera raw files.

Pillow opens the first directory, which is a preview in raw files and some pyramids.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from rcodsr.images.survey import Survey

MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0")
"""Signatures of a TIFF. The last two are wrong, but are read all the same."""

_SUBFILE, _OLD_SUBFILE, _WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
_CHANNELS, _SUBDIRECTORIES, _SAMPLE_FORMAT, _DNG = 277, 330, 339, 50706
_READ = {_SUBFILE, _OLD_SUBFILE, _WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _CHANNELS, _SUBDIRECTORIES, _SAMPLE_FORMAT}
_SENSOR = {32803, 34892}
"""Photometric interpretations of raw data: colour filter array, linear raw."""
_MAKERS = (b"CR", b"IIII", b"MMMM")
"""Bytes behind the header in raw files of Canon and Phase One."""
_SIZES = {1: 1, 3: 2, 4: 4, 7: 1, 13: 4, 16: 8, 18: 8}
_CODES = {1: "B", 3: "H", 4: "I", 7: "B", 13: "I", 16: "Q", 18: "Q"}
_MOST_DIRECTORIES, _MOST_TAGS, _MOST_VALUES = 100, 4096, 64


@dataclass(frozen=True)
class Directory:
    """One picture of a TIFF."""

    offset: int
    following: int
    """Offset of the next directory. 0 after the last."""
    tags: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """The tags that are read here."""

    def first(self, tag: int, default: int = 0) -> int:
        """The first value of a tag, or `default`."""
        return (self.tags.get(tag) or (default,))[0]

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.first(_WIDTH) * self.first(_LENGTH)

    @property
    def is_part(self) -> bool:
        """Whether it is a reduced copy or a mask of another picture."""
        return bool(self.first(_SUBFILE) & 0b101) or self.first(_OLD_SUBFILE) == 2

    @property
    def is_raw(self) -> bool:
        """Whether it contains undeveloped sensor data."""
        return self.first(_PHOTOMETRIC) in _SENSOR


def is_raw(file: BinaryIO) -> bool:
    """Whether a TIFF is a camera raw file, whatever its suffix."""
    if _head(file)[8:].startswith(_MAKERS):
        return True
    directories = list(_all(file))
    previews_only = any(_DNG in directory.tags for directory in directories) and all(found.is_part for found in directories)
    return previews_only or any(directory.is_raw for directory in directories)


def survey(file: BinaryIO) -> Survey:
    """Build another header for a file whose first picture is a preview, so that Pillow opens the larger picture."""
    main = list(_chain(file))
    if not main:
        return Survey()
    first, others = main[0], [directory for directory in main[1:] if not directory.is_part]
    below = [found for directory in main for found in _below(file, directory) if not found.is_part]
    larger = [directory for directory in others + below if directory.pixels > first.pixels]
    if not first.is_part:
        larger = [directory for directory in larger if directory in below]
    if not larger:
        return Survey()
    head, end = _head(file), file.seek(0, 2)
    big = head[2:4] in {b"+\0", b"\0+"}
    offset = struct.pack(_order(head) + ("Q" if big else "I"), larger[0].offset)
    start = 8 if big else 4
    return Survey([head[:start] + offset, range(start + len(offset), end)])


def sample_kind(file: BinaryIO) -> str:
    """Sample type of a TIFF's first picture, such as 32-bit floating-point colour. Empty if common or unknown."""
    directory = next(_chain(file), None)
    if directory is None or _BITS not in directory.tags:
        return ""
    format = {2: "signed ", 3: "floating-point ", 5: "complex ", 6: "complex "}.get(directory.first(_SAMPLE_FORMAT, 1), "")
    if directory.first(_BITS) <= 16 and not format:
        return ""
    channels = directory.first(_CHANNELS, 1)
    return f"{directory.first(_BITS)}-bit {format}{'colour' if channels > 2 else 'grey'}"


def _all(file: BinaryIO) -> Iterator[Directory]:
    for directory in _chain(file):
        yield directory
        yield from _below(file, directory)


def _chain(file: BinaryIO) -> Iterator[Directory]:
    """The main directories."""
    with suppress(struct.error):
        head = _head(file)
        big = head[2:4] in {b"+\0", b"\0+"}
        (offset,) = struct.unpack_from(_order(head) + ("Q" if big else "I"), head, 8 if big else 4)
        seen: set[int] = set()
        while offset and offset not in seen and len(seen) < _MOST_DIRECTORIES:
            seen.add(offset)
            directory = _directory(file, offset)
            yield directory
            offset = directory.following


def _below(file: BinaryIO, directory: Directory) -> Iterator[Directory]:
    for offset in directory.tags.get(_SUBDIRECTORIES, ())[:_MOST_DIRECTORIES]:
        with suppress(struct.error):
            yield _directory(file, offset)


def _directory(file: BinaryIO, offset: int) -> Directory:
    """The directory at an offset.

    Raises:
        struct.error: when the file ends too early.
    """
    head = _head(file)
    order, big = _order(head), head[2:4] in {b"+\0", b"\0+"}
    entry, word = (20, "Q") if big else (12, "I")
    if offset >= 1 << 63:
        raise struct.error("outside")
    file.seek(offset)
    (count,) = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
    if count > _MOST_TAGS:
        raise struct.error("too many tags")
    data = file.read(count * entry)
    (following,) = struct.unpack(order + word, file.read(struct.calcsize(word)))
    tags: dict[int, tuple[int, ...]] = {}
    for i in range(count):
        tag, kind, length = struct.unpack_from(f"{order}HH{word}", data, i * entry)
        if tag == _DNG:
            tags[tag] = (1,)
        elif tag in _READ and kind in _CODES and length:
            length = min(length, _MOST_VALUES)
            value = data[i * entry + (12 if big else 8) : (i + 1) * entry]
            if length * _SIZES[kind] > len(value):
                file.seek(min(struct.unpack(order + word, value)[0], 1 << 62))
                value = file.read(length * _SIZES[kind])
            tags[tag] = struct.unpack_from(f"{order}{length}{_CODES[kind]}", value)
    return Directory(offset, following, tags)


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(16)


def _order(head: bytes) -> str:
    return "<" if head[:2] == b"II" else ">"
