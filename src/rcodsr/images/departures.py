"""A map of what was invented as a picture: one fixed scale of colours for every map, and its legend."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from rcodsr.images.metadata import Metadata, written_exif

Map = np.ndarray[Any, np.dtype[np.float32]]
"""Shape (H, W): steps of 1/255."""

MOST = 32
"""Steps that have the last colour, as all beyond."""
TICKS = (0, 4, 8, 16, 32)
"""Steps that a legend names."""
_PER_STEP = 8
"""Indices of the palette: an index of a map is eight times its steps."""
_STOPS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""Colours at equal distances along the scale, darker to lighter, so that it is read in grey and by colour-blind eyes too."""
SAID = "Departure from realism 0, local RMS over 8x8 pixels; palette index = 8 x steps of 1/255, 255 = 32 steps or more"
"""The legend in words, which each file carries."""


def painted(departure: Map) -> Image.Image:
    """A map in colours: mode P, of the map's size."""
    image = Image.fromarray(np.clip(np.rint(departure * _PER_STEP), 0, 255).astype(np.uint8))
    image.putpalette(_palette().tobytes())
    return image


def reduced(drawn: Image.Image, factor: int) -> Image.Image:
    """A painted map, smaller: the mean of its steps."""
    indices = Image.fromarray(np.asarray(drawn)).reduce(factor)
    indices.putpalette(_palette().tobytes())
    return indices


def encode_map(departure: Map, record: dict[str, Any] | None = None) -> bytes:
    """A map as a PNG file that carries its legend in words.

    Args:
        departure: shape (H, W), in steps of 1/255.
        record: how the picture was made, which tells later runs that this is no photo.
    """
    buffer, words, image = io.BytesIO(), PngInfo(), painted(departure)
    words.add_text("Description", SAID)
    image.save(buffer, "PNG", pnginfo=words, exif=written_exif(Metadata(), image.size, "PNG", record))
    return buffer.getvalue()


def legend(width: int) -> Image.Image:
    """The scale of colours with its steps, as a strip of a width of at least 200 and a height of 34 pixels."""
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
