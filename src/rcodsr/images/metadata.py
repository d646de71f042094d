"""Metadata of a picture file: read from one format and written to another. Loads no torch."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image, PngImagePlugin

from rcodsr.images import signals, xmp
from rcodsr.images.photoshop import JPEG_MARK, iptc_block, paths_of

HISTORY = 0x9213  # EXIF ImageHistory: how the picture was made
ORIENTATION = 0x0112
EXIF_IFD, GPS_IFD, _INTEROP_IFD = 0x8769, 0x8825, 0xA005
_PIXEL_X, _PIXEL_Y, _SUBJECT_AREA, _SUBJECT_LOCATION, _COLOR_SPACE = 0xA002, 0xA003, 0x9214, 0xA214, 0xA001
_INTEROP_INDEX, _RELATED_WIDTH, _RELATED_LENGTH = 1, 0x1001, 0x1002
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_ON_ITS_SIDE = {5, 6, 7, 8}
_IPTC_TAG, _RESOURCES_TAG, _PHOTOSHOP_IPTC = 33723, 34377, 0x0404
_JPEG_SEGMENT = 65_000
_JPEG_EXIF = _JPEG_SEGMENT - 1000
_ALL_BUT_BMP = {"PNG", "JPEG", "WEBP", "TIFF", "AVIF"}
_PLACES = {"text": {"PNG"}, "comment": {"JPEG"}, "IPTC": {"PNG", "JPEG", "TIFF"}, "paths": {"JPEG", "TIFF"}}
"""Formats that can store each kind of metadata."""
_LONGEST_TEXT = 1_000_000
_PACKED_FROM = 10_000
"""Length in characters from which a PNG text is compressed."""
_ISO_GAIN_MAP, _GAIN_MAP_NOTE = b"urn:iso:std:iso:ts:21496:-1", "its gain map (HDR) was dropped"
_PNG_IPTC = "Raw profile type iptc"
# tags that describe the old file's layout, not the picture
_STRUCTURAL = {*range(254, 260), 262, 266, 273, ORIENTATION, *range(277, 282), 284, 285, 297, 317, 318, 319, *range(320, 326)}
_STRUCTURAL |= {330, 332, 400, 338, 339, 340, 341, 347, *range(512, 522), *range(529, 533), 700, 33723, 34377, 34675, 37724}


@dataclass(frozen=True)
class Metadata:
    """Metadata carried from the input file to the output file."""

    icc: bytes | None = None
    """Profile of the file's pixels. Pixels in memory are sRGB."""
    exif: Image.Exif | None = None
    """EXIF without orientation (already applied to the pixels) and without tags of the file's structure."""
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    """XMP without orientation."""
    iptc: bytes | None = None
    """IPTC-IIM records."""
    comment: bytes | None = None
    """Comment of a JPEG. Kept only in JPEG."""
    text: dict[str, str] = field(default_factory=dict)
    """Texts of a PNG. Kept only in PNG."""
    paths: bytes | None = None
    """Photoshop's blocks of clipping and other paths. Kept only in JPEG and TIFF."""
    color_chunks: signals.Chunks = ()
    """PNG chunks that define colours without a profile, converted from other formats. `icc` is equivalent if possible."""
    size: tuple[int, int] | None = None
    """Width and height, upright, to which pixel values in EXIF and XMP refer."""
    lossless: bool = False
    """Whether the file was a lossless WebP."""

    def stripped(self) -> Metadata:
        """Only metadata that defines the pixels: colours and losslessness."""
        return Metadata(icc=self.icc, color_chunks=self.color_chunks, lossless=self.lossless)

    def with_icc(self, icc: bytes | None) -> Metadata:
        """A copy with another profile."""
        return replace(self, icc=icc, color_chunks=self.color_chunks if icc == self.icc else ())

    def resized(self, size: tuple[int, int]) -> Metadata:
        """A copy with XMP adapted to another picture size."""
        if self.size is None or self.xmp is None or size == self.size:
            return self
        return replace(self, xmp=xmp.resized(self.xmp, self.size, size))


def carried(image: Image.Image) -> tuple[Metadata, tuple[str, ...]]:
    """Metadata of an opened image that is carried over, and notes about the rest."""
    packet, announced = xmp.without_container(_upright_xmp(image) or b"")
    icc, chunks, doubts = _colors(image)
    if any(segment[1].startswith(_ISO_GAIN_MAP) for segment in getattr(image, "applist", ())):
        announced = (_GAIN_MAP_NOTE, *announced)
    paths = _carried_paths(image)
    left_out = image.info.get("left_out")
    notes = (*(left_out if isinstance(left_out, tuple) else ()), *announced, *doubts)
    if paths and orientation(image) != 1:
        paths, notes = None, (*notes, "its paths were dropped because the picture was rotated")
    metadata = Metadata(
        icc=icc,
        exif=_carried_exif(image),
        dpi=_sane_dpi(image.info.get("dpi")),
        xmp=packet or None,
        iptc=_carried_iptc(image),
        comment=_bytes(image.info.get("comment")) if image.format in {"JPEG", "MPO"} else None,
        text=_carried_text(image),
        paths=paths,
        color_chunks=chunks,
        size=upright_size(image),
        lossless=image.format == "WEBP" and image.info.get("lossless") is True,
    )
    return metadata, tuple(dict.fromkeys(notes))


