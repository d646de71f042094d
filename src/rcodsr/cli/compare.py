"""`rcodsr compare`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rcodsr.cli.parameters import BaseModel, Device, Number, Offline, Quiet, Revision, Weights
from rcodsr.cli.progress import TaskBar
from rcodsr.cli.quality import judge_files
from rcodsr.cli.streams import keep_libraries_quiet, note, result_line
from rcodsr.errors import InputError, UsageError
from rcodsr.messages import silent
from rcodsr.options import DEFAULT_WEIGHTS, MAX_OUTPUT_PIXELS, Level, UpscaleOptions, WeightsRequest, parse_realism

if TYPE_CHECKING:
    from rcodsr.images.picture import Picture

Region = tuple[int, int, int, int]
"""Left, top, width, height in input pixels."""

_MOST = 9
"""Maximum number of levels."""
_LARGEST_SIDE = 768
"""Largest side of the compared region in input pixels. A browser holds every level in memory."""


def compare(
    input: Annotated[Path, typer.Argument(help="Picture file, or directory of a training run.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="PAGE.html or SHEET.png; a run's scores are printed without it.", show_default=False
        ),
    ] = None,
    realism: Annotated[str, typer.Option("-r", "--realism", help="Realism levels, separated by commas.")] = "0,0.5,1",
    gt: Annotated[Path | None, typer.Option("--gt", help="Ground truth, four times as large as the input.")] = None,
    judges: Annotated[
        Path | None, typer.Option("--judges", help="Directory of judges' files (see bench quality): adds scores against --gt.")
    ] = None,
    region: Annotated[
        str | None,
        typer.Option("--region", help="LEFT,TOP,WIDTH,HEIGHT in input pixels; default: all, or the centre of a large picture."),
    ] = None,
    weights: Weights = DEFAULT_WEIGHTS,
    base_model: BaseModel = None,
    revision: Revision = None,
    offline: Offline = False,
    device: Device = "auto",
    dtype: Number = "auto",
    overwrite: Annotated[bool, typer.Option("-y", "--overwrite", help="Replace an existing output.")] = False,
    quiet: Quiet = False,
) -> None:
    """Show one picture at several realism levels: a page with sliders for any browser, or a contact sheet.

    Of the directory of a training run, show its checkpoints side by side, as validation has seen them.
    """
    levels = _levels(realism)
    if input.is_dir():
        _compare_run(input, output, {"--gt": gt, "--judges": judges, "--region": region}, overwrite)
        return
    if output is None:
        raise UsageError("compare", "--output missing", "add -o PAGE.html or SHEET.png; see `rcodsr compare --help`")
    if judges is not None and gt is None:
        raise UsageError("--judges", "needs a ground truth", "add --gt FILE or omit the option")
    _check_output(output, [input] if gt is None else [input, gt], overwrite)
    from rcodsr.images.io import make_directory, read_header, write_atomic
    from rcodsr.variants import VariantSpec

    keep_libraries_quiet()
    size = read_header(input).size
    part = _region(region, size)
    scale = VariantSpec.scale
    if gt is not None and (found := read_header(gt).size) != (wanted := (size[0] * scale, size[1] * scale)):
        cause = f"is {found[0]}×{found[1]}, and the enlarged picture will be {wanted[0]}×{wanted[1]}"
        raise UsageError(gt, cause, "use the ground truth of this picture")
    from rcodsr.bench.judges import Scorer
    from rcodsr.bench.scoring import named_scores
    from rcodsr.engine.upscaler import Upscaler
    from rcodsr.report.comparison import compare as compared
    from rcodsr.report.comparison import region_of
    from rcodsr.report.page import html_page
    from rcodsr.report.sheet import contact_sheet

    log = silent if quiet else note
    request = WeightsRequest(weights, revision, base_model, offline, device, dtype)
    upscaler = Upscaler.load(request, UpscaleOptions(Level(levels[0])), log)
    log(f"{upscaler.weights_id} on {upscaler.runtime.reason}")

    def shown(path: Path, factor: int) -> "Picture":
        return region_of(_read(path), *(side * factor for side in part))

    truth = None if gt is None else shown(gt, scale)
    scorer = Scorer(judge_files(judges, log=log), upscaler.runtime.device)
    with TaskBar(quiet) as bar:
        made = compared(upscaler, shown(input, 1), str(input), levels, truth, lambda a, b: named_scores(scorer, a, b), bar)
    if part[2:] != size:
        left, top, width, height = part
        made = made.with_remark(f"a region of {size[0]}×{size[1]} pixels: --region {left},{top},{width},{height}")
        log(f"comparing {made.remark}")
    make_directory(output.parent)
    write_atomic(output, html_page(made) if output.suffix.lower() in {".html", ".htm"} else contact_sheet(made))
    result_line(str(output))


def _compare_run(run: Path, output: Path | None, of_pictures: Mapping[str, object], overwrite: bool) -> None:
    if not (run / "validation.jsonl").is_file():
        raise InputError(run, "a directory", "pass one picture file, or a training run that has validated")
    for option, value in of_pictures.items():
        if value is not None:
            raise UsageError(option, "belongs to a picture, not to a run", "leave it out")
    if output is not None:
        _check_output(output, [], overwrite)
    from rcodsr.cli.checkpoints import compare_checkpoints

    compare_checkpoints(run, output)


def _read(path: Path) -> "Picture":
    from rcodsr.images import io

    return io.read(path, MAX_OUTPUT_PIXELS)


def _levels(text: str) -> list[float]:
    levels = sorted({parse_realism(part) for part in text.split(",")})
    if len(levels) > _MOST:
        raise UsageError("--realism", f"{len(levels)} levels are too many to compare", f"use at most {_MOST}")
    return levels


def _check_output(output: Path, inputs: list[Path], overwrite: bool) -> None:
    """Refuse an output that cannot be written, before anything is computed."""
    if output.suffix.lower() not in {".html", ".htm", ".png"}:
        raise UsageError(output, "has no suffix of an output format", "end it in .html for a page or .png for a sheet")
    from rcodsr.images.io import require_writable

    require_writable(output, inputs, overwrite=overwrite, makes_directory=True)


def _region(text: str | None, size: tuple[int, int]) -> Region:
    """The region to compare: the requested one, the whole picture, or the centre of a large one."""
    if text is None:
        width, height = (min(side, _LARGEST_SIDE) for side in size)
        return (size[0] - width) // 2, (size[1] - height) // 2, width, height
    try:
        left, top, width, height = (int(number) for number in text.split(","))
    except ValueError:
        raise UsageError("--region", f"'{text}' is not a valid region", "use LEFT,TOP,WIDTH,HEIGHT in input pixels") from None
    if min(left, top) < 0 or min(width, height) < 1 or left + width > size[0] or top + height > size[1]:
        raise UsageError("--region", f"{text} is not inside the {size[0]}×{size[1]} picture", "use LEFT,TOP,WIDTH,HEIGHT")
    if max(width, height) > _LARGEST_SIDE:
        raise UsageError("--region", f"{width}×{height} is too large", f"compare at most {_LARGEST_SIDE} pixels per side")
    return left, top, width, height
