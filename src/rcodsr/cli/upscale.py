"""`rcodsr upscale`."""

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from rcodsr.cli.parameters import (
    BaseModel,
    Device,
    MaxPixels,
    Number,
    Offline,
    Quiet,
    Revision,
    Weights,
    is_default,
    option,
    words,
)
from rcodsr.cli.results import DisplayOptions
from rcodsr.cli.streams import keep_libraries_quiet
from rcodsr.errors import UsageError
from rcodsr.options import (
    COLOR_FIXES,
    DEFAULT_WEIGHTS,
    LEVELS,
    MAX_OUTPUT_PIXELS,
    OUTPUT_FORMATS,
    AdaptiveBy,
    ColorFix,
    Control,
    Level,
    Protected,
    RealismMap,
    TargetSize,
    UpscaleOptions,
    WeightsRequest,
    choose_control,
    parse_format,
    parse_realism,
    parse_tile,
)

if TYPE_CHECKING:
    from rcodsr.batch.plan import Plan

_REALISM_HELP = (
    "How much may be invented: 0 stays with the evidence, 1 fills in believable texture; "
    "or fidelity, neutral, realism. Default: 0.5."
)


class Engine(StrEnum):
    """`--engine`."""

    local = "local"
    ray = "ray"


class Kept(StrEnum):
    """`--metadata`."""

    everything = "keep"
    profile = "strip"


