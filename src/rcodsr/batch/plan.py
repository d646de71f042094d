"""From command-line inputs to jobs: discovery, names of outputs, clashes. Runs before weights are loaded, without torch."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rcodsr.config import OUTPUT_FORMATS
from rcodsr.errors import InputError, NoInputError, OutputError, UsageError
from rcodsr.images.io import FORMATS, SUFFIXES, make_directory, remove_stale_parts


@dataclass(frozen=True)
class Job:
    """One picture to enlarge."""

    source: Path
    target: Path | None
    """None: to standard output."""


def plan(inputs: list[Path], output: str | None, format: str, scale: float) -> list[Job]:
    """Pair every input picture with its output.

    A file goes to `<stem>_x4<ext>` beside it, a directory to the same names in `<dir>_x4/`; `output` overrides the place.

    Args:
        inputs: files and directories.
        output: `-o`: a file, a directory, "-" for standard output, or None.
        format: `-f`: auto keeps the input's format where we can write it.
        scale: the number in default names.

    Raises:
        UsageError: when outputs would collide with each other or with an input, or `-o` does not fit the inputs.
        NoInputError: when there is no picture at all.
    """
    if output == "":
        raise UsageError("-o ''", "an empty name", "check the shell variable it came from")
    jobs = list(dict.fromkeys(_pair(inputs, output, format, scale)))  # an input given twice is done once
    if not jobs:
        raise NoInputError(inputs[0], "no pictures found", "give picture files, or a directory that holds some")
    if output == "-" and len(jobs) != 1:
        raise UsageError("-o -", f"{len(jobs)} pictures cannot share one stream", "give one picture, or -o DIRECTORY")
    _refuse_clashes(jobs)
    return jobs


def expand_lists(inputs: list[str]) -> list[Path]:
    """Inputs with lists replaced by what they hold: `@list.txt` and `@-` (standard input), one path a line.

    A picture whose own name starts with @ is written `./@name`.

    Raises:
        UsageError: when a name is empty.
        InputError: when a list cannot be read.
    """
    if not all(inputs):
        raise UsageError("''", "an empty name among the inputs", "check the shell variable it came from")
    found: list[Path] = []
    for name in inputs:
        found += [Path(line) for line in _lines(name) if line] if name.startswith("@") else [Path(name)]
    if not found:
        raise NoInputError(inputs[0], "lists no pictures", "write one path a line")
    return found


def sources(inputs: list[Path]) -> list[Path]:
    """Every picture of files and directories, once each, in order."""
    found = (_pictures(source) if _is_directory(source) else [source] for source in inputs)
    return list(dict.fromkeys(picture for pictures in found for picture in pictures))


def _lines(name: str) -> list[str]:
    try:
        data = sys.stdin.buffer.read() if name == "@-" else Path(name[1:]).read_bytes()
    except OSError as error:
        raise InputError(name, f"cannot be read ({error.strerror})", "give a text file with one path a line") from error
    return os.fsdecode(data).splitlines()


def prepare_outputs(jobs: list[Job]) -> None:
    """Create the output directories and check that they can be written, before anything expensive happens.

    Raises:
        OutputError: when a directory cannot be created or written.
    """
    for directory in {job.target.parent for job in jobs if job.target}:
        make_directory(directory)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise OutputError(directory, "cannot be written (permission denied)", "choose a writable place with -o")
        remove_stale_parts(directory)


def _pair(inputs: list[Path], output: str | None, format: str, scale: float) -> Iterator[Job]:
    into = _output_directory(inputs, output)
    for source in inputs:
        if _is_directory(source):
            directory = into or _sibling(source, scale)
            for picture in _pictures(source):
                yield Job(picture, None if output == "-" else directory / f"{picture.stem}{_suffix(picture, format)}")
        elif output == "-":
            yield Job(source, None)
        elif output is not None and into is None:
            yield Job(source, _output_file(output, format))
        else:
            yield Job(source, (into or source.parent) / f"{source.stem}_x{scale:g}{_suffix(source, format)}")


def _output_directory(inputs: list[Path], output: str | None) -> Path | None:
    """The directory `-o` names, or None where it names a file or nothing."""
    if output is None or output == "-":
        return None
    path = Path(output)
    many = len(inputs) > 1 or _is_directory(inputs[0])
    if many or path.is_dir() or output.endswith(("/", os.sep)):
        names_file = path.suffix.lower() in FORMATS and not path.is_dir() and not output.endswith(("/", os.sep))
        if path.is_file() or names_file:
            raise UsageError(output, "names a file, but the inputs need a directory", "give -o DIRECTORY")
        return path
    return None


def _output_file(output: str, format: str) -> Path:
    path = Path(output)
    written = FORMATS.get(path.suffix.lower())
    if written is None:
        raise UsageError(
            output, "does not say a format we write", f"end it in {', '.join(sorted(FORMATS))}, or in / for a directory"
        )
    if format != "auto" and FORMATS[OUTPUT_FORMATS[format]] != written:
        raise UsageError(output, f"its suffix contradicts --format {format}", "leave one of the two out")
    return path


def _sibling(directory: Path, scale: float) -> Path:
    named = directory if directory.name not in {"", ".."} else directory.resolve()
    if not named.name:
        raise UsageError(directory, "has no name to derive an output from", "give -o DIRECTORY")
    return named.with_name(f"{named.name}_x{scale:g}")


def _pictures(directory: Path) -> list[Path]:
    """Pictures of a directory by suffix; hidden files (macOS leaves `._photo.jpg`) are not pictures."""
    try:
        found = sorted(path for path in directory.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    except OSError as error:
        raise NoInputError(directory, f"cannot be listed ({error.strerror})", "check its permissions") from error
    return [path for path in found if not _is_directory(path)]


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # unreadable, or a name too long: reading it will say so
        return False


def _suffix(source: Path, format: str) -> str:
    if format != "auto":
        return OUTPUT_FORMATS[format]
    return source.suffix if source.suffix.lower() in FORMATS else ".png"


def _refuse_clashes(jobs: list[Job]) -> None:
    # compared without case: on many systems A.png and a.png are one file
    sources = {_identity(job.source): job.source for job in jobs}
    targets: dict[str, Path] = {}
    for job in jobs:
        if job.target is None:
            continue
        key = _identity(job.target)
        if key in sources:
            raise UsageError(job.target, "would overwrite an input", "choose another place with -o; inputs are never written")
        if key in targets:
            raise UsageError(
                job.target, f"would be written for both {targets[key]} and {job.source}", "process them separately or set -o"
            )
        targets[key] = job.source


def _identity(path: Path) -> str:
    return os.path.realpath(path).casefold()
