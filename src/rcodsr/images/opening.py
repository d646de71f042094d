"""Open picture files without decoding them: allowlist, limits from the header, and one type of error."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from rcodsr.errors import InputError
from rcodsr.images import boxes, chunks, directories, jxl, riff
from rcodsr.images.formats import READABLE
from rcodsr.images.metadata import HISTORY, ORIENTATION, exif_of, upright_size
from rcodsr.images.refusals import raw, unidentified, unopenable, unreadable
from rcodsr.images.survey import Survey, View
from rcodsr.options import output_size


@dataclass(frozen=True)
class Piped:
    """A picture file received through a pipe. Used in place of a path."""

    data: bytes
    stem: str = "stdin"
    suffix: str = ""

    def __str__(self) -> str:
        return "-"


Source = Path | Piped


@dataclass(frozen=True)
class Header:
    """Properties of a file that are known before its pixels are decoded."""

    format: str
    width: int
    """Width in pixels, after rotation."""
    height: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height


def read_header(source: Source) -> Header:
    """Read format and upright size.

    Raises:
        InputError: when the file is missing or not a picture.
    """
    with opened(source) as image:
        return Header("JPEG" if image.format == "MPO" else image.format or "", *upright_size(image))


def check_size(source: Source, size: tuple[int, int], max_pixels: int, scale: float) -> None:
    """Refuse a picture whose enlargement exceeds `max_pixels`.

    Raises:
        InputError: naming the size and the option that raises the limit.
    """
    width, height = output_size(size, scale)
    if width * height > max_pixels:
        cause = f"would become {width}×{height} = {_pixels(width * height)}, over the limit of {_pixels(max_pixels)}"
        raise InputError(source, cause, "raise it with --max-pixels or crop the picture")


def _pixels(count: int) -> str:
    return f"{count / 1e6:.0f} megapixels" if count >= 1e7 else f"{count:,} pixels"


def read_record(path: Source) -> dict[str, Any] | None:
    """The record of how a picture was made, as written by `encode`. None if there is none."""
    with suppress(Exception), opened(path) as image:
        record = json.loads(exif_of(image)[HISTORY])
        return record if isinstance(record, dict) else None
    return None


def is_whole(path: Path) -> bool:
    """Whether a picture file can be decoded completely."""
    with suppress(Exception), opened(path) as image:
        image.load()
        return True
    return False


def digest(source: Source) -> str:
    """SHA-256 of a file, in hexadecimal.

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
    """Open a picture file without decoding it. Properties that Pillow does not read are added to `info` (see `survey.Survey`).

    Raises:
        InputError: when opening fails for any reason.
    """
    # Pillow warns of sizes (we check them ourselves) and odd metadata
    with _NO_WARNINGS, ExitStack() as files, _open(source, files) as image:
        yield image


