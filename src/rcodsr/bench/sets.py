"""Test sets: seeded LR/HR pairs from any photos, and matching results to ground truth by name."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from rcodsr.data.degradation import PRESETS, degrade
from rcodsr.data.photos import find_photos
from rcodsr.errors import InputError, NoInputError, UsageError
from rcodsr.images import io
from rcodsr.images.picture import Picture

_TAIL = re.compile(r"(_LR4|_HR|_x[0-9.]+)+$")


def synthesize(photos: Path, output: Path, preset: str, seed: int, scale: int = 4) -> Iterator[Path]:
    """Write `<output>/hr/NAME.png` and its degraded `<output>/lr/NAME.png` for every photo of a directory.

    Args:
        photos: a directory.
        output: where the set goes.
        preset: a name of `data.degradation.PRESETS`.
        seed: with the photo's position it decides all that is random.
        scale: how much smaller the low-resolution pictures are.

    Yields:
        The low-resolution files.

    Raises:
        UsageError: when the preset is unknown, two photos share a name, or `output` holds a set already.
        OutputError: when the set cannot be written.
        InputError: when a photo cannot be read.
    """
    if preset not in PRESETS:
        raise UsageError("--preset", f"'{preset}' is unknown", f"use one of {', '.join(PRESETS)}")
    found = find_photos(photos)
    _by_stem(found, lambda stem: stem)  # refuses two photos of one name
    for folder in ("hr", "lr"):
        if (output / folder).exists():
            raise UsageError(output / folder, "exists already", "choose a new directory with -o")
        io.make_directory(output / folder)
    for index, photo in enumerate(found):
        picture = io.read(photo)
        width, height = (side // scale * scale for side in picture.size)
        if not (width and height):
            raise InputError(photo, f"smaller than {scale}×{scale} pixels", "remove it from the set")
        hr = picture.rgb[:, :height, :width]
        for folder, pixels in (("hr", hr), ("lr", degrade(hr, PRESETS[preset], (seed, index), scale))):
            path = output / folder / f"{photo.stem}.png"
            io.write_atomic(path, io.encode(Picture(pixels), "PNG"))
        yield path


def pairs(folder: Path, truth: Path) -> list[tuple[Path, Path]]:
    """Files of `folder` with their ground truth, matched by stem; tails such as _LR4, _HR and _x4 do not count.

    Raises:
        NoInputError: when nothing matches.
        UsageError: when a ground truth has no counterpart, or two files share a name.
    """
    index, wanted = (_by_stem(find_photos(place), lambda stem: _TAIL.sub("", stem)) for place in (folder, truth))
    missing = sorted(set(wanted) - set(index))
    if not set(wanted) & set(index):
        raise NoInputError(folder, f"no file matches a file of {truth}", "give folders whose files have the same names")
    if missing:
        raise UsageError(
            folder, f"{len(missing)} pictures of {truth} have no counterpart, {missing[0]} first", "score whole sets"
        )
    return [(index[stem], wanted[stem]) for stem in sorted(wanted)]


def _by_stem(paths: list[Path], name: Callable[[str], str]) -> dict[str, Path]:
    index: dict[str, Path] = {}
    for path in paths:
        first = index.setdefault(name(path.stem), path)
        if first is not path:
            raise UsageError(path, f"has the same name as {first}", "give each picture its own name")
    return index
