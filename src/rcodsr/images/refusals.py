"""Error messages for unreadable files: one sentence each, with the remedy."""

from __future__ import annotations

from pathlib import Path

from rcodsr.errors import InputError
from rcodsr.messages import first_line


def damaged(source: object, error: Exception) -> InputError:
    """The error for a file that fails while its pixels are decoded."""
    if isinstance(error, OSError) and error.errno is not None and isinstance(source, Path):
        return unreadable(source, error)
    return InputError(source, f"cut short or damaged ({first_line(error)})", _WHOLE_OR_PLAIN)


def unreadable(path: Path, error: OSError) -> InputError:
    """The error for a file that the system cannot open."""
    if isinstance(error, FileNotFoundError):
        return InputError(path, "no such file", "check the path")
    if isinstance(error, PermissionError):
        return InputError(path, "cannot be read (permission denied)", "check its permissions")
    return InputError(path, f"cannot be read ({error.strerror or first_line(error)})", "check the path")


def unopenable(source: object, error: Exception) -> InputError:
    """The error for a picture that Pillow recognises but cannot open."""
    return InputError(source, f"not a readable picture ({first_line(error)})", _WHOLE_OR_PLAIN)


def raw(source: object, kind: str = "") -> InputError:
    """The error for undeveloped sensor data."""
    return InputError(source, f"a camera raw file{kind and f' ({kind})'}, which is not supported", _DEVELOP)


def unidentified(source: object, head: bytes, kind: str) -> InputError:
    """The error for a file that no decoder of Pillow accepts.

    Args:
        source: the file.
        head: first bytes of the file.
        kind: sample type of a TIFF.
    """
    if kind:
        return InputError(source, f"a TIFF of {kind}, which is not supported", "save it as a 16-bit or 8-bit TIFF")
    for mark, name in _OURS.items():
        if any(head[at:].startswith(mark) for at in (0, 4, 8)):
            return InputError(source, f"damaged, or an unsupported kind of {name}", _WHOLE_OR_PLAIN)
    if (maker := _raw_kind(head)) is not None:
        return raw(source, maker)
    return InputError(source, f"not a picture{_looks_like(head)}", "rcodsr reads PNG, JPEG, WebP, TIFF, BMP, GIF, PPM and AVIF")


def _raw_kind(head: bytes) -> str | None:
    return next((name for mark, name in _RAWS.items() if head.startswith(mark) or head[4:12] == mark), None)


def _looks_like(head: bytes) -> str:
    if not head:
        return " (the file is empty)"
    if head.startswith(b"version https://git-lfs"):
        return " (a git-lfs pointer: run git lfs pull)"
    if b"<html" in head.lower() or b"<!doctype" in head.lower():
        return " (looks like a web page)"
    for mark, name in _OTHERS.items():
        if head.startswith(mark):
            return f" rcodsr reads ({name})"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return " (looks like text)"
    return ""


_DEVELOP = "develop it to TIFF or PNG first, for example with darktable or RawTherapee"
_WHOLE_OR_PLAIN = "get a whole copy of the file, or save it as plain PNG"
_OURS = {
    b"\x89PNG\r\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"WEBP": "WebP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
    b"GIF8": "GIF",
    b"ftypavi": "AVIF",
}
"""Signatures of formats that are read."""
_RAWS = {
    b"FUJIFILMCCD-RAW": "Fujifilm RAF",
    b"IIU\0": "Panasonic RW2",
    b"IIRO": "Olympus ORF",
    b"IIRS": "Olympus ORF",
    b"MMOR": "Olympus ORF",
    b"ftypcrx ": "Canon CR3",
    b"II\x1a\0\0\0HEAPCCDR": "Canon CRW",
    b"FOVb": "Sigma X3F",
    b"\0MRM": "Minolta MRW",
}
_OTHERS = {
    b"%!PS": "PostScript",
    b"%PDF": "PDF",
    b"8BPS": "Photoshop",
    b"PK\x03\x04": "a zip archive",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\1\0": "an icon",
    b"<svg": "SVG",
    b"<?xml": "XML",
}
