"""Opening picture files without decoding them: the allowlist, limits judged from the header, one kind of error."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, UnidentifiedImageError

from rcodsr.config import output_size
from rcodsr.errors import InputError
from rcodsr.images.formats import READABLE
from rcodsr.images.metadata import HISTORY, exif_of, orientation


@dataclass(frozen=True)
class Piped:
    """A picture file that came through a pipe; stands where a path stands."""

    data: bytes
    stem: str = "stdin"
    suffix: str = ""

    def __str__(self) -> str:
        return "-"


Source = Path | Piped


@dataclass(frozen=True)
class Header:
    """What a file says before its pixels are decoded."""

    format: str
    width: int
    """Upright, in pixels."""
    height: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height


def read_header(source: Source) -> Header:
    """Format and upright size.

    Raises:
        InputError: when the file is missing or not a picture.
    """
    with opened(source) as image:
        width, height = image.size
        turned = orientation(image) in (5, 6, 7, 8)
        format = "JPEG" if image.format == "MPO" else image.format or ""
        return Header(format, *((height, width) if turned else (width, height)))


def check_size(source: Source, size: tuple[int, int], max_pixels: int, scale: float) -> None:
    """Refuse a picture whose enlargement passes `max_pixels`.

    Raises:
        InputError: naming the size and the option that raises the limit.
    """
    width, height = output_size(size, scale)
    if width * height > max_pixels:
        raise InputError(
            source,
            f"would become {width}×{height} = {width * height / 1e6:.0f} megapixels, over the limit of {max_pixels / 1e6:.0f}",
            "raise it with --max-pixels or crop the picture",
        )


def read_record(path: Source) -> dict[str, Any] | None:
    """How a picture was made, as `encode` wrote it; None where there is no such record."""
    with suppress(Exception), opened(path) as image:
        record = json.loads(exif_of(image)[HISTORY])
        return record if isinstance(record, dict) else None
    return None


def is_whole(path: Path) -> bool:
    """Whether a picture file decodes to its end."""
    with suppress(Exception), opened(path) as image:
        image.load()
        return True
    return False


def digest(source: Source) -> str:
    """Sha256 of a file, in hexadecimal.

    Raises:
        InputError: when it cannot be read.
    """
    if isinstance(source, Piped):
        return hashlib.sha256(source.data).hexdigest()
    try:
        with source.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(source, error) from error


@contextmanager
def opened(source: Source) -> Iterator[ImageFile.ImageFile]:
    """Open a picture file without decoding it.

    Raises:
        InputError: when that fails, for whatever reason.
    """
    with _NO_WARNINGS, _open(source) as image:  # Pillow warns of sizes (we check them ourselves) and odd metadata
        yield image


class _NoWarnings:
    """Ignores warnings while any thread is inside.

    Python's filters belong to the whole process: two threads that enter and leave `warnings.catch_warnings` by turns would put
    back each other's, so the first one in saves them and the last one out restores them.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._saved = threading.Lock(), 0, warnings.catch_warnings(action="ignore")

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings(action="ignore")
                self._saved.__enter__()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(None, None, None)


_NO_WARNINGS = _NoWarnings()


def damaged(source: object, error: Exception) -> InputError:
    """Our sentence for a file that breaks while its pixels are decoded."""
    if isinstance(error, OSError) and error.errno is not None and isinstance(source, Path):
        return unreadable(source, error)
    return InputError(source, f"cut short or damaged ({first_line(error)})", "get a whole copy of the file")


def unreadable(path: Path, error: OSError) -> InputError:
    """Our sentence for a file that the system does not hand out."""
    if isinstance(error, FileNotFoundError):
        return InputError(path, "no such file", "check the path")
    if isinstance(error, PermissionError):
        return InputError(path, "cannot be read (permission denied)", "check its permissions")
    return InputError(path, f"cannot be read ({error.strerror or first_line(error)})", "check the path")


def first_line(error: BaseException) -> str:
    """What an error says, short enough for one line."""
    lines = str(error).splitlines()
    return (lines[0] if lines and lines[0] else type(error).__name__)[:160]


def _open(source: Source) -> ImageFile.ImageFile:
    if isinstance(source, Path):
        _require_regular(source)
    head = _head(source)
    if _is_heic(head):
        return _open_heif(source)
    try:
        return Image.open(_handle(source), formats=READABLE)
    except UnidentifiedImageError as error:
        remedy = "rcodsr reads PNG, JPEG, WebP, TIFF, BMP, GIF, PPM and AVIF"
        raise InputError(source, f"not a picture{_looks_like(head)}", remedy) from error
    except Image.DecompressionBombError as error:
        found = re.search(r"(\d+) pixels", str(error))
        megapixels = f"{int(found[1]) / 1e6:.0f} megapixels" if found else "too many pixels"
        raise InputError(source, f"{megapixels} are over the limit", "crop or shrink it first") from error
    except OSError as error:
        if error.errno is not None and isinstance(source, Path):
            raise unreadable(source, error) from error
        raise _unopenable(source, error) from error
    except Exception as error:
        raise _unopenable(source, error) from error


def _require_regular(path: Path) -> None:
    """Only files are opened: a pipe or a device would wait, or never end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:  # a null character
        raise InputError(path, f"not a possible name ({error})", "check the path") from error
    if not stat.S_ISREG(mode):
        raise InputError(path, "not a regular file", "give a picture file or a directory")


def _handle(source: Source) -> Path | io.BytesIO:
    return source if isinstance(source, Path) else io.BytesIO(source.data)


def _unopenable(source: Source, error: Exception) -> InputError:
    return InputError(source, f"not a readable picture ({first_line(error)})", "get a whole copy of the file")


def _is_heic(head: bytes) -> bool:
    brand = head[8:12]
    general = brand in {b"mif1", b"msf1"} and b"avi" not in head[12:]
    return head[4:8] == b"ftyp" and (brand[:3] in {b"hei", b"hev"} or general)


def _open_heif(source: Source) -> ImageFile.ImageFile:
    try:
        import pillow_heif
    except ImportError as error:
        cause = "not a picture rcodsr reads by itself: HEIC needs pillow-heif"
        raise InputError(source, cause, "pip install 'rcodsr[heif]', or convert it to JPEG or PNG") from error
    pillow_heif.register_heif_opener()
    try:
        return Image.open(_handle(source), formats=("HEIF", "AVIF"))
    except Exception as error:
        raise _unopenable(source, error) from error


def _head(source: Source) -> bytes:
    """The first bytes of a file."""
    if isinstance(source, Piped):
        return source.data[:64]
    try:
        with source.open("rb") as handle:
            return handle.read(64)
    except OSError as error:
        raise unreadable(source, error) from error


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


_OTHERS = {
    b"%!PS": "PostScript",
    b"%PDF": "PDF",
    b"8BPS": "Photoshop",
    b"PK\x03\x04": "a zip archive",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\1\0": "an icon",
    b"<svg": "SVG",
    b"<?xml": "XML",
}
