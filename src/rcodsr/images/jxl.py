"""Header of a JPEG XL file, read before decoding (ISO/IEC 18181-1 and -2).

Pillow's plugin decodes a file on opening, so size and animation are read here first. The decoder already applies the
codestream's orientation, and EXIF's does not count. XMP is in a box that the plugin ignores.
"""

from collections.abc import Iterator
from dataclasses import dataclass

MARKS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
"""Signatures of a bare codestream and of a file of boxes."""
_HEADER = 64
"""Bytes of a codestream that are read. Its size and flags need fewer."""
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Ratios of width to height by their three-bit codes."""
_SIDE = ((1, 9), (1, 13), (1, 18), (1, 30))
_PREVIEW_SMALL, _PREVIEW = ((16, 0), (32, 0), (1, 5), (33, 9)), ((1, 6), (65, 8), (321, 10), (1345, 12))
"""Offset and number of bits of the four encodings of a number."""


@dataclass(frozen=True)
class Facts:
    """Header data of one file."""

    width: int
    """Stored size in pixels. Orientation may swap width and height."""
    height: int
    animated: bool
    xmp: bytes | None = None


def facts(data: bytes) -> Facts | None:
    """Size, animation flag and XMP of a whole file. None if it is malformed."""
    stream, xmp = data[:_HEADER] if data.startswith(MARKS[0]) else b"", None
    for kind, contents in _boxes(data) if data.startswith(MARKS[1]) else ():
        if kind in {b"jxlc", b"jxlp"} and len(stream) < _HEADER:
            stream += contents[4 * (kind == b"jxlp") :][:_HEADER]
        elif kind == b"xml ":
            xmp = contents
    if not stream.startswith(MARKS[0]):
        return None
    bits = _Bits(stream[2:])
    width, height = _size(bits, _SIDE)
    return Facts(width, height, _moves(bits), xmp)


class _Bits:
    """Numbers in a codestream, lowest bit first, with zeros after its end."""

    def __init__(self, data: bytes) -> None:
        self._rest = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        value = self._rest & ((1 << count) - 1)
        self._rest >>= count
        return value

    def choice(self, ways: tuple[tuple[int, int], ...]) -> int:
        least, count = ways[self.take(2)]
        return least + self.take(count)


def _size(bits: _Bits, ways: tuple[tuple[int, int], ...], small: tuple[tuple[int, int], ...] | None = None) -> tuple[int, int]:
    """Width and height, in pixels or multiples of eight, the width possibly as a ratio."""
    eights = bits.take(1)

    def side() -> int:
        if not eights:
            return bits.choice(ways)
        return 8 * (bits.take(5) + 1) if small is None else 8 * bits.choice(small)

    height, ratio = side(), bits.take(3)
    if ratio == 0:
        return side(), height
    across, down = _RATIOS[ratio - 1]
    return height * across // down, height


def _moves(bits: _Bits) -> bool:
    """Whether the metadata after the size announces an animation."""
    if bits.take(1) or not bits.take(1):  # all defaults, or no extra fields
        return False
    bits.take(3)  # orientation
    if bits.take(1):
        _size(bits, _SIDE)  # intrinsic size, for display
    if bits.take(1):
        _size(bits, _PREVIEW, _PREVIEW_SMALL)
    return bool(bits.take(1))


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size, kind, start = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8], at + 8
        if size == 1:
            size, start = int.from_bytes(data[start : start + 8]), at + 16
        end = len(data) if size == 0 else at + size
        if end < start:
            return
        yield kind, data[start:end]
        at = end
