"""Finding pictures: files, directories and lists → every picture once, in order. Without torch."""

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
"""Globs, in lower case, of folders that network drives and desktops keep for themselves: thumbnails, bins, snapshots."""

_WEB = {"http", "https", "ftp"}


@dataclass(frozen=True)
class Selection:
    """Which files of directories are pictures to enlarge."""

    recursive: bool = False
    """Also the directories inside; links that lead around in a circle are followed once."""
    include: tuple[str, ...] = ()
    """Globs on the name or the path within the input directory; one of them must match."""
    exclude: tuple[str, ...] = ()
    """Likewise; none of them may match."""

    def takes(self, relative: PurePath) -> bool:
        """Whether the globs let a file pass; capitals do not count, because cameras write DSC1.JPG."""
        names = (relative.name.casefold(), relative.as_posix().casefold())

        def matches(globs: tuple[str, ...]) -> bool:
            return any(fnmatch.fnmatchcase(name, glob.casefold()) for glob in globs for name in names)

        return (not self.include or matches(self.include)) and not matches(self.exclude)


@dataclass(frozen=True)
class Found:
    """One picture and where it lay."""

    source: Source
    relative: PurePath
    """Path within the input directory; the name of a file that was given itself."""
    top: Path | None = None
    """The input directory."""


@dataclass
class Findings:
    """What inputs hold."""

    pictures: list[Found] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)
    """Files of directories that are no pictures by their suffix."""
    system_folders: list[Path] = field(default_factory=list)
    """Folders inside that were passed over because the system owns them."""


@dataclass
class Inputs:
    """What the arguments of a command name."""

    sources: list[Source] = field(default_factory=list)
    refused: list[tuple[str, RcodsrError]] = field(default_factory=list)
    """What is no source and fails by itself: lists that cannot be read, web addresses."""

    def add(self, text: str) -> None:
        """One path."""
        try:
            self.sources.append(source_of(text))
        except InputError as error:
            self.refused.append((text, error))


def expand_lists(inputs: list[str]) -> Inputs:
    """Inputs with lists (`images.lists`) replaced by what they hold: `@list.txt`, `@-` (standard input). `-` is a picture.

    A file or folder whose own name starts with @ is that file, not a list. A glob that arrives as it was typed is expanded.

    Raises:
        UsageError: when a name is empty, or standard input is asked for twice.
        InputError: when nothing is left because lists cannot be read.
        NoInputError: when lists are empty.
    """
    if "" in inputs:
        raise UsageError("''", "an empty name is no input", "check the shell variable it came from")
    if sum(name in {"-", "@-"} for name in inputs) > 1:
        raise UsageError("-", "standard input can be read once only", "give one of - and @-")
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
    """The path, or the object of a store, that a user wrote.

    Raises:
        InputError: for an address of the web.
        UsageError: for an object of a store on Windows.
    """
    if text.partition("://")[0].lower() in _WEB and "://" in text:
        raise InputError(text, "a web address, not a file", f"fetch it: curl -L '{text}' | rcodsr upscale - -o NAME.png")
    return place(text)


def _unquoted(name: str) -> list[str]:
    """What a glob stands for that no shell has expanded, as on Windows or in quotes; the name itself where it is a file."""
    if not any(sign in name for sign in "*?[") or os.path.lexists(name):
        return [name]
    return sorted(glob.glob(name, recursive=True)) or [name]  # noqa: PTH207 (a Path expands no absolute pattern)


def sources(inputs: Sequence[Source], selection: Selection | None = None) -> list[Source]:
    """Every picture of files and directories, once each, in order."""
    return list(dict.fromkeys(found.source for found in discover(inputs, selection or Selection()).pictures))


def discover(inputs: Sequence[Source], selection: Selection, avoid: Path | None = None) -> Findings:
    """Look through files and directories. What several names lead to is found once, by the first of them.

    Args:
        inputs: files and directories.
        selection: what to take of directories, and of files given by name as far as its globs go.
        avoid: a directory that is not searched, because outputs go there.

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
    """Whether a path leads to anything; False for what cannot be asked."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_directory(path: Path) -> bool:
    """Whether a path is a directory; False for what cannot be asked."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # unreadable, a name too long or impossible: reading it will say so
        return False


def _once(pictures: list[Found]) -> Iterator[Found]:
    """Each file once, whatever links and spellings lead to it."""
    real, seen = RealPaths(), defaultdict[str, list[str]](list)
    for found in pictures:
        if isinstance(found.source, Piped):
            yield found
            continue
        path = real.of(found.source)
        others = seen[path.casefold()]
        # names that differ in capitals are one file on some systems and two on others
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
    """Files first, then what lies deeper. A directory that cannot be listed counts as a picture, so that it fails by name."""
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
    """Entries in order; hidden ones (macOS leaves `._photo.jpg`) are neither pictures nor worth a word, but for bins."""
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
        raise InputError(name, f"cannot be read ({error.strerror})", "give a text file with one path a line") from error


def _standard_input(name: str) -> bytes:
    if sys.stdin is None:
        raise InputError(name, "standard input is closed", "pipe something into it")
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise InputError(name, f"standard input cannot be read ({error.strerror})", "pipe something into it") from error
