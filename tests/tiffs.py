"""TIFF files of several directories, written entry by entry: previews, pyramids, raw data."""

import struct
from dataclasses import dataclass, field

import numpy as np

Tags = dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class Page:
    """One picture: 8-bit or 16-bit samples, shape (h, w) or (h, w, 3), further tags, and directories below it."""

    samples: np.ndarray
    tags: Tags = field(default_factory=dict)
    below: tuple["Page", ...] = ()


def tiff_of(*pages: Page, big: bool = False, order: str = "<") -> bytes:
    """A file of these pictures, uncompressed."""
    mark = b"II" if order == "<" else b"MM"
    header = mark + (struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8))
    data = bytearray(header)
    following = len(data) - (8 if big else 4)
    for page in pages:
        offset, link = _write(data, page, big, order)
        data[following : following + (8 if big else 4)] = struct.pack(order + ("Q" if big else "I"), offset)
        following = link
    return bytes(data)


def _write(data: bytearray, page: Page, big: bool, order: str) -> tuple[int, int]:
    """Append a picture.

    Returns:
        Offset of its directory, and of its link to the next one.
    """
    below = tuple(_write(data, other, big, order)[0] for other in page.below)
    pixels = page.samples.astype(page.samples.dtype.newbyteorder("<" if order == "<" else ">")).tobytes()
    start = len(data)
    data += pixels + b"\0" * (len(pixels) % 2)
    height, width = page.samples.shape[:2]
    channels = page.samples.shape[2] if page.samples.ndim == 3 else 1
    tags: Tags = {256: (width,), 257: (height,), 258: (8 * page.samples.itemsize,) * channels, 259: (1,)}
    tags |= {262: (2 if channels == 3 else 1,), 273: (start,), 277: (channels,), 278: (height,), 279: (len(pixels),)}
    tags |= {330: below} if below else {}
    tags |= page.tags
    kind, word = (16, "Q") if big else (4, "I")
    entries = b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{word}", *values)
        room = 8 if big else 4
        if len(packed) > room:
            packed, place = struct.pack(order + word, len(data)), packed
            data += place
        entries += struct.pack(f"{order}HH{word}", tag, kind, len(values)) + packed
    offset = len(data)
    data += struct.pack(order + ("Q" if big else "H"), len(tags)) + entries
    link = len(data)
    data += bytes(8 if big else 4)
    return offset, link
