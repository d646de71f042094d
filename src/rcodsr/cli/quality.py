"""`rcodsr bench quality`."""

import csv
import io
import json as json_text
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rcodsr.cli.options import Device, Number, Weights
from rcodsr.cli.streams import json_line, note, result_line
from rcodsr.config import DEFAULT_WEIGHTS, Adaptive, Level, UpscaleOptions, WeightsRequest, parse_realism
from rcodsr.errors import OutputError, UsageError

if TYPE_CHECKING:
    from rcodsr.bench.judges import JudgeFiles
    from rcodsr.bench.scoring import Judge, Row
    from rcodsr.engine.upscaler import Upscaler

_LEVELS = "0,0.5,1"
_ADAPTIVE = "adaptive"
_REAL = ("musiq", "niqe", "lpips", "lpips_vgg", "lpips_squeeze")
"""What the curve's upward axis may show, the best at hand first."""


def quality(
    truth: Annotated[
        Path, typer.Option("--gt", help="Directory of ground truth, or a .txt file that lists some of it.", show_default=False)
    ],
    lr: Annotated[
        list[Path] | None, typer.Option("--lr", help="Directory of low-resolution pictures to enlarge and score; repeatable.")
    ] = None,
    results: Annotated[list[Path] | None, typer.Option("--results", help="Directory of finished results; repeatable.")] = None,
    realism: Annotated[
        str | None,
        typer.Option(
            "--realism",
            help=f"Levels to score, separated by commas, and adaptive. Default {_LEVELS} and, with an estimator, adaptive.",
        ),
    ] = None,
    paper: Annotated[
        bool,
        typer.Option("--paper", help="Also the other columns of the paper's Table S2, through pyiqa (the extra metrics)."),
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
    json: Annotated[bool, typer.Option("--json", help="One JSON object per row.")] = False,
) -> int:
    """Score bicubic and each realism level on a test set, or folders of any method's pictures.

    Files are matched by name; _LR4, _HR and _x4 at its end do not count.
    """
    if not lr and not results:
        raise UsageError("bench quality", "nothing to score", "give --lr DIRECTORY or --results DIRECTORY")
    if plot is not None and not (paper or judges or niqe or lpips):
        remedy = "add --judges DIRECTORY, --niqe FILE, --lpips FILE or --paper"
        raise UsageError("--plot", "PSNR and SSIM alone do not show realism", remedy)
    levels = _levels(realism)
    for path in (plot, export_json, export_csv, export_markdown):
        _check_place(path)
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
    _export(rows, judge, {"gt": str(truth), "weights": upscaler.weights_id if upscaler else None}, export_json, export_csv)
    if export_markdown is not None:
        _write(export_markdown, _markdown(rows, judge))
    if plot is not None:
        _plot(plot, rows, judge)
    return 0


def judge_files(
    judges: Path | None, niqe: Path | None = None, lpips_squeeze: Path | None = None, log: Callable[[str], object] = note
) -> "JudgeFiles":
    """What a directory of judges holds, and files given one by one; says what the directory lacks.

    Raises:
        WeightsError: when the directory holds no judge.
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
    """What to score; None where the weights decide."""
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
    """Rows as they come: JSON lines, a table on a terminal, else separated by tabs."""

    def __init__(self, judge: "Judge", json: bool) -> None:
        self.judge, self.json = judge, json
        self.aligned = sys.stdout is not None and sys.stdout.isatty()
        self.headed = json

    def row(self, row: "Row") -> None:
        if not self.headed:
            self._line(_heading(self.judge))
            self.headed = True
        if self.json:
            json_line(_values(row))
        else:
            self._line(_cells(row))

    def _line(self, cells: list[str]) -> None:
        name, *others = cells
        result_line(f"{name:24}" + "".join(f"{cell:>12}" for cell in others) if self.aligned else "\t".join(cells))


def _heading(judge: "Judge") -> list[str]:
    from rcodsr.bench.scoring import COLUMNS

    return ["method", *(COLUMNS[key] for key in judge.columns)]


def _cells(row: "Row") -> list[str]:
    return [row.name, *("-" if value is None else f"{value:.4f}" for value in row.scores.values())]


def _values(row: "Row") -> dict[str, object]:
    scores = {key: round(value, 4) for key, value in row.scores.items() if value is not None}
    return {"name": row.name, "pictures": row.pictures} | scores


def _export(rows: "list[Row]", judge: "Judge", about: dict[str, str | None], json: Path | None, table: Path | None) -> None:
    if json is not None:
        _write(json, json_text.dumps(about | {"results": [_values(row) for row in rows]}, indent=1) + "\n")
    if table is not None:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, ["name", "pictures", *judge.columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows(_values(row) for row in rows)
        _write(table, buffer.getvalue())


def _markdown(rows: "list[Row]", judge: "Judge") -> str:
    lines = [_heading(judge), ["---"] + ["---:"] * len(judge.columns), *map(_cells, rows)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _plot(path: Path, rows: "list[Row]", judge: "Judge") -> None:
    from rcodsr.bench.scoring import COLUMNS
    from rcodsr.report.charts import Point, tradeoff_chart

    real = next(key for key in _REAL if key in judge.columns)
    points = [
        Point(row.name, row.scores["psnr"], row.scores[real], row.realism)  # type: ignore[arg-type]
        for row in rows
        if row.scores[real] is not None
    ]
    if not points:
        raise UsageError("--plot", f"no picture was fit for {COLUMNS[real]}", "use pictures of at least 192 pixels a side")
    tradeoff_chart(path, points, COLUMNS["psnr"][:-1], COLUMNS[real][:-1], COLUMNS[real].endswith("↓"))


def _check_place(path: Path | None) -> None:
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise OutputError(path, "cannot be written (no such folder, or it is one)", "choose another place")


def _write(path: Path, text: str) -> None:
    from rcodsr.images.io import write_atomic

    write_atomic(path, text.encode())
