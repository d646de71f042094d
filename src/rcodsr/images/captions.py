"""Texts of pictures, such as an image tagger's words: JSON lines, `{"picture": "cat.png", "text": "a cat, grass"}`."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rcodsr.errors import InputError, UsageError
from rcodsr.images.opening import Source

_REMEDY = 'write one {"picture": "cat.png", "text": "a cat"} per line'


@dataclass(frozen=True)
class Captions:
    """Texts for pictures, read from a file."""

    file: Path
    by_name: dict[str, str]
    """Texts of entries without a directory, by file name in any directory."""
    by_path: dict[Path, str]
    """Texts of entries with a directory, by path relative to the list's own directory."""

    def of(self, picture: Source) -> str | None:
        """The text of a picture, by its path or else by its name. None if the file has none."""
        if isinstance(picture, Path) and (text := self.by_path.get(picture.absolute())) is not None:
            return text
        return self.by_name.get(picture.stem + picture.suffix)

    def of_all(self, pictures: Iterable[Source]) -> list[str]:
        """The texts of several pictures.

        Raises:
            UsageError: naming the first picture without one, and how many more there are.
        """
        found = [(picture, self.of(picture)) for picture in pictures]
        if missing := [picture for picture, text in found if text is None]:
            more = f", nor for {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UsageError(self.file, f"has no text for {missing[0]}{more}", "add a line for each picture")
        return [text for _, text in found if text is not None]


def read_captions(file: Path) -> Captions:
    """Read a list of texts. Blank lines are ignored, and the last of several lines for a picture counts.

    Raises:
        InputError: when the file cannot be read, or a line is not an entry, whose number is then named.
    """
    by_name, by_path = dict[str, str](), dict[Path, str]()
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(file, f"cannot be read ({error.strerror})", "check its path and permissions") from error
    except UnicodeDecodeError:
        raise InputError(file, "is not text in UTF-8", _REMEDY) from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        picture, text = _entry(f"{file}:{number}", line)
        if picture.parent == Path():
            by_name[picture.name] = text
        else:
            by_path[(file.parent / picture).absolute()] = text
    return Captions(file, by_name, by_path)


def _entry(place: str, line: str) -> tuple[Path, str]:
    try:
        entry = json.loads(line)
        picture, text = entry["picture"], entry["text"]
        if not (isinstance(picture, str) and isinstance(text, str) and Path(picture).name):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(place, "not a valid entry of a list of texts", _REMEDY) from None
    return Path(picture), text
