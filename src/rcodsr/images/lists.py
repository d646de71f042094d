"""Lists of paths, in one format everywhere: UTF-8 or UTF-16, one path per line, or NUL-separated as from `find -print0`.

Blank lines and lines that start with `#` are ignored (write `./#name` for such a file). In NUL-separated lists they count.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterator

from rcodsr.errors import InputError

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*")
_REMEDY = "use a text file with one path per line, or the output of `find -print0`"


def read_lines(name: object, data: bytes) -> list[tuple[int, str]]:
    """The paths of a list with their line numbers, counted from 1.

    Args:
        name: name of the list, for error messages.
        data: contents of the list.

    Raises:
        InputError: when the data is a picture or other binary data.
    """
    if data.startswith(_PICTURES):
        raise InputError(name, "a picture, not a list of paths", "write ./@name for a picture whose name begins with @")
    try:
        text = data.decode("utf-16").encode() if data.startswith(_UTF16) else data.removeprefix(codecs.BOM_UTF8)
    except UnicodeError:
        raise InputError(name, "has a UTF-16 byte order mark but is not valid UTF-16", _REMEDY) from None
    if b"\0" in text:
        if text.startswith(b"\0") or not text.endswith(b"\0"):
            raise InputError(name, "contains NULs but does not end in one, so it is not a list of paths", _REMEDY)
        return [(number, os.fsdecode(part)) for number, part in enumerate(text.split(b"\0"), 1) if part]
    # not splitlines, which would split names at characters such as U+2028
    found = ((number, _line(part)) for number, part in enumerate(text.split(b"\n"), 1))
    return [(number, line) for number, line in found if line]


def stream_lines(name: object, read: Callable[[], bytes]) -> Iterator[str]:
    """Yield the paths of a growing list as soon as each is complete. The first block decides which character ends a path.

    Args:
        name: name of the list, for error messages.
        read: returns the next bytes, empty at the end.

    Raises:
        InputError: when it is not a list, after the paths before the error.
    """
    block = read()
    while block and len(block) < 3 and b"\n" not in block and b"\0" not in block[:1] and (more := read()):
        block += more
    if block.startswith(_PICTURES):
        raise InputError(name, "a picture, not a list of paths", "use - for a picture on standard input")
    decode = _decoder(block)
    text = decode(block)
    end = b"\0" if b"\0" in text else b"\n"
    while block:
        *whole, text = text.split(end)
        for part in whole:
            line = os.fsdecode(part) if end == b"\0" else _line(part)
            if line:
                yield line
        block = read()
        text += decode(block)
    if text and end == b"\0":
        raise InputError(name, "does not end in NUL, so its last path may be cut short", "pipe all of `find -print0` into it")
    if last := _line(text):
        yield last


def _line(part: bytes) -> str:
    line = part.removesuffix(b"\r")
    return "" if line.startswith(b"#") else os.fsdecode(line)


def _decoder(first: bytes) -> Callable[[bytes], bytes]:
    """A decoder from blocks of bytes to UTF-8 without a byte order mark."""
    if not first.startswith(_UTF16):
        head = [codecs.BOM_UTF8]  # only in the first block
        return lambda block: block.removeprefix(head.pop()) if head else block
    decoder = codecs.getincrementaldecoder("utf-16")("replace")
    return lambda block: decoder.decode(block).encode()
