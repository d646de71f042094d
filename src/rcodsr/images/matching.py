"""Match pictures with other versions of them by name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from rcodsr.errors import RcodsrError, UsageError
from rcodsr.images.opening import Source

S = TypeVar("S", bound=Source)

_TAIL = re.compile(r"(_LR4?|_HR|_x[0-9.]+|(?<=\d)x4[md]?)+$", re.IGNORECASE)
_VERSION = re.compile(r"(HR|LR4?|X4)", re.IGNORECASE)
_LOW = re.compile(r"(^|_)LR4?$|(^|_|(?<=\d))x4[md]?$", re.IGNORECASE)
_HIGH = re.compile(r"(^|_)HR$|_x1$", re.IGNORECASE)
_REMEDY = "use a different name for each picture"


def bare_stem(stem: str) -> str:
    """A file's stem without the endings that mark versions of a picture: _LR4, _HR, _x4, and x4 after a digit."""
    return _TAIL.sub("", stem)


def bare_name(name: str) -> str:
    """A path without suffix, bare of the tails of all its parts (`bare_stem`), without folders that name a version (HR, X4)."""
    *folders, stem = name.split("/")
    return "/".join([bare_stem(part) for part in folders if not _VERSION.fullmatch(part)] + [bare_stem(stem)])


def is_low_resolution(path: Path) -> bool:
    """Whether a file's name, or else the nearest folder that says which version it holds, says low resolution: _LR4, LR, x4."""
    for part in reversed(path.with_suffix("").parts):
        if _LOW.search(part) or _HIGH.search(part):
            return not _HIGH.search(part)
    return False


def match(
    pictures: Iterable[S],
    others: Iterable[Path],
    *,
    below: tuple[Path, Path] | None = None,
    one_to_one: bool = False,
    fault: type[RcodsrError] = UsageError,
) -> dict[S, Path]:
    """Match each picture with the file of the same stem, or else of the same name without endings (`bare_name`).

    Args:
        pictures: pictures to match.
        others: candidates.
        below: directories of the pictures and of the others, if names are paths below these.
        one_to_one: whether a candidate may match only one picture.
        fault: the error to raise.

    Returns:
        Matches by picture. Pictures without one are omitted.

    Raises:
        RcodsrError: of type `fault`, when a picture has two matches, or shares one against `one_to_one`.
    """
    pictures_root, others_root = below or (None, None)
    exact, bare = defaultdict(list), defaultdict(list)
    for other in others:
        name = _name(other, others_root)
        exact[name].append(other)
        bare[bare_name(name)].append(other)
    matched: dict[S, Path] = {}
    taken: dict[Path, S] = {}
    for picture in pictures:
        name = _name(picture, pictures_root)
        found = exact.get(name) or bare.get(bare_name(name)) or []
        if len(found) > 1:
            raise fault(found[1], f"has the same name as {found[0]}", _REMEDY)
        if found:
            matched[picture] = found[0]
            if (first := taken.setdefault(found[0], picture)) is not picture and one_to_one:
                raise fault(picture, f"has the same name as {first}", _REMEDY)
    return matched


def _name(picture: Source, root: Path | None) -> str:
    if root is None or not isinstance(picture, Path):
        return picture.stem
    return picture.relative_to(root).with_suffix("").as_posix()
