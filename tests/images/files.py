"""Names and shapes of the picture files in these tests."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rcodsr.images.picture import Picture

ORIENTATION, MAKE, HISTORY = 0x0112, 0x010F, 0x9213
EXIF_IFD, EXPOSURE, PIXEL_X, PIXEL_Y = 0x8769, 0x829A, 0xA002, 0xA003

FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"]
SUFFIX = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif", "AVIF": ".avif", "BMP": ".bmp"}


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def eight_bit(picture: Picture) -> np.ndarray:
    """Height × width × 3."""
    return picture.rgb.mul(255).round().byte().permute(1, 2, 0).numpy()


def bitmap_with_alpha(image: Image.Image) -> bytes:
    """A bitmap that says where its alpha is (BITMAPV4HEADER); Pillow writes none."""
    pixels = np.asarray(image.convert("RGBA"))[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = (
        struct.pack("<IiiHHIIiiII", 108, *image.size, 1, 32, 3, len(pixels), 2835, 2835, 0, 0) + masks + b"BGRs" + bytes(48)
    )
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(pixels), 0, 0, 14 + len(header)) + header + pixels
