"""Colour with 16 bits per channel, which Pillow reads and writes as 8: decoded twice, once for each byte.

Pillow's own decoders do the work, behind the same allowlist and limits. Configured for big-endian samples a decoder delivers
their first bytes, for little-endian ones the second. Together they form the whole numbers.
"""

from __future__ import annotations

import io
import itertools
import sys
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

Samples = np.ndarray[Any, np.dtype[Any]]
"""Shape (h, w, channels), uint8 or uint16. Channels: 1 grey, 2 with alpha, 3 colour, 4 with alpha."""

_STRIP_BYTES = 1 << 20
_OTHER_END = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def deep_layout(image: ImageFile.ImageFile) -> str | None:
    """Layout of 16-bit colour in an opened, undecoded file. None if it has none that can be read in full depth.

    Separately compressed planes are not supported, because Pillow's decoder delivers 8 bits of them.
    """
    stored = layout(image)
    if "A;16" in stored or stored.startswith(("RGB", "RGBX")):
        planes = getattr(image, "_planar_configuration", 1) == 2 and image.tile[0].codec_name == "libtiff"
        return stored if ";16" in stored and not planes else None
    return None


def loses_depth(image: ImageFile.ImageFile) -> bool:
    """Whether an opened, undecoded file has 16-bit colour that can be read only as 8 bits."""
    if image.mode not in {"RGB", "RGBA", "RGBX", "CMYK"} or not image.tile or deep_layout(image):
        return False
    if image.format == "TIFF":
        return 16 in getattr(image, "tag_v2", {}).get(258, ())
    return image.tile[0].codec_name == "ppm_plain" and int(image.tile[0].args[1]) > 255  # type: ignore[index]


def mend_planes(image: Any) -> None:
    """Name the layout of uncompressed 16-bit planes in full. Pillow mistakes them for 8-bit planes."""
    bits = getattr(image, "tag_v2", {}).get(258, ())
    if getattr(image, "_planar_configuration", 1) != 2 or not image.tile or image.tile[0].codec_name != "raw" or 16 not in bits:
        return
    end = "L" if image.tag_v2.prefix == b"II" else "B"
    for i, tile in enumerate(image.tile):
        band, *others = tile.args
        image.tile[i] = tile._replace(args=(f"{band};16{end}", *others))


def deep_samples(first: ImageFile.ImageFile, second: ImageFile.ImageFile) -> Samples:
    """The 16-bit samples of a file.

    Args:
        first: the opened, undecoded file, with a `deep_layout`.
        second: the same file, opened again.
    """
    stored = layout(first)
    if stored == "LA;16B":  # read as RGBA, the decoder delivers all four bytes of grey and alpha
        _tell(first, "RGBA")
        bytes = np.asarray(first)
        return bytes[..., 0::2].astype(np.uint16) << 8 | bytes[..., 1::2]
    _tell(second, stored[:-1] + _OTHER_END[stored[-1]])
    return np.asarray(first).astype(np.uint16) << 8 | np.asarray(second)


def ppm_samples(image: ImageFile.ImageFile) -> Samples | None:
    """The 16-bit samples of an opened, undecoded binary colour PPM. None for any other file.

    Raises:
        ValueError: when the file is truncated.
    """
    if image.format != "PPM" or image.mode != "RGB" or not image.tile or image.tile[0].codec_name != "ppm":
        return None
    maximum = int(image.tile[0].args[1])  # type: ignore[index]
    if maximum < 256:
        return None
    width, height = image.size
    assert image.fp is not None
    image.fp.seek(image.tile[0].offset)
    values = np.frombuffer(image.fp.read(6 * width * height), ">u2").reshape(height, width, 3)
    if maximum == 65535:
        return values.astype(np.uint16)
    return np.rint(values.clip(max=maximum) * (65535 / maximum)).astype(np.uint16)


def tiff(samples: Samples, exif: Image.Exif, tags: dict[int, Any]) -> bytes:
    """Encode a TIFF file with 8 or 16 bits per channel, deflated. Pillow's own writer drops EXIF directories or compression.

    Args:
        samples: the pixels, with straight alpha.
        exif: its tags are written beside the picture's own, its directories below them.
        tags: further tags. A `bytes` value is written as it is.
    """
    height, width, channels = samples.shape
    bits = 8 * samples.dtype.itemsize
    rows = max(1, _STRIP_BYTES // (width * channels * samples.dtype.itemsize))
    strips = [_strip(samples[top : top + rows]) for top in range(0, height, rows)]
    ends = list(itertools.accumulate(map(len, strips)))
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    for tag, value in exif.items():
        directory[tag] = value
    for tag in (0x8769, 0x8825):
        if tag in exif:
            directory[tag] = dict(exif.get_ifd(tag))
    for tag, value in tags.items():
        if isinstance(value, bytes):
            directory.tagtype[tag] = 7
        directory[tag] = value
    for tag, value in {256: width, 257: height, 258: (bits,) * channels, 259: 8, 262: 2 if channels > 2 else 1}.items():
        directory[tag] = value
    directory[277], directory[278], directory[284], directory[317] = channels, rows, 1, 2
    if channels in {2, 4}:
        directory[338] = 2  # straight alpha
    directory.tagtype[273] = directory.tagtype[279] = 4
    directory[273], directory[279] = (0, *ends[:-1]), tuple(map(len, strips))
    buffer = io.BytesIO()
    directory.save(buffer)
    buffer.writelines(strips)
    return buffer.getvalue()


def _strip(rows: Samples) -> bytes:
    """Differences to the left neighbour, little-endian, deflated."""
    little = rows.astype(rows.dtype.newbyteorder("<"))
    little[:, 1:] -= rows[:, :-1]
    return zlib.compress(little.tobytes(), 6)


def layout(image: ImageFile.ImageFile) -> str:
    """Layout of the samples in an opened, undecoded file, in Pillow's terms."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) else args)


def _tell(image: ImageFile.ImageFile, stored: str) -> None:
    """Set another layout for the decoder of an opened file."""
    image.tile = [
        tile._replace(args=(stored, *tile.args[1:]) if isinstance(tile.args, tuple) else stored) for tile in image.tile
    ]
