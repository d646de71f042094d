"""WebP chunks: whether the pixels were stored without loss, which Pillow does not report."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

from rcodsr.images.survey import Survey


def survey(file: BinaryIO) -> Survey:
    """Set `lossless` in the info of a lossless still picture.

    Args:
        file: positioned at its start.
    """
    end, at = file.seek(0, os.SEEK_END), 12
    while at + 8 <= end:
        file.seek(at)
        kind, size = struct.unpack("<4sI", file.read(8))
        if kind in {b"VP8 ", b"VP8L"}:
            return Survey(info={"lossless": kind == b"VP8L"})
        at += 8 + size + size % 2
    return Survey()