def exif_of(image: Image.Image) -> Image.Exif:
    """EXIF data readable without decoding pixels. Takes the orientation from XMP if EXIF has none."""
    # PngImageFile's own method would decode a file without EXIF at its start
    return Image.Image.getexif(image) if isinstance(image, PngImagePlugin.PngImageFile) else image.getexif()


def orientation(image: Image.Image) -> int:
    """EXIF orientation. 1 if missing or invalid."""
    try:
        return int(exif_of(image).get(ORIENTATION, 1))
    except Exception:  # broken EXIF must not fail the picture
        return 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image after its orientation is applied."""
    width, height = image.size
    # for TIFF, Pillow applies the tag to the size when opening, and to the pixels when decoding
    is_turned = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(ORIENTATION) in _ON_ITS_SIDE
    return (height, width) if orientation(image) in _ON_ITS_SIDE and not is_turned else (width, height)


def written_exif(metadata: Metadata, size: tuple[int, int], format: str, record: dict[str, Any] | None) -> Image.Exif:
    """A copy of the EXIF data with the new size and the record. Only the record if the data is too long for JPEG."""
    exif = Image.Exif()
    if metadata.exif is not None:
        exif.load(metadata.exif.tobytes())
    if EXIF_IFD in exif:
        _resize_details(exif, metadata.size, size)
    if metadata.dpi is not None and format in {"WEBP", "AVIF"}:  # these cannot store it elsewhere
        exif[_X_RESOLUTION], exif[_Y_RESOLUTION] = metadata.dpi
        exif[_RESOLUTION_UNIT] = 2
    if format == "JPEG" and len(exif.tobytes()) > _JPEG_EXIF:
        exif = Image.Exif()
    if record is not None:
        exif[HISTORY] = json.dumps(record, sort_keys=True)
    return exif


def _resize_details(exif: Image.Exif, old: tuple[int, int] | None, new: tuple[int, int]) -> None:
    """Scale pixel values in EXIF's own directory and the one below it, which is written whole or not at all."""
    details = exif.get_ifd(EXIF_IFD)
    inner = {}
    with suppress(Exception):  # broken EXIF must not fail the picture
        inner = dict(exif.get_ifd(_INTEROP_IFD))
    for found, tags in ((details, (_PIXEL_X, _PIXEL_Y)), (inner, (_RELATED_WIDTH, _RELATED_LENGTH))):
        found |= {tag: side for tag, side in zip(tags, new, strict=True) if tag in found}
    for tag in (_SUBJECT_AREA, _SUBJECT_LOCATION):
        if old is not None and isinstance(values := details.get(tag), tuple):
            # x, y, and a diameter or the sides
            details[tag] = tuple(round(value * new[i % 2] / old[i % 2]) for i, value in enumerate(values))
    if inner:
        details[_INTEROP_IFD] = inner
    else:
        details.pop(_INTEROP_IFD, None)


def losses(metadata: Metadata, format: str) -> str:
    """A message naming the metadata that a format cannot store. Empty if it can store all."""
    held: dict[str, Any] = {"text": metadata.text, "comment": metadata.comment, "IPTC": metadata.iptc, "paths": metadata.paths}
    held |= {"EXIF": metadata.exif, "XMP": metadata.xmp, "colour profile": metadata.icc}
    lost = [name for name, value in held.items() if value and format not in _PLACES.get(name, _ALL_BUT_BMP)]
    if format == "JPEG":
        lost += ["EXIF"] if metadata.exif and len(metadata.exif.tobytes()) > _JPEG_EXIF else []
        lost += ["XMP"] if metadata.xmp and len(metadata.xmp) >= _JPEG_SEGMENT else []
    return f"{format} cannot store its {', '.join(lost)}" if lost else ""


