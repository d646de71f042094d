"""What a picture file says beside its pixels: read from one format, written into another, without torch."""

from __future__ import annotations

import json
import re
import struct
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image, PngImagePlugin

HISTORY = 0x9213  # EXIF ImageHistory: how the picture was made
ORIENTATION = 0x0112
EXIF_IFD, GPS_IFD = 0x8769, 0x8825
_PIXEL_X, _PIXEL_Y = 0xA002, 0xA003
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_IPTC_TAG, _PHOTOSHOP_IPTC = 33723, 0x0404
_JPEG_SEGMENT = 65_000
_LONGEST_TEXT = 100_000
_PNG_IPTC = "Raw profile type iptc"
# tags that describe the old file's layout, not the picture
_STRUCTURAL = {*range(254, 260), 262, 266, 273, ORIENTATION, *range(277, 282), 284, 285, 297, 317, 318, 319, *range(320, 326)}
_STRUCTURAL |= {330, 332, 338, 339, 340, 341, 347, *range(512, 522), *range(529, 533), 700, 33723, 34377, 34675, 37724}
_ORIENTATION_IN_XMP = re.compile(rb"""\s*tiff:Orientation\s*=\s*(["'])[^"']*\1|<tiff:Orientation>[^<]*</tiff:Orientation>""")


@dataclass(frozen=True)
class Metadata:
    """What travels with the pixels from the input file to the output file."""

    icc: bytes | None = None
    """The profile the file's pixels are in; those in memory are sRGB."""
    exif: Image.Exif | None = None
    """Without orientation (already applied to the pixels) and without tags of the file's own structure."""
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    """Without orientation."""
    iptc: bytes | None = None
    """IPTC-IIM records."""
    comment: bytes | None = None
    """Of JPEG; kept in JPEG only."""
    text: dict[str, str] = field(default_factory=dict)
    """Of PNG; kept in PNG only."""

    def stripped(self) -> Metadata:
        """Only what the pixels mean: the colour profile."""
        return Metadata(icc=self.icc)

    def with_icc(self, icc: bytes | None) -> Metadata:
        """The same with another profile."""
        return replace(self, icc=icc)


def carried(image: Image.Image) -> Metadata:
    """The metadata of an opened image that is worth carrying; what is broken is left out."""
    icc = image.info.get("icc_profile")
    return Metadata(
        icc=icc if isinstance(icc, bytes) and icc else None,
        exif=_carried_exif(image),
        dpi=_sane_dpi(image.info.get("dpi")),
        xmp=_carried_xmp(image),
        iptc=_carried_iptc(image),
        comment=_bytes(image.info.get("comment")) if image.format in {"JPEG", "MPO"} else None,
        text=_carried_text(image),
    )


def exif_of(image: Image.Image) -> Image.Exif:
    """EXIF data as far as it is known without decoding pixels, with the orientation of XMP where it has none itself."""
    # a PNG's own method would decode one that has no EXIF at its start
    return Image.Image.getexif(image) if isinstance(image, PngImagePlugin.PngImageFile) else image.getexif()


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 where it is missing or nonsense."""
    try:
        return int(exif_of(image).get(ORIENTATION, 1))
    except Exception:  # broken EXIF must not cost the picture
        return 1


def written_exif(metadata: Metadata, size: tuple[int, int], format: str, record: dict[str, Any] | None) -> Image.Exif:
    """A copy of the EXIF data with the new size and the record; the record alone where it is too long for JPEG."""
    exif = Image.Exif()
    if metadata.exif is not None:
        exif.load(metadata.exif.tobytes())
    if EXIF_IFD in exif:
        details = exif.get_ifd(EXIF_IFD)
        for tag, side in zip((_PIXEL_X, _PIXEL_Y), size, strict=True):
            if tag in details:
                details[tag] = side
    if metadata.dpi is not None and format in {"WEBP", "AVIF"}:  # these have no other place for it
        exif[_X_RESOLUTION], exif[_Y_RESOLUTION] = metadata.dpi
        exif[_RESOLUTION_UNIT] = 2
    if format == "JPEG" and len(exif.tobytes()) > _JPEG_SEGMENT - 1000:
        exif = Image.Exif()
    if record is not None:
        exif[HISTORY] = json.dumps(record, sort_keys=True)
    return exif


def save_options(metadata: Metadata, exif: Image.Exif, format: str) -> dict[str, Any]:
    """Arguments of Pillow's `save` that carry the metadata, as far as the format has room."""
    options: dict[str, Any] = {"dpi": metadata.dpi}
    if format != "BMP":
        options |= {"exif": exif.tobytes() if len(exif) else None, "icc_profile": metadata.icc}
    if format in {"WEBP", "AVIF"}:
        options["xmp"] = metadata.xmp
    elif format == "JPEG":
        fits = metadata.xmp is not None and len(metadata.xmp) < _JPEG_SEGMENT
        options |= {"xmp": metadata.xmp if fits else None, "comment": metadata.comment}
        if metadata.iptc is not None and len(metadata.iptc) < _JPEG_SEGMENT:
            segment = b"Photoshop 3.0\0" + _photoshop(metadata.iptc)
            options["extra"] = b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment
    elif format == "PNG":
        options["pnginfo"] = _png_texts(metadata)
    return {key: value for key, value in options.items() if value is not None}


