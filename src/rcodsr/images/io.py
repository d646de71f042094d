"""Picture files: reading with limits judged from the header, writing whole files or none.

Only the formats in `READABLE` are ever decoded, whatever a file is called. Errors name the file and the remedy.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from rcodsr.config import MAX_OUTPUT_PIXELS
from rcodsr.errors import InputError, OutputError

if TYPE_CHECKING:  # planning needs headers and records, not torch
    from rcodsr.images.picture import Picture

READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")
FORMATS = {
    ".png": "PNG",
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".avif": "AVIF",
}
"""Formats we write, by file name suffix."""
SUFFIXES = {*FORMATS, ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".dib"}
"""Suffixes that make a file of a directory an input."""
LOSSY = {"JPEG", "WEBP", "AVIF"}
MAX_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 65_535, "PNG": 2**31 - 1, "TIFF": 2**31 - 1, "BMP": 2**31 - 1}

_PART = ".rcodsr-part"
_ORIENTATION = 0x0112
_HISTORY = 0x9213  # EXIF ImageHistory: how the picture was made
_EXIF_IFD, _GPS_IFD, _PIXEL_X, _PIXEL_Y = 0x8769, 0x8825, 0xA002, 0xA003
_JPEG_EXIF_BYTES = 65_000  # one JPEG segment
# tags that describe the old file's layout, not the picture
_STRUCTURAL = {*range(254, 260), 262, 266, 273, _ORIENTATION, *range(277, 282), 284, 285, 297, 317, 318, 319, *range(320, 326)}
_STRUCTURAL |= {330, 332, 338, 339, 340, 341, 347, *range(512, 522), *range(529, 533), 700, 33723, 34377, 34675, 37724}


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


def output_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Width and height of a picture enlarged by `scale`: rounded, at least one pixel."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def read_header(path: Path) -> Header:
    """Format and upright size.

    Raises:
        InputError: when the file is missing or not a picture.
    """
    with _opened(path) as image:
        width, height = image.size
        turned = _orientation(image) in (5, 6, 7, 8)
        return Header(image.format or "", *((height, width) if turned else (width, height)))


def read(path: Path, max_pixels: int = MAX_OUTPUT_PIXELS, scale: float = 1.0) -> Picture:
    """Decode a picture: upright, every mode brought to [0, 1], metadata kept.

    Args:
        path: a regular file.
        max_pixels: limit on the pixels of the enlarged picture, judged from the header.
        scale: the enlargement planned for it.

    Raises:
        InputError: when the file is missing, not a picture, damaged, animated, or too large.
    """
    with _opened(path) as image:
        check_size(path, image.size, max_pixels, scale)
        try:
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                raise InputError(path, "an animation or several pages", "extract the picture you want first")
            image.load()
            return from_image(image, path)
        except InputError:
            raise
        except Exception as error:  # Pillow's decoders raise at least six unrelated types
            raise InputError(path, f"cut short or damaged ({_first_line(error)})", "get a whole copy of the file") from error


def from_image(image: Image.Image, name: object = "image") -> Picture:
    """A picture from a decoded Pillow image: upright, every mode brought to [0, 1], metadata kept.

    Raises:
        InputError: for modes without a defined range.
    """
    from rcodsr.images.picture import Metadata, from_pil

    icc = image.info.get("icc_profile") if image.mode != "CMYK" else None
    metadata = Metadata(icc, _carried_exif(image), _sane_dpi(image.info.get("dpi")))
    return from_pil(_upright(image), name).with_metadata(metadata)


def to_image(picture: Picture) -> Image.Image:
    """The 8-bit Pillow image of a picture, its metadata in `info`."""
    from rcodsr.images.picture import to_pil

    image = to_pil(picture)
    exif = _written_exif(picture, "PNG", None)
    info = {"icc_profile": picture.metadata.icc, "dpi": picture.metadata.dpi, "exif": exif.tobytes() if len(exif) else None}
    image.info |= {key: value for key, value in info.items() if value is not None}
    return image


def encode(picture: Picture, format: str, quality: int = 95, record: dict[str, Any] | None = None) -> bytes:
    """A picture file in memory.

    Args:
        picture: what to write; alpha is laid on white where the format has none.
        format: a value of `FORMATS`.
        quality: of JPEG, WebP and AVIF, 1 to 100.
        record: how the picture was made, kept in the EXIF tag ImageHistory (not in BMP).

    Raises:
        InputError: when the format cannot hold a picture of this size.
    """
    from rcodsr.images.picture import to_pil

    if max(picture.size) > MAX_SIDE[format]:
        raise InputError(
            f"{picture.size[0]}×{picture.size[1]}", f"{format} holds at most {MAX_SIDE[format]} pixels a side", "use -f png"
        )
    image = to_pil(picture)
    if image.mode in {"LA", "RGBA"} and not has_room_for_alpha(format):
        image = _flatten(image)
    exif = _written_exif(picture, format, record)
    options: dict[str, Any] = {"exif": exif.tobytes(), "icc_profile": picture.metadata.icc, "dpi": picture.metadata.dpi}
    per_format: dict[str, dict[str, Any]] = {
        "PNG": {"compress_level": 1},
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality},
        "AVIF": {"quality": quality},
        # Pillow writes EXIF sub-directories into uncompressed TIFF only
        "TIFF": {} if exif.keys() & {_EXIF_IFD, _GPS_IFD} else {"compression": "tiff_adobe_deflate"},
        "BMP": {},
    }
    options |= per_format[format]
    buffer = io.BytesIO()
    image.save(buffer, format, **{key: value for key, value in options.items() if value is not None})
    return buffer.getvalue()


def has_room_for_alpha(format: str) -> bool:
    """Whether a format stores transparency."""
    return format not in {"JPEG", "BMP"}


def read_record(path: Path) -> dict[str, Any] | None:
    """How a picture was made, as `encode` wrote it; None where there is no such record."""
    with suppress(Exception), _opened(path) as image:
        record = json.loads(image.getexif()[_HISTORY])
        return record if isinstance(record, dict) else None
    return None


def is_whole(path: Path) -> bool:
    """Whether a picture file decodes to its end."""
    with suppress(Exception), _opened(path) as image:
        image.load()
        return True
    return False


def write_stream(stream: BinaryIO | None, data: bytes) -> None:
    """Write a whole picture to standard output.

    Raises:
        OutputError: when the stream is full or closed.
    """
    if stream is None:
        raise OutputError("standard output", "is closed", "use -o FILE")
    try:
        stream.write(data)
        stream.flush()
    except OSError as error:
        raise output_error(Path("standard output"), error) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: temporary name in the same folder, fsync, rename.

    Raises:
        OutputError: when it cannot be written; the temporary file is gone and an old file untouched.
    """
    # hashed, because a name of 255 bytes is legal and a longer temporary one is not
    short = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    temporary = path.with_name(f".{short}.{os.getpid()}{_PART}")
    try:
        try:
            with temporary.open("wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path, error) from error


def remove_stale_parts(directory: Path) -> None:
    """Remove temporary files that processes killed in the middle of a write have left behind."""
    for part in directory.glob(f".*{_PART}"):
        pid = part.name.removesuffix(_PART).rpartition(".")[2]
        with suppress(OSError, OverflowError, ValueError):  # another user's part, a folder of that name, a nonsense number
            if not _is_running(int(pid)):
                part.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        pass
    return True


def make_directory(directory: Path) -> None:
    """Create a directory and its parents.

    Raises:
        OutputError: when that is not possible.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(directory, error) from error


def output_error(path: Path, error: OSError) -> OutputError:
    """Our sentence for a failed write."""
    remedies = {
        errno.ENOSPC: "free some space and run again: finished pictures are kept",
        errno.EDQUOT: "free some space and run again: finished pictures are kept",
        errno.EROFS: "choose a writable place with -o",
        errno.EACCES: "choose a writable place with -o",
        errno.ENOTDIR: "a file stands where a folder is needed; choose another place with -o",
        errno.EEXIST: "a file stands where a folder is needed; choose another place with -o",
    }
    return OutputError(
        path, f"cannot be written ({error.strerror})", remedies.get(error.errno or 0, "choose another place with -o")
    )


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture file without decoding it; every failure becomes an `InputError`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of sizes (we check them ourselves) and odd metadata
        with _open_image(path) as image:
            yield image


def _open_image(path: Path) -> Image.Image:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(
            path, "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror), "check the path"
        ) from error
    if not stat.S_ISREG(mode):
        raise InputError(path, "not a regular file", "give a picture file or a directory")
    try:
        return Image.open(path, formats=READABLE)
    except UnidentifiedImageError as error:
        raise InputError(
            path, f"not a picture{_looks_like(path)}", "rcodsr reads PNG, JPEG, WebP, TIFF, BMP, GIF, PPM and AVIF"
        ) from error
    except Image.DecompressionBombError as error:
        found = re.search(r"(\d+) pixels", str(error))
        megapixels = f"{int(found[1]) / 1e6:.0f} megapixels" if found else "too many pixels"
        raise InputError(path, f"{megapixels} are over the limit", "crop or shrink it first") from error
    except PermissionError as error:
        raise InputError(path, "cannot be read (permission denied)", "check its permissions") from error
    except Exception as error:
        raise InputError(path, f"not a readable picture ({_first_line(error)})", "get a whole copy of the file") from error


def check_size(path: Path, size: tuple[int, int], max_pixels: int, scale: float) -> None:
    """Refuse a picture whose enlargement passes `max_pixels`.

    Raises:
        InputError: naming the size and the option that raises the limit.
    """
    width, height = output_size(size, scale)
    if width * height > max_pixels:
        raise InputError(
            path,
            f"would become {width}×{height} = {width * height / 1e6:.0f} megapixels, over the limit of {max_pixels / 1e6:.0f}",
            "raise it with --max-pixels or crop the picture",
        )


def _sane_dpi(dpi: Any) -> tuple[float, float] | None:
    """Resolution as two positive finite numbers; files also hold 0/0 and nonsense."""
    with suppress(TypeError, ValueError, ZeroDivisionError):
        across, down = (float(value) for value in dpi)
        if 0 < across < 1e6 and 0 < down < 1e6:
            return across, down
    return None


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF must not cost the picture
        return 1


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if _orientation(image) in range(2, 9) else image


def _carried_exif(image: Image.Image) -> Image.Exif | None:
    """The EXIF data worth carrying: a copy without orientation, layout tags and an older record."""
    try:
        kept = Image.Exif()
        kept.load(image.getexif().tobytes())
        for tag in [tag for tag in kept if tag in _STRUCTURAL or tag == _HISTORY]:
            del kept[tag]
        return kept if len(kept) else None
    except Exception:  # broken EXIF is dropped, the picture stays
        return None


def _written_exif(picture: Picture, format: str, record: dict[str, Any] | None) -> Image.Exif:
    """A copy of the picture's EXIF data with its new size and the record; the record alone where it is too long for JPEG."""
    exif = Image.Exif()
    if picture.metadata.exif is not None:
        exif.load(picture.metadata.exif.tobytes())
    if _EXIF_IFD in exif:
        details = exif.get_ifd(_EXIF_IFD)
        for tag, side in zip((_PIXEL_X, _PIXEL_Y), picture.size, strict=True):
            if tag in details:
                details[tag] = side
    if format == "JPEG" and len(exif.tobytes()) > _JPEG_EXIF_BYTES - 1000:
        exif = Image.Exif()
    if record is not None:
        exif[_HISTORY] = json.dumps(record, sort_keys=True)
    return exif


def _flatten(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    flat = Image.alpha_composite(white, image.convert("RGBA"))
    return flat.convert("L" if image.mode == "LA" else "RGB")


def _looks_like(path: Path) -> str:
    with suppress(OSError), path.open("rb") as handle:
        head = handle.read(64)
        if not head:
            return " (the file is empty)"
        if head.startswith(b"version https://git-lfs"):
            return " (a git-lfs pointer: run git lfs pull)"
        if b"<html" in head.lower() or b"<!doctype" in head.lower():
            return " (looks like a web page)"
        if head[4:12] in {b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"}:
            return " rcodsr reads (HEIC: convert it to JPEG or PNG)"
        if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
            return " (looks like text)"
    return ""


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:160]
