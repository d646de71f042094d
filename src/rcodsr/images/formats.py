"""Which picture formats are read and written, and what each of them can hold. Nothing outside these lists is ever decoded."""

from importlib.util import find_spec

from rcodsr.errors import UsageError

READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "AVIF")
"""Pillow's decoders that may run, whatever a file is called; HEIF and JPEG XL join them where their plugins are installed."""
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
SUFFIXES = {*FORMATS, ".apng", ".avifs", ".dib", ".gif", ".heic", ".heif", ".hif", ".jxl", ".pbm", ".pgm", ".pnm", ".ppm"}
"""Suffixes that make a file of a directory an input."""
LOSSY = {"JPEG", "WEBP", "AVIF"}
DEEP = {"PNG", "TIFF"}
"""Formats written with 16 bits a channel where the input had them."""
PROFILED = {"PNG", "JPEG", "WEBP", "TIFF", "AVIF"}
"""Formats that store a colour profile; the others get sRGB."""
MAX_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 65_535, "PNG": 2**31 - 1, "TIFF": 2**31 - 1, "BMP": 2**31 - 1}
if find_spec("pillow_jxl") is not None:
    FORMATS[".jxl"] = "JXL"
    LOSSY.add("JXL")
    MAX_SIDE["JXL"] = 2**30 - 1


def has_room_for_alpha(format: str) -> bool:
    """Whether a format stores transparency."""
    return format not in {"JPEG", "BMP"}


def has_room_for_record(format: str) -> bool:
    """Whether a format stores how a picture was made."""
    return format != "BMP"


def parse_background(text: str) -> tuple[int, int, int]:
    """`--background`: what transparency is laid on where a format has none, as #rrggbb or a name.

    Raises:
        UsageError: when it is not a colour.
    """
    from PIL import ImageColor

    try:
        red, green, blue, *_ = ImageColor.getrgb(text)
    except ValueError:
        raise UsageError("--background", f"'{text}' is not a colour", "use for example white, black or #20ff00") from None
    return red, green, blue
