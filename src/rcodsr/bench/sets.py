"""Test sets: seeded LR/HR pairs from any photos, and results matched to ground truth by name."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from rcodsr.data.degradation import degrade
from rcodsr.data.photos import check_sizes, find_photos
from rcodsr.data.presets import PRESETS
from rcodsr.errors import NoInputError, UsageError
from rcodsr.images import io
from rcodsr.images.matching import bare_stem, match
from rcodsr.images.picture import Picture
from rcodsr.variants import VariantSpec


@dataclass(frozen=True)
class _Crop:
    """One pair of a test set."""

    photo: Path
    name: str
    seed: tuple[int, int]


def synthesize(
    photos: Path,
    output: Path,
    preset: str,
    seed: int,
    crop: int = 512,
    count: int | None = None,
    overwrite: bool = False,
    scale: int = VariantSpec.scale,
) -> Iterator[Path]:
    """Write a test set, made like the papers' DIV2K-Val: random crops of photos and their degraded versions.

    Each crop is written as `<output>/hr/NAME.png` and `<output>/lr/NAME.png`, where NAME is that of its photo. Photos are used
    in turn; the second crop of a photo is NAME-2. The same arguments yield the same bytes.

    Args:
        photos: a directory, or a `.txt` file that lists photos.
        output: directory of the set.
        preset: a name of `data.degradation.PRESETS`.
        seed: together with the crop's number, seeds all random choices.
        crop: side of the ground truth, a multiple of `scale`; 0 takes whole photos, cut to a multiple of `scale`.
        count: number of crops; one per photo by default.
        overwrite: replace the files of an older set with the same names.
        scale: factor by which the low-resolution pictures are smaller.

    Yields:
        Each written file.

    Raises:
        UsageError: when an argument is not valid, two crops share a name, or `output` is not empty.
        OutputError: when the set cannot be written.
        InputError: when a photo cannot be read or is smaller than the crop; if its header shows it, nothing is written.
    """
    if preset not in PRESETS:
        raise UsageError("--preset", f"'{preset}' is unknown", f"use one of {', '.join(PRESETS)}")
    if crop % scale:
        raise UsageError("--crop", f"{crop} is not a multiple of {scale}", f"use {crop + -crop % scale}")
    found = find_photos(photos)
    crops = _plan(found, seed, count or len(found))
    check_sizes(found[: len(crops)], crop or scale)
    files = {output / side / f"{one.name}.png" for one in crops for side in ("hr", "lr")}
    _check_output(output, files, set(found), overwrite)
    for side in ("hr", "lr"):
        io.make_directory(output / side)
    for one in crops:
        hr = _cut(one, crop, scale)
        for side, pixels in (("hr", hr), ("lr", degrade(hr, PRESETS[preset], one.seed, scale))):
            path = output / side / f"{one.name}.png"
            io.write_atomic(path, io.encode(Picture(pixels), "PNG"))
            yield path


def _plan(photos: list[Path], seed: int, count: int) -> list[_Crop]:
    """Crops of the photos in turn, each with a unique name."""
    crops: dict[str, _Crop] = {}
    for index in range(count):
        turn, position = divmod(index, len(photos))
        photo = photos[position]
        one = _Crop(photo, f"{photo.stem}-{turn + 1}" if turn else photo.stem, (seed, index))
        first = crops.setdefault(bare_stem(one.name), one)  # compared as in `pairs`
        if first is not one:
            raise UsageError(photo, f"has the same name as {first.photo}", "give each picture its own name")
    return list(crops.values())


def _check_output(output: Path, files: set[Path], photos: set[Path], overwrite: bool) -> None:
    """Refuse to mix a set with other files, or to overwrite a photo of its own input."""
    present = {path for path in output.rglob("*") if path.is_file()}
    if not present:
        return
    if not overwrite:
        raise UsageError(output, "is not empty", "choose a new directory with -o, or use --overwrite")
    if inputs := {path.resolve() for path in files & present} & {path.resolve() for path in photos}:
        raise UsageError(min(inputs), "is an input photo of the set", "choose another directory with -o")
    # a leftover of a larger set would be scored along with the new one
    if strangers := {path for path in present - files if path.parent in {output / "hr", output / "lr"}}:
        raise UsageError(min(strangers), "is not part of this set", "remove it or choose a new directory with -o")


def _cut(one: _Crop, crop: int, scale: int) -> Tensor:
    """Cut a crop: shape (3, crop, crop), or the whole photo cut to a multiple of `scale`; in [0, 1]."""
    rgb = io.read(one.photo).laid_on().rgb
    height, width = rgb.shape[-2:]
    if not crop:
        return rgb[:, : height // scale * scale, : width // scale * scale]
    rng = np.random.default_rng((*one.seed, 1))
    top, left = (int(rng.integers(side - crop + 1)) for side in (height, width))
    return rgb[:, top : top + crop, left : left + crop]


def pairs(folder: Path, truth: Path) -> list[tuple[Path, Path]]:
    """Files of `folder` with their ground truth, matched by stem; suffixes such as _LR4, _HR and _x4 are ignored.

    Raises:
        NoInputError: when nothing matches.
        UsageError: when a ground truth has no counterpart, or two files share a name.
    """
    made, wanted = find_photos(folder), find_photos(truth)
    matched = match(made, wanted, one_to_one=True)
    if not matched:
        raise NoInputError(folder, f"no file matches a file of {truth}", "pass folders whose files have the same names")
    if missing := sorted(bare_stem(path.stem) for path in set(wanted) - set(matched.values())):
        raise UsageError(
            folder, f"{len(missing)} pictures of {truth} have no counterpart, {missing[0]} first", "score complete sets"
        )
    return sorted(matched.items(), key=lambda pair: bare_stem(pair[1].stem))
