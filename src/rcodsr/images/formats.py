"""Picture formats that are read and written, and their capabilities. Other formats are never decoded."""

from importlib.util import find_spec

from rcodsr.errors import UsageError

READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "AVIF")
"""Pillow decoders that may run, whatever a file's suffix. HEIF and JPEG XL are added if their plugins are installed."""
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
"""Output formats by file name suffix."""
SUFFIXES = {*FORMATS, ".apng", ".avifs", ".dib", ".gif", ".heic", ".heif", ".hif", ".jxl", ".pbm", ".pgm", ".pnm", ".ppm"}
"""Suffixes by which files in a directory count as pictures."""
LOSSY = {"JPEG", "WEBP", "AVIF"}
DEEP = {"PNG", "TIFF"}
"""Formats written with 16 bits per channel if the input had them."""
PROFILED = {"PNG", "JPEG", "WEBP", "TIFF", "AVIF"}
"""Formats that store a colour profile. Pixels in other formats are sRGB."""
MAX_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 65_535, "PNG": 2**31 - 1, "TIFF": 2**31 - 1, "BMP": 2**31 - 1}
if find_spec("pillow_jxl") is not None:
    FORMATS[".jxl"] = "JXL"
    LOSSY.add("JXL")
    MAX_SIDE["JXL"] = 2**30 - 1


def has_room_for_alpha(format: str) -> bool:
    """Whether a format stores transparency."""
    return format not in {"JPEG", "BMP"}


def has_room_for_record(format: str) -> bool:
    """Whether a format stores the record of how a picture was made."""
    return format != "BMP"


def parse_background(text: str) -> tuple[int, int, int]:
    """Parse `--background`, the colour behind transparency if a format has none: #rrggbb or a name.

    Raises:
        UsageError: when it is not a valid colour.
    """
    from PIL import ImageColor

    try:
        red, green, blue, *_ = ImageColor.getrgb(text)
    except ValueError:
        raise UsageError("--background", f"'{text}' is not a valid colour", "use for example white, black or #20ff00") from None
    return red, green, blue
