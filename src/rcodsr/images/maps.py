"""Realism maps from masks: grey is realism, from black 0 to white 1, quantised to a few levels."""

from pathlib import Path

import numpy as np
from PIL import Image

from rcodsr.errors import InputError, UsageError
from rcodsr.images.metadata import orientation
from rcodsr.images.opening import opened
from rcodsr.images.picture import from_pil, turned
from rcodsr.options import MAX_MAP_LEVELS, RealismMap


def any_map(mask: "str | Path | Image.Image | np.ndarray[tuple[int, int], np.dtype[np.floating]]") -> RealismMap:
    """Realism map of a mask in any Python form: a path, a Pillow image, or an array (height, width) in [0, 1].

    Raises:
        UsageError: see `read_map`, `map_of` and `quantise`.
    """
    if isinstance(mask, np.ndarray):
        return quantise(mask)
    return map_of(mask) if isinstance(mask, Image.Image) else read_map(Path(mask))


def read_map(path: Path) -> RealismMap:
    """Read the realism map from a mask file. Grey values are used as stored, without the colour profile.

    Raises:
        UsageError: when the file cannot be read, or is not grey and opaque.
    """
    try:
        with opened(path) as image:
            if getattr(image, "is_animated", False):
                raise UsageError(path, "an animation or several pages", "use a map with one page")
            image.load()
            return map_of(image, path)
    except InputError as error:
        raise UsageError(error.subject, error.cause, error.remedy) from None
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's decoders
        raise UsageError(path, f"cut short or damaged ({error})", "get a whole copy of the map") from None


def map_of(image: Image.Image, name: object = "realism_map") -> RealismMap:
    """Realism map of a decoded mask.

    Up to five different values, rounded to hundredths, are kept. With more, each pixel is rounded to the nearest quarter.

    Args:
        image: grey, or colour with equal channels.
        name: for the error message.

    Raises:
        UsageError: when it has colours or transparency, whose meaning is undefined.
    """
    if image.mode in {"CMYK", "LAB"}:
        raise UsageError(name, f"is {image.mode}", "save the map in grey")
    picture = turned(from_pil(image, name), orientation(image))
    if picture.alpha is not None and float(picture.alpha.min()) < 1:
        raise UsageError(name, "has transparent pixels", "flatten the map: black is realism 0, white is 1")
    if float((picture.rgb.amax(0) - picture.rgb.amin(0)).max()) > 0.1:  # a JPEG's grey is not exactly grey
        raise UsageError(name, "has colours", "save the map in grey: black is realism 0, white is 1")
    return quantise(picture.rgb.mean(0).numpy())


def quantise(values: "np.ndarray[tuple[int, int], np.dtype[np.floating]]") -> RealismMap:
    """Realism map of an array of shape (height, width) with values in [0, 1].

    Raises:
        UsageError: when the array has another shape or range.
    """
    if values.ndim != 2 or not values.size or not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise UsageError("realism_map", "is not an array of numbers from 0 to 1", "pass one of shape (height, width)")
    values = values.astype(np.float64)
    rounded = values.round(2)  # so that both 127 and 128 of 255 are the trained level 0.5
    found = np.unique(rounded)
    if len(found) > MAX_MAP_LEVELS:
        rounded = (values * (MAX_MAP_LEVELS - 1)).round() / (MAX_MAP_LEVELS - 1)
        found = np.unique(rounded)
    indices = np.searchsorted(found, rounded).astype(np.uint8)
    height, width = values.shape
    return RealismMap(width, height, tuple(float(level) for level in found), indices.tobytes())