def save_options(metadata: Metadata, exif: Image.Exif, format: str) -> dict[str, Any]:
    """Arguments of Pillow's `save` for metadata, as far as the format supports it."""
    options: dict[str, Any] = {"dpi": metadata.dpi}
    if format != "BMP":
        options |= {"exif": exif.tobytes() if len(exif) else None, "icc_profile": metadata.icc}
    if format in {"WEBP", "AVIF", "JXL"}:
        options["xmp"] = metadata.xmp
    elif format == "JPEG":
        fits = metadata.xmp is not None and len(metadata.xmp) < _JPEG_SEGMENT
        options |= {"xmp": metadata.xmp if fits else None, "comment": metadata.comment}
        blocks = (metadata.paths or b"", iptc_block(metadata.iptc) if metadata.iptc else b"")
        # each alone may be too long
        resources = b""
        for block in blocks:
            resources += block if len(resources) + len(block) < _JPEG_SEGMENT else b""
        if resources:
            segment = JPEG_MARK + resources
            options["extra"] = b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment
    elif format == "PNG":
        options["pnginfo"] = _png_texts(metadata)
        if metadata.color_chunks:  # they are equivalent
            options["icc_profile"] = None
    return {key: value for key, value in options.items() if value is not None}


def _png_texts(metadata: Metadata) -> PngImagePlugin.PngInfo:
    texts = PngImagePlugin.PngInfo()
    for key, value in metadata.text.items():
        texts.add_itxt(key, value, zip=len(value) > _PACKED_FROM)
    if metadata.xmp is not None:
        with suppress(UnicodeDecodeError):
            texts.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode())
    if metadata.iptc is not None:  # where ImageMagick writes it and exiftool finds it
        block = iptc_block(metadata.iptc)
        texts.add_text(_PNG_IPTC, f"\niptc\n{len(block):8}\n{block.hex()}\n", zip=True)
    return texts


def _carried_exif(image: Image.Image) -> Image.Exif | None:
    """EXIF data to carry over: a copy without orientation, layout tags and an older record."""
    try:
        kept = Image.Exif()
        kept.load(exif_of(image).tobytes())
        for tag in [tag for tag in kept if tag in _STRUCTURAL or tag == HISTORY]:
            del kept[tag]
        if orientation(image) != 1 and EXIF_IFD in kept:  # positions in the picture before rotation
            for tag in (_SUBJECT_AREA, _SUBJECT_LOCATION):
                kept.get_ifd(EXIF_IFD).pop(tag, None)
        return kept if len(kept) else None
    except Exception:  # broken EXIF is dropped, the picture is kept
        return None


def _sane_dpi(dpi: Any) -> tuple[float, float] | None:
    """Resolution as two positive finite numbers. Files also contain 0/0 and other invalid values."""
    with suppress(TypeError, ValueError, ZeroDivisionError):
        across, down = (float(value) for value in dpi)
        if 0 < across < 1e6 and 0 < down < 1e6:
            return across, down
    return None


def _upright_xmp(image: Image.Image) -> bytes | None:
    packet = _bytes(image.info.get("xmp") or image.info.get("XML:com.adobe.xmp"))
    return xmp.without_orientation(packet) if packet else None


def _colors(image: Image.Image) -> tuple[bytes | None, signals.Chunks, tuple[str, ...]]:
    """Profile of an image, or an equivalent one for other colour data. Also PNG chunks, and notes on what was dropped."""
    icc = image.info.get("icc_profile")
    icc = icc if isinstance(icc, bytes) and icc else None
    chunks = signals.color_chunks(image.info)
    # in PNG, cICP overrides a profile; elsewhere the profile wins
    if icc is not None and not (image.format == "PNG" and chunks[:1] and chunks[0][0] == b"cICP"):
        return icc, (), ()
    if not chunks:
        return (signals.icc_of(signals.adobe_rgb(), False) if _is_adobe_rgb(image) else None), (), ()
    if signals.hdr_transfer(chunks) is not None:
        return None, chunks, ()
    signal = signals.signal_of(chunks)
    if signal is None:
        return icc, (), ("its colour information is not supported and was dropped",)
    return (None if signal.is_srgb else signals.icc_of(signal, signals.is_gray(image))), chunks, ()


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Whether EXIF names Adobe RGB, in DCF's way or that of some cameras."""
    with suppress(Exception):
        if EXIF_IFD not in (exif := exif_of(image)):  # reading a missing directory would create it
            return False
        space = exif.get_ifd(EXIF_IFD).get(_COLOR_SPACE)
        index = str(exif.get_ifd(_INTEROP_IFD).get(_INTEROP_INDEX, "")).strip("\0 ")
        return image.mode == "RGB" and (space == 2 or (index == "R03" and space != 1))
    return False


def _carried_paths(image: Any) -> bytes | None:
    with suppress(Exception):
        if image.format == "TIFF":
            value = image.tag_v2[_RESOURCES_TAG]
            return paths_of(value[0] if isinstance(value, tuple) else value) or None
        segments = (data for kind, data in getattr(image, "applist", ()) if kind == "APP13" and data.startswith(JPEG_MARK))
        return paths_of(b"".join(data.removeprefix(JPEG_MARK) for data in segments)) or None
    return None


def _carried_iptc(image: Image.Image) -> bytes | None:
    with suppress(Exception):  # invalid records are dropped, the picture is kept
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
    if isinstance(value, tuple):  # many programs store these bytes as 32-bit numbers
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
