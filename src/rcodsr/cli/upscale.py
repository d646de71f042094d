"""`rcodsr upscale`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, cast

import typer

from rcodsr.cli.parameters import BaseModel, Device, MaxPixels, Number, Offline, Quiet, Revision, Weights, is_default, option
from rcodsr.cli.results import DisplayOptions, open_report, show
from rcodsr.cli.streams import keep_libraries_quiet, note, results_only
from rcodsr.errors import UsageError
from rcodsr.messages import silent
from rcodsr.options import (
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
    parse_realism,
    parse_tile,
)

_REALISM_HELP = (
    "How much may be invented: 0 stays with the evidence, 1 fills in believable texture; "
    "or fidelity, neutral, realism. Default 0.5."
)


class Format(StrEnum):
    """`--format`: the words of `options.OUTPUT_FORMATS`, and auto."""

    auto = "auto"
    png = "png"
    jpg = "jpg"
    webp = "webp"
    tiff = "tiff"
    bmp = "bmp"
    avif = "avif"


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
    output: Annotated[str | None, typer.Option("-o", "--output", help="File, directory, or - for standard output.")] = None,
    realism: Annotated[
        str | None,
        option("-r", "--realism", help=_REALISM_HELP),
    ] = None,
    adaptive: Annotated[bool, typer.Option("-a", "--adaptive", help="Let each picture's own degradation decide.")] = False,
    adaptive_by: Annotated[
        str | None, typer.Option("--adaptive-by", help="image, or tile: each tile its own timestep. Implies -a.")
    ] = None,
    realism_map: Annotated[
        Path | None, typer.Option("--realism-map", help="Grey mask of the input's or output's size: black 0, white realism 1.")
    ] = None,
    protect: Annotated[
        str | None, typer.Option("--protect", help="text: hold what looks like text at realism 0.", show_default=False)
    ] = None,
    invented: Annotated[
        str | None,
        typer.Option("--invented", help="Also write a map of what was invented: FILE.png, - or, of several, a directory."),
    ] = None,
    scale: Annotated[float | None, typer.Option("-s", "--scale", help="Final enlargement, 1 to 8.", show_default="4")] = None,
    size: Annotated[
        str | None, typer.Option("--size", help="Final size in the place of -s: WxH, Wx, xH, short=N or long=N.")
    ] = None,
    tile: Annotated[str, option("-t", "--tile", help="Tile side in input pixels: auto, off or a number.")] = "auto",
    tile_overlap: Annotated[
        int | None,
        typer.Option("--tile-overlap", help="Input pixels that neighbouring tiles share; default as the weights say."),
    ] = None,
    format: Annotated[Format, typer.Option("-f", "--format", help="Output format; auto keeps the input's.")] = Format.auto,
    quality: Annotated[int, option("--quality", min=1, max=100, help="Of JPEG, WebP and AVIF.")] = 95,
    name: Annotated[
        str | None, typer.Option("--name", help="Names of outputs, of {stem}, {ext}, {scale} and {realism}.")
    ] = None,
    metadata: Annotated[Kept, typer.Option("--metadata", help="keep, or strip all but the colour profile.")] = Kept.everything,
    background: Annotated[
        str, typer.Option("--background", help="Colour under transparency where the format has none, as #rrggbb or a name.")
    ] = "white",
    recursive: Annotated[
        bool, typer.Option("-R", "--recursive", help="Also the directories inside, mirrored in the output.")
    ] = False,
    include: Annotated[
        list[str] | None, typer.Option("--include", help="Take only what matches this glob; can be given several times.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option("--exclude", help="Leave out what matches this glob.")] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", help="I/N: this machine's part of the pictures; or slurm, in a job array.")
    ] = None,
    color_fix: Annotated[
        str | None, typer.Option("--color-fix", help="wavelet, adain or none; default as the weights say.")
    ] = None,
    weights: Weights = DEFAULT_WEIGHTS,
    base_model: BaseModel = None,
    revision: Revision = None,
    offline: Offline = False,
    prompt: Annotated[str | None, typer.Option("--prompt", help="For weights with a text prompt: in its place.")] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", min=0, max=20, help="For s3diff, which uses 1.07: a second U-Net pass.")
    ] = None,
    device: Device = "auto",
    dtype: Number = "auto",
    jobs: Annotated[
        int | None,
        option(
            "-j", "--jobs", min=1, help="Processes side by side: one per GPU, or the CPU's cores divided.", show_default="1"
        ),
    ] = None,
    engine: Annotated[Engine, typer.Option("--engine", help="local, or ray: on a Ray cluster.")] = Engine.local,
    address: Annotated[
        str | None, typer.Option("--address", help="HOST:PORT of the Ray cluster, or auto; else one is started here.")
    ] = None,
    max_pixels: MaxPixels = MAX_OUTPUT_PIXELS,
    overwrite: Annotated[bool, typer.Option("-y", "--overwrite", help="Replace existing outputs.")] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure.")] = False,
    max_failures: Annotated[
        int | None, typer.Option("--max-failures", min=1, help="Stop after so many failures.", show_default=False)
    ] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Also write a JSON line per picture to this file.")] = None,
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="Show what would be done.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object per picture on standard output, then a summary.")
    ] = False,
    quiet: Quiet = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more about each picture.")] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Plain lines instead of a bar.")] = False,
) -> int:
    """Enlarge pictures.

    Outputs appear whole or not at all, inputs are never written, and an output that was made the same way is skipped.
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
    from rcodsr.batch.discovery import Selection, expand_lists
    from rcodsr.batch.maps import with_maps
    from rcodsr.batch.pipeline import WriteOptions, run
    from rcodsr.batch.plan import Naming, make_plan, prepare_outputs, require_fit
    from rcodsr.batch.process_pool import run_processes
    from rcodsr.batch.remote import planned_anywhere
    from rcodsr.batch.shards import parse_shard
    from rcodsr.images.formats import FORMATS, parse_background

    if not verbose:
        keep_libraries_quiet()
    chosen = parse_shard(shard) if shard is not None else None
    naming = Naming(format, options.scale, name, _level_in_names(options.chosen), options.size)
    selection = Selection(recursive, tuple(include or ()), tuple(exclude or ()))
    strip = metadata == "strip"
    plan = make_plan(expand_lists(inputs), output, naming, selection, chosen, strip)
    require_fit(plan, options)
    if invented is not None:
        plan = with_maps(plan, invented)
    encoded = None if format == "auto" else FORMATS[OUTPUT_FORMATS[format]]
    settings = WriteOptions(quality, overwrite, max_pixels, encoded, strip, parse_background(background), plan.alone)
    shown = DisplayOptions(
        json, quiet, verbose, not no_progress, "-" in {output, invented}, report, 1 if fail_fast else max_failures
    )
    if json and (invented == "-" or any(job.target is None for job in plan.jobs)):
        option = "--invented -" if invented == "-" else "-o -"
        raise UsageError(option, "standard output cannot carry both the picture and --json", "leave one of the two out")
    if address is not None and engine != "ray":
        raise UsageError("--address", "is for a Ray cluster", "add --engine ray, or leave it out")
    if dry_run:
        planned_ones = (planned_anywhere(job, options, settings) for job in plan.jobs)
        return show(planned_ones, plan, DisplayOptions(json, quiet, bar=False, report=report))
    open_report(report, plan)
    if not plan.jobs:
        return show((), plan, shown)  # all in other shards
    prepare_outputs(plan.jobs, plan.alone)
    log = silent if quiet else note
    request = WeightsRequest(weights, revision, base_model, offline, device, dtype, prompt, guidance)
    if engine == "ray":
        from rcodsr.batch.ray_engine import run_ray

        with results_only():
            return show(run_ray(plan.jobs, request, options, settings, jobs, address, log), plan, shown)
    if jobs is not None and min(jobs, len(plan.jobs)) > 1:
        return show(run_processes(plan.jobs, request, options, settings, jobs, log), plan, shown)
    from rcodsr.engine.upscaler import Upscaler

    upscaler = Upscaler.load(request, options, log)
    log(f"{upscaler.weights_id} on {upscaler.runtime.reason}")
    stdout = sys.stdout.buffer if sys.stdout else None
    # clashes count as failures, and `show` has seen them before the first result
    left = None if shown.max_failures is None else shown.max_failures - len(plan.clashes)
    results = run(plan.jobs, upscaler, options, settings, stdout, left)
    return show(results, plan, shown)


def _control(realism: str | None, adaptive_by: str | None, realism_map: Path | None) -> Control | None:
    if realism_map is None:
        return choose_control(realism, cast(AdaptiveBy | None, adaptive_by))
    from rcodsr.images.maps import read_map

    return choose_control(realism, cast(AdaptiveBy | None, adaptive_by), read_map(realism_map))


def _level_in_names(control: Control) -> str:
    """What stands for {realism} in names of outputs."""
    if isinstance(control, Level):
        return f"{control.realism:g}"
    return "map" if isinstance(control, RealismMap) else "auto"


def _size(size: str | None, scale: float | None) -> TargetSize | None:
    if size is not None and scale is not None:
        raise UsageError("--size", "contradicts -s", "leave one of the two out")
    return None if size is None else TargetSize.parse(size)
