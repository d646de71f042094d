"""Photoshop's image resources: IPTC records and paths, as blocks in JPEG and TIFF."""

from __future__ import annotations

import struct
from collections.abc import Iterator

JPEG_MARK = b"Photoshop 3.0\0"
_BLOCK = b"8BIM"
_IPTC = 0x0404
_PATHS = range(2000, 3000)
"""Resource ids of paths, whose points are relative to the picture's size, and of the clipping path's name."""


def paths_of(resources: bytes) -> bytes:
    """The unmodified blocks that contain paths."""
    return b"".join(block for number, block in _blocks(resources) if number in _PATHS)


def iptc_block(records: bytes) -> bytes:
    """IPTC records as a block."""
    return _BLOCK + struct.pack(">HHI", _IPTC, 0, len(records)) + records + b"\0" * (len(records) % 2)


def _blocks(resources: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each whole block."""
    at = 0
    while resources[at : at + 4] == _BLOCK and at + 12 <= len(resources):
        # the name is padded with its length byte, the data without their length field
        name = 1 + resources[at + 6]
        start = at + 6 + name + name % 2 + 4
        size = int.from_bytes(resources[start - 4 : start])
        end = start + size
        if end > len(resources):
            return
        yield int.from_bytes(resources[at + 4 : at + 6]), resources[at:end] + b"\0" * (size % 2)
        at = end + size % 2