class _NoWarnings:
    """Ignores warnings while any thread is inside.

    Python's filters belong to the whole process. Two threads that enter and leave `warnings.catch_warnings` alternately would
    restore each other's filters. Here the first thread to enter saves them and the last one to leave restores them.
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


def _open(source: Source, files: ExitStack) -> ImageFile.ImageFile:
    """Open a file, or a view of it that Pillow can read. `files` closes it."""
    if isinstance(source, Path):
        _require_regular(source)
    head = _head(source)
    found = _surveyed(source, head)
    if _is_heic(head):
        image = _open_heif(source)
    elif head.startswith(jxl.MARKS):
        image = _open_jxl(source)
    else:
        handle: Path | BinaryIO = _handle(source)
        if found.parts:
            handle = files.enter_context(io.BufferedReader(View(_stream(source), found.parts)))
        image = _open_plain(source, head, handle)
    image.info.update(found.info.items())
    return image


def _open_plain(source: Source, head: bytes, handle: Path | BinaryIO) -> ImageFile.ImageFile:
    try:
        return Image.open(handle, formats=READABLE)
    except UnidentifiedImageError as error:
        raise unidentified(source, head, _samples(source, head)) from error
    except Image.DecompressionBombError as error:
        found = re.search(r"(\d+) pixels", str(error))
        megapixels = f"{int(found[1]) / 1e6:.0f} megapixels" if found else "too many pixels"
        raise InputError(source, f"{megapixels} are over the limit", "crop or shrink it first") from error
    except OSError as error:
        if error.errno is not None and isinstance(source, Path):
            raise unreadable(source, error) from error
        raise unopenable(source, error) from error
    except Exception as error:
        raise unopenable(source, error) from error


def _surveyed(source: Source, head: bytes) -> Survey:
    """Survey the structure of a file. A malformed file yields nothing, because Pillow's error is better.

    Raises:
        InputError: for a camera raw file.
    """
    survey = {
        head.startswith(chunks.SIGNATURE): chunks.survey,
        head.startswith(directories.MARKS): directories.survey,
        head[4:8] == b"ftyp": boxes.survey,
        head[:4] == b"RIFF" and head[8:12] == b"WEBP": riff.survey,
    }.get(True)
    if survey is None:
        return Survey()
    try:
        with _stream(source) as file:
            if survey is directories.survey and directories.is_raw(file):
                raise raw(source)
            return survey(file)
    except OSError as error:
        raise unreadable(source if isinstance(source, Path) else Path(str(source)), error) from error


def _samples(source: Source, head: bytes) -> str:
    """Sample type of a TIFF. Empty for other files."""
    if not head.startswith(directories.MARKS):
        return ""
    with _stream(source) as file:
        return directories.sample_kind(file)


def _stream(source: Source) -> BinaryIO:
    return source.open("rb", buffering=0) if isinstance(source, Path) else io.BytesIO(source.data)


def _require_regular(path: Path) -> None:
    """Refuse anything but a regular file: a pipe or a device would block or never end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:  # a null character
        raise InputError(path, f"not a valid name ({error})", "check the path") from error
    if not stat.S_ISREG(mode):
        raise InputError(path, "not a regular file", "pass a picture file or a directory")


def _handle(source: Source) -> Path | io.BytesIO:
    return source if isinstance(source, Path) else io.BytesIO(source.data)


def _is_heic(head: bytes) -> bool:
    brand = head[8:12]
    general = brand in {b"mif1", b"msf1"} and b"avi" not in head[12:]
    return head[4:8] == b"ftyp" and (brand[:3] in {b"hei", b"hev"} or general)


def _open_heif(source: Source) -> ImageFile.ImageFile:
    try:
        import pillow_heif
    except ImportError as error:
        cause = "not readable without a plugin: HEIC needs pillow-heif"
        raise InputError(source, cause, "pip install pillow-heif, or convert it to JPEG or PNG") from error
    pillow_heif.register_heif_opener()
    try:
        return Image.open(_handle(source), formats=("HEIF", "AVIF"))
    except Exception as error:
        raise unopenable(source, error) from error


def _open_jxl(source: Source) -> ImageFile.ImageFile:
    """Open a JPEG XL file after checking its header. The plugin decodes it at once."""
    try:
        import pillow_jxl  # noqa: F401 (which joins Pillow's formats)
    except ImportError as error:
        cause = "not readable without a plugin: JPEG XL needs pillow-jxl-plugin"
        raise InputError(source, cause, "pip install pillow-jxl-plugin, or convert it to PNG") from error
    try:
        data = source.data if isinstance(source, Piped) else source.read_bytes()
    except OSError as error:
        raise unreadable(source if isinstance(source, Path) else Path(str(source)), error) from error
    found = jxl.facts(data)
    if found is not None and found.animated:
        raise InputError(source, "an animation or several pages", "extract the picture you want first")
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # same as Pillow's own
    if found is not None and limit and found.width * found.height > limit:
        megapixels = f"{found.width * found.height / 1e6:.0f} megapixels"
        raise InputError(source, f"{megapixels} are over the limit", "crop or shrink it first")
    try:
        image = Image.open(io.BytesIO(data), formats=("JXL",))
    except Exception as error:
        raise unopenable(source, error) from error
    if found is not None and found.xmp is not None:
        image.info["xmp"] = found.xmp
    exif = image.getexif()
    if exif.pop(ORIENTATION, None) is not None and not getattr(image, "jpeg", False):  # its decoder has rotated the pixels
        image.info["exif"] = exif.tobytes()
    return image


def _head(source: Source) -> bytes:
    """The first bytes of a file."""
    if isinstance(source, Piped):
        return source.data[:64]
    try:
        with source.open("rb") as handle:
            return handle.read(64)
    except OSError as error:
        raise unreadable(source, error) from error