def upscale(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Picture files and directories, - (a picture on standard input), @list.txt or @- (paths).", show_default=False
        ),
    ],
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="File, directory (created if missing), or - for standard output.")
    ] = None,
    realism: Annotated[
        str | None,
        option("-r", "--realism", help=_REALISM_HELP, autocompletion=words(*LEVELS)),
    ] = None,
    adaptive: Annotated[
        bool, typer.Option("-a", "--adaptive", help="Choose realism by each picture's own degradation.")
    ] = False,
    adaptive_by: Annotated[
        str | None,
        typer.Option(
            "--adaptive-by",
            help="image, or tile: a timestep per tile. Implies -a.",
            autocompletion=words("image", "tile"),
        ),
    ] = None,
    realism_map: Annotated[
        Path | None,
        typer.Option("--realism-map", help="Grey mask of the input's or output's size: black is realism 0, white is 1."),
    ] = None,
    protect: Annotated[
        str | None,
        typer.Option("--protect", help="text: keep text regions at realism 0.", autocompletion=words("text")),
    ] = None,
    invented: Annotated[
        str | None,
        typer.Option(
            "--invented", help="Also write a map of invented detail: FILE.png, -, or a directory for several pictures."
        ),
    ] = None,
    scale: Annotated[float | None, typer.Option("-s", "--scale", help="Final enlargement, 1 to 8.", show_default="4")] = None,
    size: Annotated[
        str | None, typer.Option("--size", help="Final size instead of -s: WxH, Wx, xH, short=N or long=N.")
    ] = None,
    tile: Annotated[
        str,
        option(
            "-t", "--tile", help="Tile side in input pixels: auto, off or a number.", autocompletion=words("auto", "off", "256")
        ),
    ] = "auto",
    tile_overlap: Annotated[
        int | None,
        typer.Option("--tile-overlap", help="Input pixels shared by neighbouring tiles; default: the weights' own."),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "-f",
            "--format",
            help=f"Output format: {', '.join(OUTPUT_FORMATS)}; auto keeps the input's.",
            autocompletion=words("auto", *OUTPUT_FORMATS),
        ),
    ] = "auto",
    quality: Annotated[int, option("--quality", min=1, max=100, help="Quality of JPEG, WebP, AVIF and JPEG XL.")] = 95,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="TEMPLATE", help="Template for output names, with {stem}, {ext}, {scale} and {realism}."
        ),
    ] = None,
    metadata: Annotated[Kept, typer.Option("--metadata", help="keep, or strip all but the colour profile.")] = Kept.everything,
    keep_times: Annotated[bool, typer.Option("--keep-times", help="Copy the modification time of inputs to outputs.")] = False,
    background: Annotated[
        str, typer.Option("--background", help="Colour behind transparency if the format has none, as #rrggbb or a name.")
    ] = "white",
    recursive: Annotated[
        bool, typer.Option("-R", "--recursive", help="Search subdirectories too; mirror them in the output.")
    ] = False,
    include: Annotated[
        list[str] | None, typer.Option("--include", help="Use only files that match this glob; repeatable.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option("--exclude", help="Skip files that match this glob; repeatable.")] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", help="I/N: this machine's share of the pictures; slurm in a job array.", autocompletion=words("slurm")
        ),
    ] = None,
    color_fix: Annotated[
        str | None,
        typer.Option(
            "--color-fix", help="wavelet, adain or none; default: the weights' own.", autocompletion=words(*COLOR_FIXES)
        ),
    ] = None,
    weights: Weights = DEFAULT_WEIGHTS,
    base_model: BaseModel = None,
    revision: Revision = None,
    offline: Offline = False,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="Replaces the built-in prompt of weights with a text prompt.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", help='A prompt for each picture: JSON lines {"picture": NAME, "text": TEXT}.', show_default=False
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", min=0, max=20, help="Guidance scale of s3diff, by a second U-Net pass. Its own: 1.07."),
    ] = None,
    as_published: Annotated[
        bool, typer.Option("--as-published", help="For osediff, s3diff and pisa-sr: as their authors' own script does it.")
    ] = False,
    device: Device = "auto",
    dtype: Number = "auto",
    jobs: Annotated[
        int | None,
        option("-j", "--jobs", min=1, help="Parallel processes: one per GPU, or sharing the CPU's cores.", show_default="1"),
    ] = None,
    engine: Annotated[Engine, typer.Option("--engine", help="local, or ray to use a Ray cluster.")] = Engine.local,
    address: Annotated[
        str | None, typer.Option("--address", help="HOST:PORT of the Ray cluster, or auto; default: start one here.")
    ] = None,
    max_pixels: MaxPixels = MAX_OUTPUT_PIXELS,
    overwrite: Annotated[bool, typer.Option("-y", "--overwrite", help="Replace existing outputs.")] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure.")] = False,
    max_failures: Annotated[
        int | None, typer.Option("--max-failures", min=1, help="Stop after this many failures.", show_default=False)
    ] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Also write a JSON line per picture to this file.")] = None,
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="Show what would be done.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per picture on standard output, then a summary.")
    ] = False,
    print0: Annotated[bool, typer.Option("--print0", help="End each path on standard output with NUL, for xargs -0.")] = False,
    quiet: Quiet = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show more about each picture.")] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Print plain lines instead of a bar.")] = False,
) -> int:
    """Enlarge pictures.

    Outputs are written whole or not at all, inputs are never modified, and outputs already made the same way are skipped.
    """
    default, realism = (realism, None) if is_default("--realism") else (None, realism)
    options = UpscaleOptions(
        control=_control(realism, adaptive_by or ("image" if adaptive else None), realism_map),
        default_realism=LEVELS["neutral"] if default is None else parse_realism(default),
        scale=4.0 if scale is None else scale,
        size=_size(size, scale),
        tile=parse_tile(tile),
        tile_overlap=tile_overlap,
        color_fix=cast(ColorFix | None, color_fix),
        protect=cast(Protected | None, protect),
        invented=invented is not None,
    )
    format = parse_format(format)
    from rcodsr.batch.discovery import Selection, expand_lists
    from rcodsr.batch.maps import with_maps
    from rcodsr.batch.places import RemotePath
    from rcodsr.batch.plan import Naming, Plan, make_plan, require_fit
    from rcodsr.batch.results import WriteOptions
    from rcodsr.batch.shards import parse_shard
    from rcodsr.batch.stream import LinePlanner
    from rcodsr.cli.run import Run
    from rcodsr.images.formats import FORMATS, parse_background

    if not verbose:
        keep_libraries_quiet()
    chosen = parse_shard(shard) if shard is not None else None
    naming = Naming(format, options.scale, name, _level_in_names(options.chosen), options.size)
    selection = Selection(recursive, tuple(include or ()), tuple(exclude or ()))
    strip = metadata == "strip"
    encoded = None if format == "auto" else FORMATS[OUTPUT_FORMATS[format]]
    request = WeightsRequest(weights, revision, base_model, offline, device, dtype, prompt, guidance, as_published)
    settings = WriteOptions(
        quality, overwrite, max_pixels, encoded, strip, parse_background(background), keep_times, dtypes=request.dtypes
    )
    shown = DisplayOptions(
        json, quiet, verbose, not no_progress, "-" in {output, invented}, report, 1 if fail_fast else max_failures, print0
    )
    if json and print0:
        raise UsageError("--print0", "contradicts --json", "use only one of the two")
    run = Run(request, options, settings, shown, jobs, engine == "ray", address)
    for planned, value in {"--invented": invented, "--prompts": prompts}.items():
        if inputs == ["@-"] and value is not None:
            raise UsageError(planned, "cannot be planned for @-, line by line", "omit the option, or pass a list file")
    if inputs == ["@-"] and run.is_here:
        return run.stream(LinePlanner(output, naming, selection, options, chosen, strip), dry_run)
    listed = expand_lists(inputs)
    if not listed.sources:
        return run.promise(Plan([], refused=listed.refused))
    plan = make_plan(listed.sources, output, naming, selection, chosen, strip)
    plan.refused = listed.refused
    if prompts is not None:
        plan, options = _told(plan, options, prompts, prompt, engine)
        run = replace(run, options=options)
    require_fit(plan, options)
    if invented is not None:
        plan = with_maps(plan, invented)
    if keep_times and any(isinstance(path, RemotePath) for job in plan.jobs for path in (job.source, job.target)):
        raise UsageError("--keep-times", "object stores set times themselves", "omit the option")
    to_stdout = invented == "-" or any(job.target is None for job in plan.jobs)
    if json and to_stdout:
        option = "--invented -" if invented == "-" else "-o -"
        raise UsageError(option, "standard output cannot carry both the picture and --json", "use only one of the two")
    if to_stdout and not dry_run and sys.stdout is not None and sys.stdout.isatty():
        raise UsageError(
            "standard output", "is a terminal, and a picture would fill it", "use -o FILE, or redirect it: > x.png"
        )
    if address is not None and engine != "ray":
        raise UsageError("--address", "is for a Ray cluster", "add --engine ray or omit the option")
    return run.promise(plan) if dry_run else run.carry_out(plan)


