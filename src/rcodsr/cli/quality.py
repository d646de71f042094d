"""`rcodsr bench quality`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rcodsr.cli.parameters import Device, Number, Weights
from rcodsr.cli.streams import json_line, note
from rcodsr.cli.tables import csv_text, json_text, markdown_text, show_row, write_text
from rcodsr.errors import UsageError
from rcodsr.messages import Log
from rcodsr.options import DEFAULT_WEIGHTS, Adaptive, Level, UpscaleOptions, WeightsRequest, parse_realism

if TYPE_CHECKING:
    from rcodsr.bench.judges import JudgeFiles
    from rcodsr.bench.scoring import Judge, Row
    from rcodsr.engine.upscaler import Upscaler

_LEVELS = "0,0.5,1"
_ADAPTIVE = "adaptive"
_NAMES = 24
"""Maximum width of the first column on a terminal."""
_REAL = ("musiq", "niqe", "lpips", "lpips_vgg", "lpips_squeeze")
"""Metrics for the vertical axis of the curve. The first available one is used."""


def quality(
    truth: Annotated[
        Path, typer.Option("--gt", help="Directory of ground truth, or a .txt file that lists pictures.", show_default=False)
    ],
    lr: Annotated[
        list[Path] | None, typer.Option("--lr", help="Directory of low-resolution pictures to enlarge and score; repeatable.")
    ] = None,
    results: Annotated[list[Path] | None, typer.Option("--results", help="Directory of finished results; repeatable.")] = None,
    realism: Annotated[
        str | None,
        typer.Option(
            "--realism",
            help=f"Levels and adaptive, separated by commas. Default: {_LEVELS}, and adaptive with an estimator.",
        ),
    ] = None,
    paper: Annotated[
        bool,
        typer.Option("--paper", help="Add the other columns of the paper's Table S2, computed by pyiqa (extra: metrics)."),
    ] = False,
    judges: Annotated[
        Path | None,
        typer.Option("--judges", help="Directory of judges' files: adds LPIPS (AlexNet, VGG16), DISTS, NIQE."),
    ] = None,
    niqe: Annotated[Path | None, typer.Option("--niqe", help="NIQE parameters (npz).")] = None,
    lpips: Annotated[Path | None, typer.Option("--lpips", help="LPIPS-squeeze weights (safetensors).")] = None,
    weights: Weights = DEFAULT_WEIGHTS,
    device: Device = "auto",
    dtype: Number = "auto",
    plot: Annotated[Path | None, typer.Option("--plot", help="Write the fidelity-realism curve to this PNG file.")] = None,
    export_json: Annotated[Path | None, typer.Option("--export-json", help="Write the rows to this file.")] = None,
    export_csv: Annotated[Path | None, typer.Option("--export-csv", help="Write the rows to this file.")] = None,
    export_markdown: Annotated[Path | None, typer.Option("--export-markdown", help="Write the table to this file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per row.")] = False,
) -> int:
    """Score bicubic and each realism level on a test set, or folders of results of any method.

    Files are matched by name, without endings such as _LR4, _HR and _x4.
    """
    if not lr and not results:
        raise UsageError("bench quality", "nothing to score", "use --lr DIRECTORY or --results DIRECTORY")
    if plot is not None and not (paper or judges or niqe or lpips):
        remedy = "add --judges DIRECTORY, --niqe FILE, --lpips FILE or --paper"
        raise UsageError("--plot", "PSNR and SSIM alone do not show realism", remedy)
    levels = _levels(realism)
    from rcodsr.images.io import require_writable

    for path in (plot, export_json, export_csv, export_markdown):
        if path is not None:
            require_writable(path)
    from rcodsr.bench.judges import Scorer
    from rcodsr.bench.paper_metrics import PaperMetrics
    from rcodsr.bench.scoring import Judge
    from rcodsr.engine.runtime import choose_runtime
    from rcodsr.engine.upscaler import Upscaler

    place = choose_runtime(device, dtype).device
    scorer = Scorer(judge_files(judges, niqe, lpips), place)
    upscaler = Upscaler.load(WeightsRequest(weights, device=device, dtype=dtype)) if lr else None
    judge = Judge(truth, scorer, PaperMetrics(str(place)) if paper else None)
    show = _Table(judge, json)
    rows: list[Row] = []
    for row in _rows(judge, results or [], lr or [], upscaler, levels):
        rows.append(row)
        show.row(row)
    if export_json is not None:
        about = {"gt": str(truth), "weights": upscaler.weights_id if upscaler else None}
        write_text(export_json, json_text(about | {"results": [_values(row) for row in rows]}))
    if export_csv is not None:
        write_text(export_csv, csv_text(["name", "pictures", *judge.columns], map(_values, rows)))
    if export_markdown is not None:
        write_text(export_markdown, markdown_text(_heading(judge), map(_cells, rows)))
    if plot is not None:
        _plot(plot, rows, judge)
    return 0


def judge_files(
    judges: Path | None, niqe: Path | None = None, lpips_squeeze: Path | None = None, log: Log = note
) -> "JudgeFiles":
    """Files of judges in a directory, and files passed one by one. Logs which judges the directory lacks.

    Raises:
        WeightsError: when the directory contains no judge.
    """
    from rcodsr.bench.judges import JudgeFiles

    if judges is None:
        return JudgeFiles(niqe=niqe, lpips_squeeze=lpips_squeeze)
    found = JudgeFiles.of_directory(judges)
    found = replace(found, niqe=niqe or found.niqe, lpips_squeeze=lpips_squeeze or found.lpips_squeeze)
    if found.missing:
        log(f"{judges} has no {', '.join(found.missing)}: those columns are left out")
    return found


def _levels(text: str | None) -> list[UpscaleOptions] | None:
    """Settings to score. None if the weights decide."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    return [UpscaleOptions(Adaptive() if word == _ADAPTIVE else Level(parse_realism(word))) for word in words]


