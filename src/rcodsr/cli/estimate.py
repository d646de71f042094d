"""`rcodsr estimate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rcodsr.cli.parameters import BaseModel, Device, MaxPixels, Number, Offline, Quiet, Revision, Weights
from rcodsr.cli.streams import error_line, json_line, keep_libraries_quiet, note
from rcodsr.cli.tables import csv_text, show_row, write_text
from rcodsr.errors import NoInputError
from rcodsr.messages import silent
from rcodsr.options import DEFAULT_WEIGHTS, MAX_OUTPUT_PIXELS

if TYPE_CHECKING:
    from rcodsr.batch.estimates import Estimate
    from rcodsr.messages import Log
    from rcodsr.parts import GroupingSpec

_COLUMNS = ("input", "similarity", "timestep", "realism", "level")
_NAMES = 40
"""Maximum width of the first column on a terminal."""


def estimate(
    inputs: Annotated[list[str], typer.Argument(help="Picture files and directories, @list.txt or @-.", show_default=False)],
    gt: Annotated[
        Path | None, typer.Option("--gt", help="Directory of ground truth with the same names: adds the true M_L.")
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Also write the rows to this file.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw a histogram to this PNG file.")] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Show quantiles, group shares and suggested bounds.")] = False,
    weights: Weights = DEFAULT_WEIGHTS,
    base_model: BaseModel = None,
    revision: Revision = None,
    offline: Offline = False,
    device: Device = "auto",
    dtype: Number = "auto",
    max_pixels: MaxPixels = MAX_OUTPUT_PIXELS,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per picture.")] = False,
    quiet: Quiet = False,
) -> int:
    """Report how degraded pictures are, and the timestep and realism that --adaptive would choose. Enlarges nothing."""
    from rcodsr.batch.discovery import expand_lists, sources

    keep_libraries_quiet()
    listed = expand_lists(inputs)
    for _, error in listed.refused:
        error_line(error)
    found = sources(listed.sources)
    if not found:
        raise NoInputError(inputs[0], "no pictures found", "pass picture files or a directory that contains some")
    from rcodsr.batch.estimates import estimates, match_truths
    from rcodsr.engine.upscaler import Upscaler
    from rcodsr.images.io import require_writable
    from rcodsr.options import Adaptive, UpscaleOptions, WeightsRequest

    truths = match_truths(found, gt) if gt is not None else None
    for path in (csv, plot):
        if path is not None:
            require_writable(path, [*found, *(truths or {}).values()])
    log = silent if quiet else note
    request = WeightsRequest(weights, revision, base_model, offline, device, dtype)
    upscaler = Upscaler.load(request, UpscaleOptions(Adaptive()), log)
    columns = (*_COLUMNS, "true_similarity") if truths else _COLUMNS
    rows = []
    if not json:
        show_row(columns, _NAMES)
    for row in estimates(found, upscaler, truths, max_pixels):
        _show(row, columns, json)
        rows.append(row)
    good = [row for row in rows if row.error is None]
    if csv is not None:
        fields = (*columns, "error")
        write_text(csv, csv_text(fields, ({name: getattr(row, name) for name in fields} for row in rows)))
    if good:
        _summarise(good, upscaler.model.spec.grouping, plot, calibrate, log)
    return 1 if len(good) < len(rows) or listed.refused else 0


def _show(row: "Estimate", columns: tuple[str, ...], json: bool) -> None:
    if row.error is not None:
        error_line(row.error)
    if json:
        json_line(row.to_dict())
    elif row.error is None:
        show_row([str(getattr(row, name)) for name in columns], _NAMES)


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
        from rcodsr.images.io import write_atomic
        from rcodsr.report.charts import similarity_chart

        write_atomic(plot, similarity_chart(estimated, true, borders(grouping), [f"{t}" for t in reversed(grouping.timesteps)]))