def _told(
    plan: "Plan", options: UpscaleOptions, prompts: Path, prompt: str | None, engine: Engine
) -> "tuple[Plan, UpscaleOptions]":
    """The plan with each picture's own prompt, and options that announce prompts per picture."""
    from rcodsr.images.captions import read_captions

    if prompt is not None:
        raise UsageError("--prompts", "contradicts --prompt", "use only one of the two")
    if engine == "ray":
        raise UsageError("--prompts", "does not work on a Ray cluster", "omit --engine ray; -j runs several processes here")
    texts = read_captions(prompts).of_all(job.source for job in plan.jobs)
    told = [replace(job, prompt=text) for job, text in zip(plan.jobs, texts, strict=True)]
    return replace(plan, jobs=told), replace(options, prompt=texts[0] if texts else None)


def _control(realism: str | None, adaptive_by: str | None, realism_map: Path | None) -> Control | None:
    if realism_map is None:
        return choose_control(realism, cast(AdaptiveBy | None, adaptive_by))
    from rcodsr.images.maps import read_map

    return choose_control(realism, cast(AdaptiveBy | None, adaptive_by), read_map(realism_map))


def _level_in_names(control: Control) -> str:
    """The text that replaces {realism} in output names."""
    if isinstance(control, Level):
        return f"{control.realism:g}"
    return "map" if isinstance(control, RealismMap) else "auto"


def _size(size: str | None, scale: float | None) -> TargetSize | None:
    if size is not None and scale is not None:
        raise UsageError("--size", "contradicts -s", "use only one of the two")
    return None if size is None else TargetSize.parse(size)
