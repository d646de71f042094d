"""Pairs of photos and their low-resolution versions, in the layouts of published data sets."""

from pathlib import Path

import numpy as np
from PIL import Image

from rcodsr.data.photos import find_photos
from rcodsr.errors import InputError, UsageError
from rcodsr.images import io
from rcodsr.images.matching import is_low_resolution, match
from rcodsr.messages import Log, silent
from rcodsr.variants import VariantSpec

_SCALE = VariantSpec.scale

Size = tuple[int, int]
"""Both sides of a picture in pixels, in either order."""


def find_pairs(photos: Path, lr: Path, log: Log = silent) -> dict[Path, Path]:
    """Photos of a directory with their low-resolution versions: the same path in the directory `lr` up to the suffix.

    Suffixes of names and folders (`images.matching.bare_name`) may differ. Both may be one directory, as in RealSR; such
    suffixes then tell them apart.

    Args:
        photos: ground truth.
        lr: low-resolution versions, a quarter of the size; versions of the same size are downscaled when read.
        log: receives a line if pairs are cropped or downscaled.

    Raises:
        UsageError: when either is not a directory, or both are the same and no names tell them apart.
        NoInputError: when there are no photos.
        InputError: when a photo has no counterpart, or one of the wrong size; names the pair.
    """
    high, low = _halves(photos, lr)
    pairs = match(high, low, below=(photos, lr), one_to_one=True, fault=InputError)
    for path in sorted((set(high) - pairs.keys()) | (set(low) - set(pairs.values()))):
        other = lr if path in high else photos
        raise InputError(path, f"has no counterpart in {other}", "remove it or add the other half of the pair")
    cut, shrunk = [], []
    for photo, counterpart in pairs.items():
        size, small = io.read_header(photo).size, io.read_header(counterpart).size
        if (shown := covered(size, small)) is None:
            cause = f"{size[0]}×{size[1]} is not four times {small[0]}×{small[1]} of {counterpart}"
            raise InputError(photo, cause, "remove the pair or crop it to match")
        if shown != size:
            cut.append(photo)
        if size == small:
            shrunk.append(counterpart)
    if cut:
        log(f"{len(cut)} of {len(pairs)} photos are cropped to a multiple of {_SCALE} pixels, {cut[0]} first")
    if shrunk:
        log(f"{len(shrunk)} of {len(pairs)} pairs have equal sizes: their low-resolution side is downscaled by {_SCALE}")
    return pairs


def covered(photo: Size, counterpart: Size) -> Size | None:
    """Size of the part of a photo that its low-resolution version covers, in whole blocks of 4×4 pixels.

    The version's sides may have been rounded up or down, or equal the photo's. None for any other size.
    """
    if photo == counterpart:
        return photo[0] // _SCALE * _SCALE, photo[1] // _SCALE * _SCALE
    if any(abs(long - _SCALE * short) >= _SCALE for long, short in zip(photo, counterpart, strict=True)):
        return None
    first, second = (_SCALE * min(long // _SCALE, short) for long, short in zip(photo, counterpart, strict=True))
    return first, second


def shrunk_to_low(pixels: np.ndarray, photo: Size) -> np.ndarray:
    """Return low-resolution pixels (h, w, 3), uint8; downscales bicubically by 4 if they are as large as the photo.

    Args:
        pixels: decoded pixels, shape (H, W, 3), uint8.
        photo: height and width of the photo.
    """
    height, width = pixels.shape[:2]
    if (height, width) != photo:
        return pixels
    rows, columns = height // _SCALE, width // _SCALE
    whole = Image.fromarray(pixels[: rows * _SCALE, : columns * _SCALE])
    return np.asarray(whole.resize((columns, rows), Image.Resampling.BICUBIC))


def _halves(photos: Path, lr: Path) -> tuple[list[Path], list[Path]]:
    """Photos and low-resolution versions; within one directory, separated by suffixes of names and folders."""
    for folder in (photos, lr):
        if not folder.is_dir():
            raise UsageError(folder, "not a directory", "photos with lr= are two directories whose files have the same names")
    if not photos.samefile(lr):
        return find_photos(photos), find_photos(lr)
    low = {path for path in find_photos(lr) if is_low_resolution(path.relative_to(lr))}
    high = [path for path in find_photos(photos) if path not in low]
    if not low or not high:
        remedy = "pass two directories, or names that end in _HR and in _LR4 or x4"
        raise UsageError(lr, "contains the photos as well, and no names tell them apart", remedy)
    return high, sorted(low)
