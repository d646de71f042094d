"""Turn command-line inputs into jobs: output names, clashes, shards. Runs before weights are loaded, without torch."""

import os
import string
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from rcodsr.batch.discovery import Findings, Found, Selection, discover, is_directory
from rcodsr.batch.places import RealPaths, RemotePath, place
from rcodsr.batch.records import is_result, is_result_of
from rcodsr.batch.shards import belongs
from rcodsr.errors import InputError, NoInputError, OutputError, RcodsrError, UsageError
from rcodsr.images.io import FORMATS, Piped, Source, has_room_for_record, make_directory, read_header, remove_stale_parts
from rcodsr.options import OUTPUT_FORMATS, RealismMap, TargetSize, UpscaleOptions

_LONGEST_NAME = 255


@dataclass(frozen=True)
class Job:
    """One picture to enlarge."""

    source: Source
    target: Path | None
    """Output file. None: standard output."""
    prompt: str | None = None
    """The picture's own prompt, for weights with a text prompt."""
    below: PurePath = field(default_factory=PurePath)
    """Folder within the input directory where it was found."""
    map: Path | None = None
    """Path of the map of invented detail, if one is requested. None: standard output."""

    def options(self, options: UpscaleOptions) -> UpscaleOptions:
        """The options of all pictures, with this picture's own values."""
        return options if self.prompt is None else replace(options, prompt=self.prompt)


@dataclass(frozen=True)
class Naming:
    """How output names are built.

    Raises:
        UsageError: when the template is not valid.
    """

    format: str = "auto"
    """`-f`: auto keeps the input's format if it can be written."""
    scale: float = 4.0
    template: str | None = None
    """`--name`, with fields {stem}, {ext}, {scale} and {realism}."""
    realism: str = "0.5"
    size: TargetSize | None = None
    """Marks names in place of `scale`."""

    @property
    def mark(self) -> str:
        """Ending of names, such as x4, 3840x2160 or short1080."""
        return f"x{self.scale:g}" if self.size is None else str(self.size).replace("=", "")

    def __post_init__(self) -> None:
        """Check the template."""
        if self.template is None:
            return
        remedy = "use {stem}, {ext}, {scale} and {realism}, for example '{stem}_{scale}x{ext}'"
        try:
            fields = {name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None}
            tried = self._filled("stem", ".png")
        except (ValueError, KeyError, IndexError, AttributeError):
            raise UsageError("--name", f"'{self.template}' is not a valid template", remedy) from None
        if not fields <= {"stem", "ext", "scale", "realism"} or "/" in tried or os.sep in tried or tried.startswith("."):
            raise UsageError("--name", f"'{self.template}' does not make a file name", remedy)

    def beside(self, source: Source, whole: bool = False) -> str:
        """Output name of a single file. `whole` keeps the input's suffix in it."""
        return self._filled(source.stem + source.suffix * whole, self.suffix(source), f"_{self.mark}")

    def within(self, source: Source, whole: bool = False) -> str:
        """Output name of a file in a directory."""
        return self._filled(source.stem + source.suffix * whole, self.suffix(source))

    def suffix(self, source: Source) -> str:
        """Suffix of the output, the input's own if possible."""
        if self.format != "auto":
            return OUTPUT_FORMATS[self.format]
        return source.suffix if source.suffix.lower() in FORMATS else ".png"

    def _filled(self, stem: str, suffix: str, ending: str = "") -> str:
        if self.template is None:
            return _shortened(stem, ending + suffix)
        name = self.template.format(
            stem=stem, ext=suffix, scale=self.mark.removeprefix("x") if self.size is None else self.mark, realism=self.realism
        )
        return name if name.endswith(suffix) else name + suffix


@dataclass
class Plan:
    """Jobs of a command, and the inputs that are left out."""

    jobs: list[Job]
    ignored: list[Path] = field(default_factory=list)
    """Files in input directories whose suffix is not a picture's."""
    system_folders: list[Path] = field(default_factory=list)
    """Folders in input directories skipped because they belong to the system."""
    clashes: list[tuple[Job, UsageError]] = field(default_factory=list)
    """Jobs that are not run, because the output would be an input or another picture's output."""
    results: list[Source] = field(default_factory=list)
    """Inputs that are outputs of other inputs and are not enlarged again."""
    refused: list[tuple[str, RcodsrError]] = field(default_factory=list)
    """Arguments that could not be read, with their error."""
    alone: bool = False
    """Whether a single picture was passed by name. It is enlarged even if rcodsr made it."""

    @property
    def sources(self) -> list[Source]:
        """Every picture, including skipped and failing ones."""
        return [job.source for job in self.jobs] + [job.source for job, _ in self.clashes] + self.results


def plan(
    inputs: Sequence[Source], output: str | None, format: str = "auto", scale: float = 4.0, selection: Selection | None = None
) -> list[Job]:
    """Jobs of `make_plan` with default names."""
    return make_plan(inputs, output, Naming(format, scale), selection or Selection()).jobs


