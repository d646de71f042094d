"""Maps of invented detail as pictures: one fixed colour scale for every map, and its legend."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from rcodsr.images.metadata import Metadata, written_exif

Map = np.ndarray[Any, np.dtype[np.float32]]
"""Shape (H, W), in steps of 1/255."""

MOST = 32
"""Number of steps from which on the last colour is used."""
TICKS = (0, 4, 8, 16, 32)
"""Steps labelled in a legend."""
_PER_STEP = 8
"""Palette indices per step: a map's index is eight times its steps."""
_STOPS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""Equally spaced colours (R, G, B) of the scale, dark to light, so that it is readable in grey and with colour blindness."""
SAID = "Departure from realism 0, local RMS over 8x8 pixels; palette index = 8 x steps of 1/255, 255 = 32 steps or more"
"""The legend as text, stored in each file."""


def painted(departure: Map) -> Image.Image:
    """Colour a map: mode P, of the map's size."""
    image = Image.fromarray(np.clip(np.rint(departure * _PER_STEP), 0, 255).astype(np.uint8))
    image.putpalette(_palette().tobytes())
    return image


def reduced(drawn: Image.Image, factor: int) -> Image.Image:
    """Shrink a coloured map by averaging its steps."""
    indices = Image.fromarray(np.asarray(drawn)).reduce(factor)
    indices.putpalette(_palette().tobytes())
    return indices


def encode_map(departure: Map, record: dict[str, Any] | None = None) -> bytes:
    """Encode a map as a PNG file with its legend as text.

    Args:
        departure: shape (H, W), in steps of 1/255.
        record: how the picture was made. Later runs recognise by it that the map is not a photo.
    """
    buffer, words, image = io.BytesIO(), PngInfo(), painted(departure)
    words.add_text("Description", SAID)
    image.save(buffer, "PNG", pnginfo=words, exif=written_exif(Metadata(), image.size, "PNG", record))
    return buffer.getvalue()


def legend(width: int) -> Image.Image:
    """The colour scale with its steps, as a strip of `width` (at least 200) × 34 pixels."""
    strip = Image.new("RGB", (width, 34), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(12)
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    strip.paste(Image.fromarray(_palette()[np.tile(ramp, (14, 1))]), (0, 0))
    for steps in TICKS:
        words = f"{steps}+ steps" if steps == MOST else str(steps)
        x = steps / MOST * (width - 1)
        draw.text((min(x, width - draw.textlength(words, font)), 17), words, "#1c1e21", font)
    return strip


def _palette() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Shape (256, 3)."""
    places = np.linspace(0, 255, len(_STOPS))
    channels = [np.interp(np.arange(256), places, channel) for channel in zip(*_STOPS, strict=True)]
    return np.stack(channels, 1).round().astype(np.uint8)
