"""Texts of pictures, such as a tagger's words: JSON lines, `{"picture": "cat.png", "text": "a cat, grass"}`."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rcodsr.errors import InputError, UsageError
from rcodsr.images.opening import Source

_REMEDY = 'write one {"picture": "cat.png", "text": "a cat"} a line'


@dataclass(frozen=True)
class Captions:
    """The texts that a file gives pictures."""

    file: Path
    by_name: dict[str, str]
    """Of entries without a directory: whatever picture has this file name."""
    by_path: dict[Path, str]
    """Of entries with one: paths relative to the list's own directory."""

    def of(self, picture: Source) -> str | None:
        """A picture's text, by its path or else by its name; None where the file has none."""
        if isinstance(picture, Path) and (text := self.by_path.get(picture.absolute())) is not None:
            return text
        return self.by_name.get(picture.stem + picture.suffix)

    def of_all(self, pictures: Iterable[Source]) -> list[str]:
        """A text for each of them.

        Raises:
            UsageError: naming the first picture without one, and how many more there are.
        """
        found = [(picture, self.of(picture)) for picture in pictures]
        if missing := [picture for picture, text in found if text is None]:
            more = f", nor for {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UsageError(self.file, f"has no text for {missing[0]}{more}", "add a line for each picture")
        return [text for _, text in found if text is not None]


def read_captions(file: Path) -> Captions:
    """Read a list of texts; blank lines do not count, the last of two lines for one picture does.

    Raises:
        InputError: when it cannot be read, or a line is not an entry; it names the line.
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
        raise InputError(place, "not an entry of a list of texts", _REMEDY) from None
    return Path(picture), text
