"""`rcodsr upscale`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rcodsr.cli.streams import Progress, error_line, json_line, note, silent
from rcodsr.config import MAX_OUTPUT_PIXELS, OUTPUT_FORMATS, Adaptive, ColorFix, Dtype, UpscaleOptions, parse_realism
from rcodsr.errors import OutputError, RcodsrError, TileMemoryError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rcodsr.batch.pipeline import Result

_REALISM_HELP = (
    "How much may be invented: 0 stays with the evidence, 1 fills in believable texture; "
    "or fidelity, neutral, realism. Default 0.5."
)
_WEIGHTS_HELP = "Name, checkpoint directory, org/repo on the Hugging Face Hub, or random:VARIANT[:SEED]."


class Format(StrEnum):
    """`--format`: the words of `config.OUTPUT_FORMATS`, and auto."""

    auto = "auto"
    png = "png"
    jpg = "jpg"
    webp = "webp"
    tiff = "tiff"
    bmp = "bmp"
    avif = "avif"


def upscale(
    inputs: Annotated[
        list[str],
        typer.Argument(help="Picture files and directories, @list.txt or @- (paths on standard input).", show_default=False),
    ],
    output: Annotated[str | None, typer.Option("-o", "--output", help="File, directory, or - for standard output.")] = None,
    realism: Annotated[
        str | None,
        typer.Option(
            "-r",
            "--realism",
            help=_REALISM_HELP,
        ),
    ] = None,
    adaptive: Annotated[bool, typer.Option("-a", "--adaptive", help="Let each picture's own degradation decide.")] = False,
    adaptive_by: Annotated[
        str | None, typer.Option("--adaptive-by", help="image, or tile: each tile its own timestep. Implies -a.")
    ] = None,
    scale: Annotated[float, typer.Option("-s", "--scale", help="Final enlargement, 1 to 8.")] = 4.0,
    tile: Annotated[str, typer.Option("-t", "--tile", help="Tile side in input pixels: auto, off or a number.")] = "auto",
    tile_overlap: Annotated[int, typer.Option("--tile-overlap", help="Input pixels that neighbouring tiles share.")] = 24,
    format: Annotated[Format, typer.Option("-f", "--format", help="Output format; auto keeps the input's.")] = Format.auto,
    quality: Annotated[int, typer.Option("--quality", min=1, max=100, help="Of JPEG, WebP and AVIF.")] = 95,
    color_fix: Annotated[
        str | None, typer.Option("--color-fix", help="wavelet, adain or none; default as the weights say.")
    ] = None,
    weights: Annotated[str, typer.Option("--weights", help=_WEIGHTS_HELP)] = "rcod-tiny",
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Directory or org/repo in place of an adapter's own base.")
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Commit, branch or tag of --weights org/repo.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no server; what is cached still works.")] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, fp32, bf16 or fp16.")] = "auto",
    max_pixels: Annotated[int, typer.Option("--max-pixels", min=1, help="Largest output, in pixels.")] = MAX_OUTPUT_PIXELS,
    overwrite: Annotated[bool, typer.Option("-y", "--overwrite", help="Replace existing outputs.")] = False,
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="Show what would be done.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object per picture on standard output, then a summary.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Show errors only.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more about each picture.")] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Plain lines instead of a bar.")] = False,
) -> int:
    """Enlarge pictures.

    Outputs appear whole or not at all, inputs are never written, and an output that was made the same way is skipped.
    """
    options = _options(realism, adaptive_by or ("image" if adaptive else None), scale, tile, tile_overlap, color_fix)
    from rcodsr.batch.pipeline import Output, planned, run
    from rcodsr.batch.plan import expand_lists, plan, prepare_outputs
    from rcodsr.images.io import FORMATS

    jobs = plan(expand_lists(inputs), output, format, scale)
    settings = Output(quality, overwrite, max_pixels, None if format == "auto" else FORMATS[OUTPUT_FORMATS[format]])
    if dry_run:
        return _report((planned(job, options, settings) for job in jobs), len(jobs), json, quiet, bar=False, stream=False)
    if json and output == "-":
        raise UsageError("-o -", "standard output cannot carry both the picture and --json", "leave one of the two out")
    prepare_outputs(jobs)
    from rcodsr.engine.upscaler import Upscaler

    log = silent if quiet else note
    number: Dtype = dtype  # type: ignore[assignment]
    upscaler = Upscaler.load(weights, device, number, base_model, revision, offline, log)
    upscaler.check(options, steered=realism is not None)
    log(f"{upscaler.weights_id} on {upscaler.runtime.reason}")
    results = run(jobs, upscaler, options, settings, sys.stdout.buffer if sys.stdout else None)
    return _report(results, len(jobs), json, quiet, bar=not no_progress, stream=output == "-", verbose=verbose)


def _options(
    realism: str | None, adaptive: str | None, scale: float, tile: str, tile_overlap: int, color_fix: str | None
) -> UpscaleOptions:
    if adaptive and realism is not None:
        raise UsageError("-a", "contradicts -r", "leave one of the two out")
    if tile not in {"auto", "off"} and not tile.isdecimal():
        raise UsageError("--tile", f"'{tile}' is not a tile size", "use auto, off or a number of input pixels")
    fix: ColorFix | None = color_fix  # type: ignore[assignment]
    side = None if tile == "auto" else 0 if tile == "off" else int(tile)
    chosen = 0.5 if realism is None else parse_realism(realism)
    by: Adaptive | None = adaptive  # type: ignore[assignment]
    return UpscaleOptions(realism=chosen, adaptive=by, scale=scale, tile=side, tile_overlap=tile_overlap, color_fix=fix)


def _report(
    results: "Iterator[Result]", total: int, json: bool, quiet: bool, bar: bool, stream: bool, verbose: bool = False
) -> int:
    """Show results as they come; the exit code says whether any failed."""
    counts = {"planned": 0, "done": 0, "skipped": 0, "failed": 0}
    codes: set[int] = set()  # of the failures
    progress = Progress(total, quiet, bar)
    try:
        for result in results:
            counts[result.status] += 1
            if json:
                json_line(result.to_dict())
            elif result.status != "failed" and result.output is not None and not stream:
                progress.result(result.output)
            if result.error is not None:
                codes.add(result.exit_code)
                if result.exit_code != OutputError.exit_code:  # that one ends the batch and is shown then
                    progress.failed(result.error)
            else:
                progress.advance(Path(result.input).name, _describe(result, verbose))
    except RcodsrError as error:
        progress.close()
        not_started = total - sum(counts.values())
        error_line(f"{error} ({counts['done'] + counts['skipped']} done, {not_started} not started)")
        return error.exit_code
    finally:
        progress.close()
        if json:
            json_line({"summary": {name: count for name, count in counts.items() if name != "planned" or count}})
    if total > 1 and not quiet:
        note(", ".join(f"{count} {name}" for name, count in counts.items() if count))
    if codes == {TileMemoryError.exit_code}:
        return TileMemoryError.exit_code
    return 1 if codes else 0


def _describe(result: "Result", verbose: bool) -> str:
    size = f"  {result.width}x{result.height}" if result.width else ""
    seen = f", similarity {result.similarity:.2f}" if result.similarity is not None else ""
    steered = f"  realism {result.realism:.3g} (timestep {result.timestep}{seen})" if result.realism is not None else ""
    seconds = f"  {result.seconds:.1f}s" if result.seconds is not None else ""
    computed = f"  {result.tiles} tiles in {result.dtype} on {result.device}" if verbose and result.tiles else ""
    remark = f"  ({result.note})" if result.note else ""
    return f"{result.status} {result.input}{size}{steered}{seconds}{computed}{remark}"
