"""Boxes of AVIF and HEIF (ISO/IEC 14496-12 and 23008-12): properties of the picture that Pillow does not report."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from rcodsr.images.survey import Survey

_LONGEST = 16 << 20
"""Maximum bytes of the box that describes the pictures."""


def survey(file: BinaryIO) -> Survey:
    """Read colours given without a profile, the bit depth, and a gain map. A malformed file yields nothing.

    Args:
        file: positioned at its start.
    """
    info: dict[str, Any] = {}
    with suppress(struct.error, ValueError, KeyError, IndexError, EOFError):
        meta = _find(_top(file), b"meta")[4:]
        boxes = list(_boxes(meta))
        left_out = []
        for kind, data in _properties(boxes):
            if kind == b"colr" and data[:4] == b"nclx" and "cicp" not in info:
                # the decoder undoes the matrix and range that follow
                info["cicp"] = (*struct.unpack_from(">2H", data, 4), 0, 1)
            elif kind == b"pixi" and max(data[5:], default=8) > 8:
                left_out.append(f"{max(data[5:])}-bit channels reduced to 8")
        if b"tmap" in _find(boxes, b"iinf"):
            left_out.append("its gain map (HDR) was dropped")
        if left_out:
            info["left_out"] = tuple(left_out)
    return Survey(info=info)


def _top(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Boxes of a file. Only the data of `meta` are read."""
    end, at = file.seek(0, os.SEEK_END), 0
    while at + 8 <= end:
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8))
        start = 8
        if size == 1:
            (size,), start = struct.unpack(">Q", file.read(8)), 16
        size = size or end - at
        if size < start:
            return
        yield kind, file.read(min(size - start, _LONGEST)) if kind == b"meta" else b""
        at += size


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8:
            return
        yield kind, data[at + 8 : at + size]
        at += size


def _find(boxes: Any, wanted: bytes) -> bytes:
    return next((data for kind, data in boxes if kind == wanted), b"")


def _properties(meta: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """The properties of the primary item."""
    primary = _find(meta, b"pitm")
    (item,) = struct.unpack_from(">I" if primary[0] else ">H", primary, 4)
    properties = list(_boxes(_find(meta, b"iprp")))
    every = list(_boxes(_find(properties, b"ipco")))
    stream = io.BytesIO(_find(properties, b"ipma"))
    version, wide = stream.read(4)[0::3]
    for _ in range(min(_number(stream, 4), 1000)):
        belongs = _number(stream, 4 if version else 2) == item
        for _ in range(_number(stream, 1)):
            index = _number(stream, 2) & 0x7FFF if wide & 1 else _number(stream, 1) & 0x7F
            if belongs and 0 < index <= len(every):
                yield every[index - 1]


def _number(stream: BinaryIO, length: int) -> int:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return int.from_bytes(data)
