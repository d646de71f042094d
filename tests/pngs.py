"""PNG files written chunk by chunk: what no library would write."""

import struct
import zlib


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A file of these chunks (kind, data), with true checksums."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def grey_header(width: int, height: int, bits: int = 8) -> tuple[bytes, bytes]:
    """The first chunk of a grey picture."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)


def hollow_png(width: int, height: int) -> bytes:
    """A PNG that promises a lot of pixels and holds a few hundred bytes."""
    return png(grey_header(width, height), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks (kind, data) of a file."""
    found, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4])
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found
