"""`rcodsr estimate`."""

import csv as csv_files
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rcodsr.cli.options import BaseModel, Device, MaxPixels, Number, Offline, Quiet, Revision, Weights
from rcodsr.cli.streams import error_line, json_line, keep_libraries_quiet, note, result_line, silent
from rcodsr.config import DEFAULT_WEIGHTS, MAX_OUTPUT_PIXELS
from rcodsr.errors import NoInputError, OutputError, UsageError

if TYPE_CHECKING:
    from rcodsr.batch.estimates import Estimate
    from rcodsr.checkpoints.resolve import Log
    from rcodsr.images.io import Source
    from rcodsr.parts import GroupingSpec

_COLUMNS = ("input", "similarity", "timestep", "realism", "level")
_IN_CELLS = {ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"}
"""What would end a cell or a row, and stands in a name."""


def estimate(
    inputs: Annotated[list[str], typer.Argument(help="Picture files and directories, @list.txt or @-.", show_default=False)],
    gt: Annotated[Path | None, typer.Option("--gt", help="Ground truth of the same names: prints the true M_L, too.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Also write the rows to this file.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw a histogram to this PNG file.")] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Quantiles, group shares, and bounds they suggest.")] = False,
    weights: Weights = DEFAULT_WEIGHTS,
    base_model: BaseModel = None,
    revision: Revision = None,
    offline: Offline = False,
    device: Device = "auto",
    dtype: Number = "auto",
    max_pixels: MaxPixels = MAX_OUTPUT_PIXELS,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per picture.")] = False,
    quiet: Quiet = False,
) -> int:
    """Say how degraded pictures are, and the timestep and realism that --adaptive would choose. Enlarges nothing."""
    from rcodsr.batch.plan import expand_lists, sources

    keep_libraries_quiet()
    found = sources(expand_lists(inputs))
    if not found:
        raise NoInputError(inputs[0], "no pictures found", "give picture files, or a directory that holds some")
    from rcodsr.batch.estimates import estimates, match_truths
    from rcodsr.config import Adaptive, UpscaleOptions, WeightsRequest
    from rcodsr.engine.upscaler import Upscaler

    truths = match_truths(found, gt) if gt is not None else None
    for path, option in ((csv, "--csv"), (plot, "--plot")):
        if path is not None:
            _check_place(path, option, [*found, *(truths or {}).values()])
    log = silent if quiet else note
    request = WeightsRequest(weights, revision, base_model, offline, device, dtype)
    upscaler = Upscaler.load(request, UpscaleOptions(Adaptive()), log)
    columns = (*_COLUMNS, "true_similarity") if truths else _COLUMNS
    rows = []
    if not json:
        _line(columns)
    for row in estimates(found, upscaler, truths, max_pixels):
        _show(row, columns, json)
        rows.append(row)
    good = [row for row in rows if row.error is None]
    if csv is not None:
        _write_csv(csv, rows, columns)
    if good:
        _summarise(good, upscaler.model.spec.grouping, plot, calibrate, log)
    return 1 if len(good) < len(rows) else 0


def _check_place(path: Path, option: str, pictures: "list[Source]") -> None:
    """See that a file can be written, before anything expensive happens.

    Raises:
        UsageError: when it would overwrite an input.
        OutputError: when it cannot be written.
    """
    place = os.path.realpath(path)
    if any(os.path.realpath(str(picture)) == place for picture in pictures):
        raise UsageError(option, f"{path} is one of the pictures", "choose another name")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        cause = "is a directory" if path.is_dir() else "cannot be written"
        raise OutputError(path, cause, f"choose another place for {option}")


def _show(row: "Estimate", columns: tuple[str, ...], json: bool) -> None:
    if row.error is not None:
        error_line(row.error)
    if json:
        json_line(row.to_dict())
    elif row.error is None:
        _line([str(getattr(row, name)) for name in columns])


def _line(cells: "tuple[str, ...] | list[str]") -> None:
    """A row: aligned for people, separated by tabs for programs."""
    if sys.stdout is not None and sys.stdout.isatty():
        first, *others = cells
        result_line(f"{first:40} " + " ".join(f"{cell:>11}" for cell in others))
    else:
        result_line("\t".join(cell.translate(_IN_CELLS) for cell in cells))


def _write_csv(path: Path, rows: "list[Estimate]", columns: tuple[str, ...]) -> None:
    try:
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as handle:
            writer = csv_files.writer(handle)
            writer.writerow([*columns, "error"])
            writer.writerows([*(getattr(row, name) for name in columns), row.error] for row in rows)
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror})", "choose another place") from error


def _summarise(rows: "list[Estimate]", grouping: "GroupingSpec", plot: Path | None, calibrate: bool, log: "Log") -> None:
    from rcodsr.bench.calibration import QUANTILES, borders, group_shares, quality, suggested_bounds

    estimated = [row.similarity for row in rows if row.similarity is not None]
    true = [row.true_similarity for row in rows if row.true_similarity is not None] or None
    if true is not None:
        found = quality(estimated, true, grouping)
        log("  ".join(f"{name} {value:.3f}" for name, value in found.items()))
    if calibrate:
        import numpy as np

        values = true or estimated
        for share, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True):
            note(f"quantile {share:.2f}: {value:.4f}")
        for timestep, share in group_shares(values, grouping).items():
            note(f"timestep {timestep}: {share:.1%}")
        low, high = suggested_bounds(values, grouping.n)
        note(f"equal outer groups: metric_min={low:.4f} metric_max={high:.4f}")
    if plot is not None:
        from rcodsr.report.charts import similarity_chart

        similarity_chart(plot, estimated, true, borders(grouping))
