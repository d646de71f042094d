"""Find pictures: files, directories and lists → every picture once, in order. Loads no torch."""

import fnmatch
import glob
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from rcodsr.batch.places import RealPaths, place
from rcodsr.errors import InputError, NoInputError, RcodsrError, UsageError
from rcodsr.images.io import SUFFIXES, Piped, Source
from rcodsr.images.lists import read_lines

_SYSTEM_FOLDERS = (
    "@eadir",
    "@recycle",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "__macosx",
    "thumbs",
    ".trash*",
)
"""Globs, in lower case, of folders that network drives and desktops reserve: thumbnails, recycle bins, snapshots."""

_WEB = {"http", "https", "ftp"}


@dataclass(frozen=True)
class Selection:
    """Which files of a directory are selected."""

    recursive: bool = False
    """Search subdirectories too. Links that form a cycle are followed once."""
    include: tuple[str, ...] = ()
    """Globs on the name or on the path within the input directory. At least one must match."""
    exclude: tuple[str, ...] = ()
    """Globs on the same names. None may match."""

    def takes(self, relative: PurePath) -> bool:
        """Whether the globs accept a file. Case is ignored because cameras write DSC1.JPG."""
        names = (relative.name.casefold(), relative.as_posix().casefold())

        def matches(globs: tuple[str, ...]) -> bool:
            return any(fnmatch.fnmatchcase(name, glob.casefold()) for glob in globs for name in names)

        return (not self.include or matches(self.include)) and not matches(self.exclude)


@dataclass(frozen=True)
class Found:
    """One picture and where it was found."""

    source: Source
    relative: PurePath
    """Path within the input directory. The bare name for a file passed directly."""
    top: Path | None = None
    """The input directory. None for a file passed directly."""


@dataclass
class Findings:
    """Pictures found in the inputs, and files left out."""

    pictures: list[Found] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)
    """Files in directories whose suffix is not a picture's."""
    system_folders: list[Path] = field(default_factory=list)
    """Subfolders skipped because they belong to the system."""


@dataclass
class Inputs:
    """Sources named by a command's arguments."""

    sources: list[Source] = field(default_factory=list)
    refused: list[tuple[str, RcodsrError]] = field(default_factory=list)
    """Arguments that fail on their own: unreadable lists, web addresses."""

    def add(self, text: str) -> None:
        """Add one path."""
        try:
            self.sources.append(source_of(text))
        except InputError as error:
            self.refused.append((text, error))


def expand_lists(inputs: list[str]) -> Inputs:
    """Replace lists (`images.lists`) among the inputs by their entries: `@list.txt`, `@-` (standard input). `-` is a picture.

    A file or folder whose own name starts with @ is not a list. A glob that the shell did not expand is expanded.

    Raises:
        UsageError: when a name is empty, or standard input is requested twice.
        InputError: when no input is left because lists cannot be read.
        NoInputError: when the lists are empty.
    """
    if "" in inputs:
        raise UsageError("''", "an empty name is not a valid input", "check the shell variable it came from")
    if sum(name in {"-", "@-"} for name in inputs) > 1:
        raise UsageError("-", "standard input can be read only once", "use either - or @-")
    found = Inputs()
    for name in inputs:
        if name == "-":
            found.sources.append(Piped(_standard_input("-")))
        elif name == "@-" or (name.startswith("@") and not is_there(Path(name))):
            try:
                lines = read_lines(name, _list_data(name))
            except InputError as error:
                found.refused.append((name, error))
                continue
            for _, line in lines:
                found.add(line)
        else:
            for match in _unquoted(name):
                found.add(match)
    if not found.sources:
        raise found.refused[0][1] if found.refused else NoInputError(inputs[0], "lists no pictures", "write one path a line")
    return found


def source_of(text: str) -> Source:
    """The path or store object that a user wrote.

    Raises:
        InputError: for a web address.
        UsageError: for a store object on Windows.
    """
    if text.partition("://")[0].lower() in _WEB and "://" in text:
        raise InputError(text, "a web address, not a file", f"fetch it: curl -L '{text}' | rcodsr upscale - -o NAME.png")
    return place(text)


def _unquoted(name: str) -> list[str]:
    """Matches of a glob that no shell has expanded, as on Windows or in quotes. An existing file stands for itself."""
    if not any(sign in name for sign in "*?[") or os.path.lexists(name):
        return [name]
    return sorted(glob.glob(name, recursive=True)) or [name]  # noqa: PTH207 (a Path expands no absolute pattern)


