"""Read picture files and write them. Every other module reads and writes pictures through this one.

Only formats in `READABLE` are decoded, whatever a file's suffix. Errors name the file and the remedy.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageFile

from rcodsr.errors import InputError
from rcodsr.images.files import make_directory, output_error, remove_stale_parts, require_writable, write_atomic, write_stream
from rcodsr.images.formats import (
    DEEP,
    FORMATS,
    LOSSY,
    MAX_SIDE,
    PROFILED,
    READABLE,
    SUFFIXES,
    has_room_for_alpha,
    has_room_for_record,
)
from rcodsr.images.metadata import Metadata, carried, losses, orientation, save_options, written_exif
from rcodsr.images.opening import (
    Header,
    Piped,
    Source,
    check_size,
    digest,
    is_whole,
    opened,
    read_header,
    read_record,
)
from rcodsr.images.refusals import damaged
from rcodsr.options import MAX_OUTPUT_PIXELS, output_size

if TYPE_CHECKING:  # planning needs headers and records, not torch
    from rcodsr.images.deep import Samples
    from rcodsr.images.picture import Picture

__all__ = [
    "DEEP",
    "FORMATS",
    "LOSSY",
    "MAX_SIDE",
    "READABLE",
    "SUFFIXES",
    "Header",
    "Piped",
    "Source",
    "check_size",
    "digest",
    "encode",
    "from_image",
    "has_room_for_alpha",
    "has_room_for_record",
    "is_whole",
    "losses",
    "make_directory",
    "output_error",
    "output_size",
    "read",
    "read_header",
    "read_record",
    "remove_stale_parts",
    "require_writable",
    "write_atomic",
    "write_stream",
]

_WHITE = (255, 255, 255)
_EXACT = {"PNG", "TIFF", "BMP", "DIB", "GIF", "PPM", "ICO", "TGA"}
"""Formats in which equal channels stay equal. Images of other or unknown formats may be rounded."""
_ALPHA_OFTEN_UNSET = {"BMP", "DIB", "ICO", "CUR", "TGA"}
"""Formats whose fourth byte many programs leave at 0 by accident."""
_XMP, _IPTC, _RESOURCES, _ICC, _X_RESOLUTION, _Y_RESOLUTION, _UNIT = 700, 33723, 34377, 34675, 282, 283, 296


def read(source: Source, max_pixels: int = MAX_OUTPUT_PIXELS, scale: float = 1.0) -> Picture:
    """Decode a picture: upright, every mode converted to sRGB in [0, 1], metadata kept.

    Args:
        source: a regular file, or data from a pipe.
        max_pixels: maximum pixels of the enlarged picture, checked from the header.
        scale: the planned enlargement.

    Raises:
        InputError: when the file is missing, not a picture, damaged, animated, or too large.
    """
    from rcodsr.images.deep import deep_layout, loses_depth, mend_planes, ppm_samples

    with opened(source) as image:
        check_size(source, image.size, max_pixels, scale)
        try:
            if image.format != "MPO" and _has_more(image):
                raise InputError(source, "an animation or several pages", "extract the picture you want first")
            mend_planes(image)
            _mend_transparency(image)
            samples = _deep_samples(image, source) if deep_layout(image) else ppm_samples(image)
            notes = ("16-bit channels reduced to 8",) if loses_depth(image) else ()
            image.load()
            return _picture(image, source, samples).with_note(*notes)
        except InputError:
            raise
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise at least six unrelated types
            raise damaged(source, error) from error


def from_image(image: Image.Image, name: object = "image") -> Picture:
    """Convert a decoded Pillow image: upright, every mode converted to sRGB in [0, 1], metadata kept.

    Raises:
        InputError: when pixels are NaN or infinite.
    """
    return _picture(image, name, None)


def encode(
    picture: Picture,
    format: str,
    quality: int = 95,
    record: dict[str, Any] | None = None,
    background: tuple[int, int, int] = _WHITE,
) -> bytes:
    """Encode a picture file in memory.

    Args:
        picture: the picture, written with 16 bits per channel if it had them and the format supports them.
        format: a value of `FORMATS`.
        quality: quality of JPEG, WebP, AVIF and JPEG XL, 1 to 100.
        record: how the picture was made, stored in the EXIF tag ImageHistory (not in BMP).
        background: colour behind transparency if the format has none, (R, G, B) in 0..255.

    Raises:
        InputError: when the picture is too large for the format.
    """
    from rcodsr.images.deep import tiff
    from rcodsr.images.picture import to_samples
    from rcodsr.images.png import encode_png
    from rcodsr.images.profiles import from_working

    if max(picture.size) > MAX_SIDE[format]:
        raise InputError(
            f"{picture.size[0]}×{picture.size[1]}", f"{format} holds at most {MAX_SIDE[format]} pixels per side", "use -f png"
        )
    exif = written_exif(picture.metadata, picture.size, format, record)
    metadata = picture.metadata.resized(picture.size)
    options = save_options(metadata, exif, format)
    # Pillow cannot read 16-bit TIFF of grey with alpha, so none is written
    deep = picture.depth == 16 and format in DEEP and not (format == "TIFF" and picture.gray and picture.alpha is not None)
    if format in PROFILED:
        picture = from_working(picture, hdr=format == "PNG")
    samples = to_samples(picture, 16 if deep else 8)
    if format == "TIFF":
        return tiff(samples, exif, _tiff_tags(metadata))
    if format == "PNG":
        return encode_png(samples, metadata.color_chunks, **options)
    if format == "WEBP":
        options["lossless"] = metadata.lossless
    return _encode_8_bit(samples, format, quality, background, options)


def _encode_8_bit(
    samples: Samples, format: str, quality: int, background: tuple[int, int, int], options: dict[str, Any]
) -> bytes:
    image = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    if image.mode in {"LA", "RGBA"} and not has_room_for_alpha(format):
        image = _flatten(image, background)
    per_format: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality},
        "AVIF": {"quality": quality},
        "JXL": {"quality": quality, "lossless": quality == 100, "use_container": True},
        "BMP": {},
    }
    if format == "JXL":
        import pillow_jxl  # noqa: F401 (which joins Pillow's formats)
    buffer = io.BytesIO()
    image.save(buffer, format, **per_format[format], **options)
    return buffer.getvalue()


def _tiff_tags(metadata: Metadata) -> dict[int, Any]:
    tags: dict[int, Any] = {_XMP: metadata.xmp, _IPTC: metadata.iptc, _ICC: metadata.icc, _RESOURCES: metadata.paths}
    if metadata.dpi is not None:
        tags |= {_X_RESOLUTION: metadata.dpi[0], _Y_RESOLUTION: metadata.dpi[1], _UNIT: 2}
    return {tag: value for tag, value in tags.items() if value is not None}


def _has_more(image: Image.Image) -> bool:
    """Whether a file holds several pictures. A reduced copy or a mask of the first (common in TIFF) does not count."""
    if not getattr(image, "is_animated", False):
        return False
    if image.format != "TIFF":
        return True
    seen = 0
    for page in range(1, 100):
        try:
            image.seek(page)
        except EOFError:
            break
        seen += not int(getattr(image, "tag_v2", {}).get(254, 0)) & 0b101
    image.seek(0)
    return seen > 0


def _mend_transparency(image: ImageFile.ImageFile) -> None:
    """Rescale the transparent grey of a PNG with two or four bits. Pillow widens the pixels but not that value."""
    from rcodsr.images.deep import layout

    step = {"L;2": 85, "L;4": 17}.get(layout(image), 1)
    if image.format == "PNG" and isinstance(image.info.get("transparency"), int):
        image.info["transparency"] *= step


def _deep_samples(image: ImageFile.ImageFile, source: Source) -> Samples:
    """16-bit samples of an opened file, which is opened again for them."""
    from rcodsr.images.deep import deep_samples, mend_planes

    with opened(source) as again:
        mend_planes(again)
        if again.size != image.size:
            raise InputError(source, "changed while it was read", "run again")
        return deep_samples(image, again)


def _picture(image: Image.Image, name: object, samples: Samples | None) -> Picture:
    from rcodsr.images.picture import from_pil, from_samples, turned
    from rcodsr.images.profiles import cmyk_to_srgb, lab_to_srgb, to_working

    metadata, notes = carried(image)
    if image.mode in {"CMYK", "LAB"}:
        converted = cmyk_to_srgb(image, metadata.icc) if image.mode == "CMYK" else lab_to_srgb(image)
        picture = turned(from_pil(converted, name), orientation(image)).with_metadata(metadata)
        return to_working(picture.as_neutral(_rounding(image)), None).with_note(*notes, f"{image.mode} converted to RGB")
    picture = from_pil(image, name) if samples is None else from_samples(samples, image.info.get("transparency"))
    if image.format in _ALPHA_OFTEN_UNSET:
        picture = picture.without_unset_alpha()
    picture = turned(picture, orientation(image)).with_metadata(metadata).with_note(*notes)
    return to_working(picture.as_neutral(_rounding(image)), metadata.icc)


def _rounding(image: Image.Image) -> float:
    """Maximum difference of a decoded grey's channels: 0, or the rounding of lossy formats."""
    return 0.0 if image.format in _EXACT else 1.5 / 255


def _flatten(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    below = Image.new("RGBA", image.size, background)
    flat = Image.alpha_composite(below, image.convert("RGBA"))
    grey = image.mode == "LA" and len(set(background)) == 1
    return flat.convert("L" if grey else "RGB")