def _png_texts(metadata: Metadata) -> PngImagePlugin.PngInfo:
    texts = PngImagePlugin.PngInfo()
    for key, value in metadata.text.items():
        texts.add_itxt(key, value)
    if metadata.xmp is not None:
        with suppress(UnicodeDecodeError):
            texts.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode())
    if metadata.iptc is not None:  # the place where ImageMagick writes it and exiftool finds it
        block = _photoshop(metadata.iptc)
        texts.add_text(_PNG_IPTC, f"\niptc\n{len(block):8}\n{block.hex()}\n", zip=True)
    return texts


def _photoshop(iptc: bytes) -> bytes:
    """IPTC records as a Photoshop resource."""
    return b"8BIM" + struct.pack(">HHI", _PHOTOSHOP_IPTC, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)


def _carried_exif(image: Image.Image) -> Image.Exif | None:
    """The EXIF data worth carrying: a copy without orientation, layout tags and an older record."""
    try:
        kept = Image.Exif()
        kept.load(exif_of(image).tobytes())
        for tag in [tag for tag in kept if tag in _STRUCTURAL or tag == HISTORY]:
            del kept[tag]
        return kept if len(kept) else None
    except Exception:  # broken EXIF is dropped, the picture stays
        return None


def _sane_dpi(dpi: Any) -> tuple[float, float] | None:
    """Resolution as two positive finite numbers; files also hold 0/0 and nonsense."""
    with suppress(TypeError, ValueError, ZeroDivisionError):
        across, down = (float(value) for value in dpi)
        if 0 < across < 1e6 and 0 < down < 1e6:
            return across, down
    return None


def _carried_xmp(image: Image.Image) -> bytes | None:
    xmp = _bytes(image.info.get("xmp") or image.info.get("XML:com.adobe.xmp"))
    return _ORIENTATION_IN_XMP.sub(b"", xmp) if xmp else None


def _carried_iptc(image: Image.Image) -> bytes | None:
    with suppress(Exception):  # nonsense costs the records, not the picture
        if image.format == "TIFF":
            return _iptc_of_tiff(image)
        if image.format in {"JPEG", "MPO"}:
            return _bytes(image.info["photoshop"][_PHOTOSHOP_IPTC])
        if image.format == "PNG":
            *_, digits = image.info[_PNG_IPTC].split("\n", 3)
            data = bytes.fromhex(digits)
            return data[12 : 12 + int.from_bytes(data[8:12])] if data.startswith(b"8BIM\x04\x04\0\0") else data
    return None


def _iptc_of_tiff(image: Any) -> bytes | None:
    value = image.tag_v2[_IPTC_TAG]
    if isinstance(value, tuple):  # many programs call these bytes 32-bit numbers
        return struct.pack(f"{'<' if image.tag_v2.prefix == b'II' else '>'}{len(value)}I", *value)
    return _bytes(value)


def _carried_text(image: Image.Image) -> dict[str, str]:
    if not isinstance(image, PngImagePlugin.PngImageFile):
        return {}
    texts = ((key, str(value)) for key, value in getattr(image, "text", {}).items())
    return {
        key: value
        for key, value in texts
        if not key.startswith(("XML:com.adobe.xmp", "Raw profile type")) and len(key) + len(value) < _LONGEST_TEXT
    }


def _bytes(value: Any) -> bytes | None:
    if isinstance(value, str):
        value = value.encode("utf-8", "replace")
    return value if isinstance(value, bytes) and value else None