def make_plan(
    inputs: Sequence[Source],
    output: str | None,
    naming: Naming,
    selection: Selection,
    shard: tuple[int, int] | None = None,
    strip: bool = False,
) -> Plan:
    """Pair every input picture with its output.

    A file goes to `<stem>_x4<ext>` beside it, a directory to the same names in `<dir>_x4/`; `output` overrides the place.
    An input that is the output of another one (`*.png`, a second time) is set aside. Other outputs of rcodsr are found
    when their headers are read. A clash excludes the pictures concerned, and ends the command if no other is left.

    Args:
        inputs: files and directories.
        output: `-o`: a file, a directory, "-" for standard output, or None.
        naming: how output names are built.
        selection: globs for directories.
        shard: keep only the jobs of this shard. Clashes are checked in all.
        strip: outputs carry no record, at the user's request.

    Raises:
        UsageError: when every output would clash with another or with an input, or `-o` does not fit the inputs.
        NoInputError: when no picture is found.
    """
    if output == "":
        raise UsageError("-o ''", "an empty name", "check the shell variable it came from")
    into = _output_directory(inputs, output)
    findings = _discovered(inputs, into, selection)
    pictures, real = findings.pictures, RealPaths()

    def paired(pictures: list[Found]) -> dict[Job, Found]:
        return dict(zip(_pair(pictures, output, into, naming), pictures, strict=True))

    places = paired(pictures)
    results = set(_results(places, naming, strip, real))
    if results:
        places = paired([found for found in pictures if found.source not in results])
    if not pictures:
        remedy = "pass picture files or a directory that contains some (-R searches subdirectories)"
        globs = [f"--{name} '{glob}'" for name in ("include", "exclude") for glob in getattr(selection, name)]
        if globs:
            raise NoInputError(inputs[0], f"no pictures found with {' '.join(globs)}", "check the globs, or add -R")
        raise NoInputError(inputs[0], "no pictures found", remedy)
    if output == "-" and len(places) != 1:
        raise UsageError("-o -", f"{len(places)} pictures cannot share one stream", "pass one picture, or use -o DIRECTORY")
    clashes = dict(_clashes(list(places), real))
    if clashes and len(clashes) == len(places):
        raise next(iter(clashes.values()))

    def ours(found: Found) -> bool:
        return shard is None or belongs(found.relative, shard)

    return Plan(
        [job for job, found in places.items() if job not in clashes and ours(found)],
        findings.ignored,
        findings.system_folders,
        [(job, error) for job, error in clashes.items() if ours(places[job])],
        [found.source for found in pictures if found.source in results and ours(found)],
        alone=len(pictures) == 1 and pictures[0].top is None,
    )


def prepare_outputs(jobs: list[Job], again: bool = False) -> None:
    """Create the output directories and check that they are writable, before any expensive work.

    Args:
        jobs: from `make_plan`.
        again: also enlarge rcodsr's own outputs. Otherwise no directory is created for these alone.

    Raises:
        OutputError: when a directory cannot be created or is not writable.
    """
    directories = defaultdict[Path, list[Job]](list)
    for job in jobs:
        for path in (job.target, job.map):
            if path is not None:
                directories[path.parent].append(job)
    for directory, inside in directories.items():
        if not again and not is_directory(directory) and all(is_result(job.source) for job in inside):
            continue
        make_directory(directory)
        if isinstance(directory, RemotePath):
            continue
        if not os.access(directory, os.W_OK | os.X_OK):
            raise OutputError(directory, "cannot be written (permission denied)", "choose a writable path with -o")
        remove_stale_parts(directory)


def require_fit(plan: Plan, options: UpscaleOptions) -> None:
    """Check that a realism map fits every picture before any is enlarged. Unreadable pictures fail later.

    Raises:
        UsageError: naming the first picture that the map does not fit.
    """
    realism_map = options.control
    if not isinstance(realism_map, RealismMap):
        return
    for job in plan.jobs:
        if isinstance(job.source, RemotePath):
            continue  # must be fetched first
        if not plan.alone and is_result(job.source):
            continue  # will not be enlarged
        with suppress(InputError):
            size = read_header(job.source).size
            realism_map.require_fit(job.source, size, options.output_size(size))


def remove_leftovers(jobs: list[Job]) -> None:
    """Remove temporary files that killed processes of this batch left behind."""
    for directory in {job.target.parent for job in jobs if job.target and not isinstance(job.target, RemotePath)}:
        remove_stale_parts(directory)


def _discovered(inputs: Sequence[Source], into: Path | None, selection: Selection) -> Findings:
    return discover(inputs, selection, avoid=into if into is not None and into.is_dir() and into not in inputs else None)


def _pair(pictures: list[Found], output: str | None, into: Path | None, naming: Naming) -> Iterator[Job]:
    """Pair pictures with outputs. On a clash (a.gif and a.png), the converted one keeps its old suffix: a.gif.png."""
    targets = [_target(found, output, into, naming) for found in pictures]
    claims = Counter(str(target).casefold() for target in targets)
    for found, target in zip(pictures, targets, strict=True):
        converted = found.source.suffix.lower() != naming.suffix(found.source).lower()
        if target is not None and claims[str(target).casefold()] > 1 and converted:
            target = _target(found, output, into, naming, whole=True)
        yield Job(found.source, target, below=found.relative.parent if found.top is not None else PurePath())