def _rows(
    judge: "Judge", results: list[Path], lr: list[Path], upscaler: "Upscaler | None", levels: list[UpscaleOptions] | None
) -> "Iterator[Row]":
    for folder in results:
        yield judge.folder(folder)
    if upscaler is None:
        return
    if levels is None:
        fixed, judged = upscaler.model.spec.fixed_timestep is not None, upscaler.model.metric_estimator is not None
        levels = [UpscaleOptions()] if fixed else _levels(_LEVELS + f",{_ADAPTIVE}" * judged) or []
    for options in levels:
        upscaler.check(options)
    for folder in lr:
        if len(lr) > 1:
            note(f"{folder}:")
        yield judge.bicubic(folder)
        for options in levels:
            yield judge.engine(folder, upscaler, options)


class _Table:
    """Shows rows as they arrive: JSON lines, a table on a terminal, otherwise separated by tabs."""

    def __init__(self, judge: "Judge", json: bool) -> None:
        self.judge, self.json = judge, json
        self.headed = json

    def row(self, row: "Row") -> None:
        if not self.headed:
            show_row(_heading(self.judge), _NAMES)
            self.headed = True
        if self.json:
            json_line(_values(row))
        else:
            show_row(_cells(row), _NAMES)


def _heading(judge: "Judge") -> list[str]:
    from rcodsr.bench.scoring import COLUMNS

    return ["method", *(COLUMNS[key] for key in judge.columns)]


def _cells(row: "Row") -> list[str]:
    return [row.name, *("-" if value is None else f"{value:.4f}" for value in row.scores.values())]


def _values(row: "Row") -> dict[str, object]:
    scores = {key: round(value, 4) for key, value in row.scores.items() if value is not None}
    return {"name": row.name, "pictures": row.pictures} | scores


def _plot(path: Path, rows: "list[Row]", judge: "Judge") -> None:
    from rcodsr.bench.scoring import COLUMNS
    from rcodsr.images.io import write_atomic
    from rcodsr.report.charts import Point, tradeoff_chart

    real = next(key for key in _REAL if key in judge.columns)
    points = [
        Point(row.name, row.scores["psnr"], row.scores[real], row.realism)  # type: ignore[arg-type]
        for row in rows
        if row.scores[real] is not None
    ]
    if not points:
        raise UsageError(
            "--plot", f"no picture was large enough for {COLUMNS[real]}", "use pictures of at least 192 pixels per side"
        )
    chart = tradeoff_chart(points, COLUMNS["psnr"][:-1], COLUMNS[real][:-1], low_is_real=COLUMNS[real].endswith("↓"))
    write_atomic(path, chart)