def sources(inputs: Sequence[Source], selection: Selection | None = None) -> list[Source]:
    """List the pictures in files and directories, without duplicates, in order."""
    return list(dict.fromkeys(found.source for found in discover(inputs, selection or Selection()).pictures))


def discover(inputs: Sequence[Source], selection: Selection, avoid: Path | None = None) -> Findings:
    """Search files and directories. A picture reached by several names is listed once, under the first.

    Args:
        inputs: files and directories.
        selection: globs for directories, and for files passed by name.
        avoid: the output directory, which is not searched.

    Raises:
        NoInputError: when an input directory cannot be listed.
    """
    findings = Findings()
    for source in inputs:
        if isinstance(source, Path) and is_directory(source):
            _search(source, selection, avoid, findings)
        elif isinstance(source, Piped) or selection.takes(PurePath(source.name)):
            findings.pictures.append(Found(source, PurePath("stdin" if isinstance(source, Piped) else source.name)))
    findings.pictures = list(_once(findings.pictures))
    return findings


def is_there(path: Path) -> bool:
    """Whether a path exists. False if that cannot be determined."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_directory(path: Path) -> bool:
    """Whether a path is a directory. False if that cannot be determined."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # unreadable, or an invalid name: reading it will report that
        return False


def _once(pictures: list[Found]) -> Iterator[Found]:
    """Drop files that were already found under another link or spelling."""
    real, seen = RealPaths(), defaultdict[str, list[str]](list)
    for found in pictures:
        if isinstance(found.source, Piped):
            yield found
            continue
        path = real.of(found.source)
        others = seen[path.casefold()]
        # names that differ only in case are one file on some systems and two on others
        if path not in others and not any(_is_same_file(path, other) for other in others):
            others.append(path)
            yield found


def _is_same_file(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except (OSError, ValueError):
        return False


def _search(top: Path, selection: Selection, avoid: Path | None, findings: Findings) -> None:
    try:
        entries = _listed(top)
    except OSError as error:
        raise NoInputError(top, f"cannot be listed ({error.strerror})", "check its permissions") from error
    seen = {_place(top), _place(avoid)} if avoid is not None else {_place(top)}
    for path in _walk(entries, selection, seen, findings, top):
        relative = path.relative_to(top)
        if path.suffix.lower() in SUFFIXES:
            if selection.takes(relative):
                findings.pictures.append(Found(path, relative, top))
        else:
            findings.ignored.append(path)


def _walk(
    entries: list[Path], selection: Selection, seen: set[tuple[int, int]], findings: Findings, top: Path
) -> Iterator[Path]:
    """Yield files first, then subdirectories. An unreadable directory counts as a picture, so that it is reported by name."""
    inner = []
    for path in entries:
        if is_directory(path):
            inner.append(path)
        elif not _is_hidden(path):
            yield path
    for directory in inner if selection.recursive else []:
        if _is_of_the_system(directory):
            findings.system_folders.append(directory)
            continue
        place = _place(directory)
        if place in seen:
            continue
        seen.add(place)
        try:
            below = _listed(directory)
        except OSError:
            findings.pictures.append(Found(directory, directory.relative_to(top), top))
            continue
        yield from _walk(below, selection, seen, findings, top)


def _listed(directory: Path) -> list[Path]:
    """Entries in order, without hidden files (macOS leaves `._photo.jpg`). Hidden recycle bins are kept, to be reported."""
    return sorted(path for path in directory.iterdir() if not _is_hidden(path) or _is_of_the_system(path))


def _is_hidden(path: Path) -> bool:
    return path.name[0] == "."


def _is_of_the_system(path: Path) -> bool:
    return any(fnmatch.fnmatchcase(path.name.casefold(), glob) for glob in _SYSTEM_FOLDERS)


def _place(directory: Path) -> tuple[int, int]:
    try:
        status = directory.stat()
        return status.st_dev, status.st_ino
    except OSError:
        return 0, 0


def _list_data(name: str) -> bytes:
    if name == "@-":
        return _standard_input(name)
    try:
        return Path(name[1:]).read_bytes()
    except OSError as error:
        raise InputError(name, f"cannot be read ({error.strerror})", "use a text file with one path per line") from error


def _standard_input(name: str) -> bytes:
    if sys.stdin is None:
        raise InputError(name, "standard input is closed", "pipe something into it")
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise InputError(name, f"standard input cannot be read ({error.strerror})", "pipe something into it") from error
