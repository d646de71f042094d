"""Keyword arguments of the Python interface: their declaration and their conversion to options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
from PIL import Image

from rcodsr.errors import UsageError
from rcodsr.images import maps
from rcodsr.messages import nearest
from rcodsr.options import AdaptiveBy, ColorFix, Protected, RealismMap, TargetSize, UpscaleOptions, choose_control, parse_tile

Mask = RealismMap | str | Path | Image.Image | np.ndarray[tuple[int, int], np.dtype[np.floating]]
"""A realism per pixel: a greyscale picture file or image, or an array (h, w) in [0, 1]."""


class UpscaleArguments(TypedDict, total=False):
    """Keyword arguments of `upscale`, besides the realism."""

    adaptive: bool | AdaptiveBy
    """Choose the realism by degradation: of the picture (True or "image"), or of each tile."""
    realism_map: Mask | None
    """A realism per pixel; the mask has the size of the input or of the output."""
    protect: Protected | None
    """Pass "text" to keep areas that look like text at realism 0."""
    scale: float
    """Final scale factor, 1 to 8; 4 by default."""
    size: TargetSize | str | None
    """Final size instead of `scale`: "WxH", "Wx", "xH", "short=N" or "long=N"."""
    tile: int | Literal["auto", "off"] | None
    """Tile side in input pixels."""
    tile_overlap: int | None
    """Overlap of neighbouring tiles in input pixels."""
    color_fix: ColorFix | None
    """wavelet, adain or none; the default depends on the weights."""


def read_arguments(realism: float | str | None, asked: UpscaleArguments) -> UpscaleOptions:
    """Convert arguments to options.

    Raises:
        UsageError: when a name is unknown, a value is out of range, or two contradict each other.
    """
    _require_names(asked)
    adaptive, mask, size = asked.get("adaptive") or None, asked.get("realism_map"), asked.get("size")
    if size is not None and "scale" in asked:
        raise UsageError("--size", "contradicts --scale", "leave one of the two out")
    try:
        return UpscaleOptions(
            control=choose_control(
                realism,
                "image" if adaptive is True else adaptive,
                mask if mask is None or isinstance(mask, RealismMap) else maps.any_map(mask),
            ),
            scale=asked.get("scale", 4.0),
            size=TargetSize.parse(size) if isinstance(size, str) else size,
            tile=parse_tile(asked.get("tile")),
            tile_overlap=asked.get("tile_overlap"),
            color_fix=asked.get("color_fix"),
            protect=asked.get("protect"),
        )
    except TypeError as error:  # from comparing a value that is not a number
        raise UsageError("upscale", f"an argument has the wrong type ({error})", "see help(rcodsr.UpscaleOptions)") from None


def _require_names(asked: Mapping[str, Any]) -> None:
    known = ["realism", *UpscaleArguments.__annotations__]
    for name in asked.keys() - set(known):
        near = nearest(name, known)
        remedy = f"did you mean {near}?" if near else f"use {', '.join(known)}"
        raise UsageError(name, "is not an argument of upscale", remedy)
