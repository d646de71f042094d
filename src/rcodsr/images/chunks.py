"""PNG chunks: drop ancillary chunks that are damaged or too large, and move metadata behind the pixels before them.

Pillow refuses the whole file for such a chunk, and sees chunks behind the pixels only after decoding.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from rcodsr.images.survey import Part, Survey

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_LONGEST = {b"iCCP": 16 << 20, b"eXIf": 16 << 20}
_LONGEST_OTHER = 1_000_000
"""Maximum unpacked bytes of a chunk, slightly below Pillow's own limit."""
_MOST = 64 << 20
"""Maximum unpacked bytes of all ancillary chunks of a picture."""
_MOST_CHUNKS = 200_000
_FRAMES = {b"acTL", b"fcTL", b"fdAT"}
"""Ancillary chunks that contain pictures."""
_METADATA = {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}
"""Chunks that may follow the pixels."""
_HDR = {b"mDCV", b"cLLI"}
_SHORTEST = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"cICP": 4}
_NAMES = {
    b"iCCP": "colour profile",
    b"eXIf": "EXIF",
    b"tRNS": "transparency",
    b"tEXt": "text",
    b"zTXt": "text",
    b"iTXt": "text",
}
_XMP = b"XML:com.adobe.xmp"


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    start: int
    """Offset of its length field in bytes."""
    length: int
    """Length of its data in bytes."""

    @property
    def span(self) -> range:
        return range(self.start, self.start + 12 + self.length)

    @property
    def is_ancillary(self) -> bool:
        return bool(self.kind[0] & 0x20) and self.kind not in _FRAMES


class _FaultError(Exception):
    """Reason why a chunk is dropped."""


def survey(file: BinaryIO) -> Survey:
    """Find parts of a PNG to drop, or to move before its pixels.

    Args:
        file: positioned at its start.
    """
    chunks = list(islice(_chunks(file), _MOST_CHUNKS))
    places = [i for i, chunk in enumerate(chunks) if chunk.kind == b"IDAT"]
    if not places or len(chunks) == _MOST_CHUNKS:
        return Survey()
    info: dict[str, Any] = {}
    faults: list[str] = []
    before, behind = chunks[: places[0]], chunks[places[-1] + 1 :]
    # Pillow sees chunks behind the pixels too late, and may fail on them
    late = [chunk for chunk in behind if chunk.kind in _METADATA]
    judged = [chunk for chunk in before if chunk.is_ancillary] + late
    sound = set(_sound(file, judged, info, faults))
    if faults:
        info["left_out"] = tuple(dict.fromkeys(faults))
    if len(sound) == len(judged) and not any(chunk.is_ancillary for chunk in behind):
        return Survey(info=info)
    kept = [chunk for chunk in before if not chunk.is_ancillary or chunk in sound] + [chunk for chunk in late if chunk in sound]
    pixels = range(chunks[places[0]].start, chunks[places[-1]].span.stop)
    rest = [chunk.span for chunk in behind if not chunk.is_ancillary]
    # Pillow reports where a truncated file ends
    rest.append(range(chunks[-1].span.stop, file.seek(0, os.SEEK_END)))
    parts: list[Part] = [SIGNATURE, *(chunk.span for chunk in kept), pixels, *rest]
    return Survey(parts, info)


def _chunks(file: BinaryIO) -> Iterator[_Chunk]:
    """Chunks up to the end of the picture or of the file."""
    size, at = file.seek(0, os.SEEK_END), len(SIGNATURE)
    while at + 12 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        if at + 12 + length > size or not kind.isalpha():
            return
        yield _Chunk(kind, at, length)
        if kind == b"IEND":
            return
        at += 12 + length


def _sound(file: BinaryIO, chunks: list[_Chunk], info: dict[str, Any], faults: list[str]) -> Iterator[_Chunk]:
    """Chunks that Pillow can read. The others are named in `faults`, or parsed here and stored in `info`."""
    room = _MOST
    for chunk in chunks:
        longest = min(room, _LONGEST.get(chunk.kind, _LONGEST_OTHER))
        file.seek(chunk.start + 8)
        keyword = b""
        try:
            if chunk.length > longest:
                keyword = file.read(80).partition(b"\0")[0]
                raise _FaultError("too long")
            data = file.read(chunk.length)
            keyword = data[:80].partition(b"\0")[0]
            if zlib.crc32(data, zlib.crc32(chunk.kind)) != int.from_bytes(file.read(4)):
                raise _FaultError("damaged (wrong checksum)")
            unpacked = _unpacked(chunk.kind, data, longest)
        except _FaultError as fault:
            faults.append(f"its {_name(chunk.kind, keyword)} is {fault} and was dropped")
            continue
        room -= len(unpacked)
        if chunk.kind == b"cICP":
            info["cicp"] = tuple(data[:4])
        elif chunk.kind in _HDR:
            info["hdr_chunks"] = (*info.get("hdr_chunks", ()), (chunk.kind, data))
        if chunk.kind == b"iCCP" and len(unpacked) > _LONGEST_OTHER:
            info["icc_profile"] = unpacked
        else:
            yield chunk


def _unpacked(kind: bytes, data: bytes, longest: int) -> bytes:
    """A chunk's data, unpacked if compressed.

    Raises:
        _FaultError: when the data are too long or malformed.
    """
    if len(data) < _SHORTEST.get(kind, 0):
        raise _FaultError("damaged (too short)")
    packed = None
    if kind in {b"iCCP", b"zTXt"}:
        _, _, rest = data.partition(b"\0")
        if rest[:1] != b"\0":
            raise _FaultError("damaged (unknown compression)")
        packed = rest[1:]
    elif kind == b"iTXt":
        _, _, rest = data.partition(b"\0")
        if rest[:1] == b"\1":
            packed = rest[2:].split(b"\0", 2)[-1]
    if packed is None:
        return data
    try:
        unpacker = zlib.decompressobj()
        unpacked = unpacker.decompress(packed, longest)
        if unpacker.unconsumed_tail and unpacker.decompress(unpacker.unconsumed_tail, 1):
            raise _FaultError("too long")
    except zlib.error as error:
        raise _FaultError("damaged") from error
    return unpacked


def _name(kind: bytes, keyword: bytes) -> str:
    name = "XMP" if kind in _METADATA and keyword == _XMP else _NAMES.get(kind, "chunk")
    return f"{name} ({kind.decode('ascii')})"