def _target(found: Found, output: str | None, into: Path | None, naming: Naming, whole: bool = False) -> Path | None:
    source = found.source
    if output == "-":
        return None
    if found.top is not None:
        directory = into or _sibling(found.top, naming.mark)
        return directory / found.relative.parent / naming.within(source, whole)
    if output is not None and into is None:
        return _output_file(output, naming.format)
    if isinstance(source, Piped):
        return into / naming.beside(source) if into is not None else None
    return (into or source.parent) / naming.beside(source, whole)


def _output_directory(inputs: Sequence[Source], output: str | None) -> Path | None:
    """The directory that `-o` names, or None."""
    if output is None or output == "-":
        return None
    path = place(output)
    many = len(inputs) > 1 or (isinstance(inputs[0], Path) and is_directory(inputs[0]))
    if many or is_directory(path) or output.endswith(("/", os.sep)):
        names_file = path.suffix.lower() in FORMATS and not is_directory(path) and not output.endswith(("/", os.sep))
        if path.is_file() or names_file:
            raise UsageError(output, "names a file, but the inputs need a directory", "use -o DIRECTORY")
        return path
    return None


def _output_file(output: str, format: str) -> Path:
    path = place(output)
    written = FORMATS.get(path.suffix.lower())
    if written is None:
        raise UsageError(
            output, "has no suffix of an output format", f"end it in {', '.join(sorted(FORMATS))}, or in / for a directory"
        )
    if format != "auto" and FORMATS[OUTPUT_FORMATS[format]] != written:
        raise UsageError(output, f"its suffix contradicts --format {format}", "use only one of the two")
    return path


def _sibling(directory: Path, mark: str) -> Path:
    named = directory if directory.name not in {"", ".."} else directory.resolve()
    if not named.name:
        raise UsageError(directory, "has no name to derive an output from", "use -o DIRECTORY")
    return named.with_name(f"{named.name}_{mark}")


def _shortened(stem: str, ending: str) -> str:
    """Join stem and ending, the stem cut to a length that file systems accept."""
    room = _LONGEST_NAME - len(os.fsencode(ending))
    while len(os.fsencode(stem)) > room and len(stem) > 1:
        stem = stem[:-1]
    return stem + ending


def _results(places: dict[Job, Found], naming: Naming, strip: bool, real: RealPaths) -> Iterator[Source]:
    """Inputs that are outputs of other inputs. Reads only files with a matching name."""
    inputs = {_identity(job.source, real): job.source for job in places if isinstance(job.source, Path)}
    claims = defaultdict[str, list[Source]](list)
    for job, found in places.items():
        names = {job.target, *_unrecorded(found, naming, strip)}
        for target in {_identity(name, real) for name in names if name is not None}:
            claims[target].append(job.source)
    for target, rivals in claims.items():
        picture = inputs.get(target)
        for source in rivals:
            if picture is not None and picture != source and is_result_of(source, picture, naming.scale, naming.size, strip):
                yield picture
            if len(rivals) > 1 and is_result(source):
                yield source


def _unrecorded(found: Found, naming: Naming, strip: bool) -> Iterator[Path]:
    """Possible paths of outputs without a record: beside the picture, or in a folder beside one of its parents."""
    source, top = found.source, found.top
    if isinstance(source, Piped) or (has_room_for_record(FORMATS[naming.suffix(source).lower()]) and not strip):
        return
    folders = [] if top is None else [(top / parent, found.relative.relative_to(parent)) for parent in found.relative.parents]
    for whole in (False, True):
        yield source.with_name(naming.beside(source, whole))
        for folder, below in folders:
            with suppress(UsageError):  # the root has no name
                yield _sibling(folder, naming.mark) / below.with_name(naming.within(source, whole))


def _clashes(jobs: list[Job], real: RealPaths) -> Iterator[tuple[Job, UsageError]]:
    """Jobs whose output is an input, or another job's output."""
    # compared without case: A.png and a.png are one file on many systems
    inputs = {_identity(job.source, real) for job in jobs if isinstance(job.source, Path)}
    targets = defaultdict[str, list[Job]](list)
    for job in jobs:
        if job.target is not None:
            targets[_identity(job.target, real)].append(job)
    for target, rivals in targets.items():
        for number, job in enumerate(rivals):
            if target in inputs:
                cause, remedy = f"would overwrite an input, as the output of {job.source}", "choose another path with -o"
                yield job, UsageError(job.target, cause, f"{remedy}; inputs are never written")
            elif len(rivals) > 1:
                cause = f"would be written for both {rivals[0].source} and {rivals[max(1, number)].source}"
                yield job, UsageError(job.target, cause, "process them separately, set -o, or distinguish them with --name")


def _identity(path: Path, real: RealPaths) -> str:
    return real.of(path).casefold()
