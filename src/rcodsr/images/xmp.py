"""XMP data about pixels and the file itself: rotated, scaled, or removed when no longer valid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_ADOBE, _GOOGLE = b"http://ns.adobe.com/", b"http://ns.google.com/photos/1.0/"
_SPACES = {
    b"tiff": _ADOBE + b"tiff/1.0/",
    b"exif": _ADOBE + b"exif/1.0/",
    b"hdrgm": _ADOBE + b"hdr-gain-map/1.0/",
    b"xmpNote": _ADOBE + b"xmp/note/",
    b"HDRGainMap": b"http://ns.apple.com/HDRGainMap/1.0/",
    b"GPano": _GOOGLE + b"panorama/",
    b"GCamera": _GOOGLE + b"camera/",
    b"Container": _GOOGLE + b"container/",
    b"Item": _GOOGLE + b"container/item/",
    b"GImage": _GOOGLE + b"image/",
    b"GDepth": _GOOGLE + b"depthmap/",
    b"GAudio": _GOOGLE + b"audio/",
    b"mwg-rs": b"http://www.metadataworkinggroup.com/schemas/regions/",
    b"stDim": _ADOBE + b"xap/1.0/sType/Dimensions#",
}
"""Namespaces by their usual prefixes."""
_GAIN_MAP = ((b"hdrgm", rb"\w+"), (b"HDRGainMap", rb"\w+"))
_MOTION = ((b"GCamera", rb"(?:MotionPhoto|MicroVideo)\w*"),)
_CONTAINER = ((b"Container", rb"Directory"),)
_EXTENDED = ((b"xmpNote", rb"HasExtendedXMP"),)
_IN_EXTENDED = tuple((prefix, rb"\w+") for prefix in (b"GImage", b"GDepth", b"GAudio"))
_ACROSS, _DOWN = rb"\w*(?:Width|Left)\w*", rb"\w*(?:Height|Top)\w*"


def without_orientation(xmp: bytes) -> bytes:
    """XMP without orientation, for upright pixels."""
    return _without(xmp, b"tiff", rb"Orientation")


def without_container(xmp: bytes) -> tuple[bytes, tuple[str, ...]]:
    """XMP for a file with a single picture and nothing behind it, and notes about what was dropped."""
    notes = []
    cleaned = xmp
    for properties, note in (
        (_GAIN_MAP, "its gain map (HDR) was dropped"),
        (_MOTION, "its motion video was dropped"),
        (_EXTENDED, "the extended part of its XMP was dropped"),
    ):
        before = cleaned
        for prefix, name in properties:
            cleaned = _without(cleaned, prefix, name)
        if cleaned != before:
            notes.append(note)
            if properties == _EXTENDED:
                for prefix, name in _IN_EXTENDED:
                    cleaned = _without(cleaned, prefix, name)
    for prefix, name in _CONTAINER:
        cleaned = _without(cleaned, prefix, name)
    if cleaned != xmp:
        for prefix in (b"hdrgm", b"HDRGainMap", b"Container", b"Item", b"xmpNote", b"GImage", b"GDepth", b"GAudio"):
            cleaned = _undeclared(cleaned, prefix)
    return cleaned, tuple(notes)


def resized(xmp: bytes, old: tuple[int, int], new: tuple[int, int]) -> bytes:
    """XMP adapted to an enlarged picture.

    Args:
        xmp: original data.
        old: width and height to which its numbers refer.
        new: current width and height of the picture.
    """
    scales = tuple(after / before for after, before in zip(new, old, strict=True))
    names = ((b"ImageWidth", b"PixelXDimension", _ACROSS), (b"ImageLength", b"PixelYDimension", _DOWN))
    for side, scale, (tiff, exif, pano) in zip(new, scales, names, strict=True):
        xmp = _changed(xmp, b"tiff", tiff, value=side)
        xmp = _changed(xmp, b"exif", exif, value=side)
        xmp = _changed(xmp, b"GPano", pano, scale)
    return _in_regions(xmp, scales)


def _in_regions(xmp: bytes, scales: tuple[float, ...]) -> bytes:
    """Adapt the size to which face regions of the Metadata Working Group refer."""
    for region in reversed(list(_properties(xmp, b"mwg-rs", rb"AppliedToDimensions"))):
        inside = xmp[region.start : region.end]
        for name, scale in zip((b"w", b"h"), scales, strict=True):
            inside = _changed(inside, b"stDim", name, scale, declarations=xmp)
        xmp = xmp[: region.start] + inside + xmp[region.end :]
    return xmp


@dataclass(frozen=True)
class _Property:
    """Position of a property, as an attribute or as an element."""

    start: int
    end: int
    value: slice


def _properties(xmp: bytes, prefix: bytes, name: bytes, declarations: bytes | None = None) -> Iterator[_Property]:
    """Every occurrence of a property, in time linear in the length of the packet."""
    prefixes = b"|".join(map(re.escape, _prefixes(declarations or xmp, prefix)))
    attribute = rb"""\s(?:%s):%s\s*=\s*(?P<quote>["'])(?P<value>[^"'<]*)(?P=quote)""" % (prefixes, name)
    element = rb"<(?P<tag>(?:%s):%s)(?:\s[^<>]*)?>" % (prefixes, name)
    pattern, at = re.compile(rb"%s|%s" % (attribute, element)), 0
    while match := pattern.search(xmp, at):
        at = match.end()
        if match["tag"] is None:
            yield _Property(match.start(), at, slice(*match.span("value")))
        elif match[0].endswith(b"/>"):
            yield _Property(match.start(), at, slice(at, at))
        else:
            closing = xmp.find(b"</" + match["tag"], at)
            end = xmp.find(b">", closing) + 1
            if closing < 0 or end == 0:
                return
            yield _Property(match.start(), end, slice(at, closing))
            at = end


def _changed(
    xmp: bytes, prefix: bytes, name: bytes, scale: float = 1.0, value: int | None = None, declarations: bytes | None = None
) -> bytes:
    """Replace or scale the value if the old one is a number."""
    parts, at = [], 0
    for found in _properties(xmp, prefix, name, declarations):
        if re.fullmatch(rb"\s*[-+]?\d{1,9}(?:\.\d{0,9})?\s*", number := xmp[found.value]):
            parts += [xmp[at : found.value.start], b"%d" % (round(float(number) * scale) if value is None else value)]
            at = found.value.stop
    return b"".join((*parts, xmp[at:]))


def _without(xmp: bytes, prefix: bytes, name: bytes) -> bytes:
    parts, at = [], 0
    for found in _properties(xmp, prefix, name):
        parts.append(xmp[at : found.start])
        at = found.end
    return b"".join((*parts, xmp[at:]))


def _undeclared(xmp: bytes, prefix: bytes) -> bytes:
    """Remove the declarations of a namespace that is no longer used."""
    for used in _prefixes(xmp, prefix):
        if not re.search(rb"[\s<]%s:" % re.escape(used), xmp):
            xmp = re.sub(rb"""\sxmlns:%s\s*=\s*(?:"[^"]*"|'[^']*')""" % re.escape(used), b"", xmp)
    return xmp


def _prefixes(xmp: bytes, usual: bytes) -> set[bytes]:
    """Prefixes of a namespace in a packet: the usual one, and declared ones."""
    declared = rb"""xmlns:([\w.-]+)\s*=\s*["']%s["']""" % re.escape(_SPACES[usual])
    return {usual, *re.findall(declared, xmp)}
