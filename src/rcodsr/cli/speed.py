"""`rcodsr bench` without a sub-command: speed, compared with plain modules and with the machine's limits."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rcodsr.cli.parameters import Device, Number, Weights
from rcodsr.cli.streams import json_line, note
from rcodsr.cli.tables import csv_text, json_text, markdown_text, write_text
from rcodsr.errors import UsageError
from rcodsr.messages import size_text
from rcodsr.options import parse_realism

_COLUMNS = (
    "size",
    "batch",
    "tiles",
    "seconds",
    "plain",
    "speedup",
    "noise",
    "images/s",
    "x floor",
    "% matmul",
    "PSNR",
    "memory",
)


def speed(
    context: typer.Context,
    gpu: Annotated[bool, typer.Option("--gpu", help="Require an accelerator; exit with code 4 without one.")] = False,
    weights: Weights = "random:rcod-o:0",
    sizes: Annotated[str | None, typer.Option("--sizes", help="Sides of the enlarged pictures, separated by commas.")] = None,
    batch: Annotated[str | None, typer.Option("--batch", help="Batch sizes, separated by commas.")] = None,
    dtype: Number = "auto",
    device: Device = "auto",
    realism: Annotated[str, typer.Option("--realism", help="0 to 1, or a word.")] = "0.5",
    warmup: Annotated[int | None, typer.Option("--warmup", min=0, help="Untimed calls before the measurement.")] = None,
    runs: Annotated[int | None, typer.Option("--runs", min=1, help="Rounds of: ours, plain modules, ours again.")] = None,
    items: Annotated[
        str | None, typer.Option("--items", help="Optimisations to use: all, none, names or -NAME, separated by commas.")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Also measure torch.compile, which takes minutes to start.")
    ] = False,
    export_json: Annotated[Path | None, typer.Option("--export-json", help="Write everything to this file.")] = None,
    export_csv: Annotated[Path | None, typer.Option("--export-csv", help="Write the rows to this file.")] = None,
    export_markdown: Annotated[Path | None, typer.Option("--export-markdown", help="Write the table to this file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as the last line of standard output.")] = False,
) -> int:
    """Measure speed (without a command), measure picture quality, or make test sets."""
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return 0
    chosen = (*(_words(items) or ("all",) * compiled), *(("compile",) if compiled else ()))
    from rcodsr.images.io import require_writable

    for path in (export_json, export_csv, export_markdown):
        if path is not None:
            require_writable(path)
    level, sides, batches = parse_realism(realism), _numbers("--sizes", sizes), _numbers("--batch", batch)
    from rcodsr.bench.speed import SpeedRequest, measure_speed

    number: Any = dtype
    request = SpeedRequest(weights, sides, batches, device, number, level, warmup, runs, chosen or None, gpu)
    report = measure_speed(request, note)
    rows = [_cells(row) for row in report["results"]]
    if export_json is not None:
        write_text(export_json, json_text(report))
    if export_csv is not None:
        write_text(export_csv, csv_text(_COLUMNS, rows))
    if export_markdown is not None:
        write_text(export_markdown, markdown_text(_COLUMNS, [list(row.values()) for row in rows]))
    for_people = sys.stdout is not None and sys.stdout.isatty() and not json
    _show(report, rows, for_people)
    if not for_people:
        json_line(report)
    return 0 if all(row["passed"] for row in report["results"]) else 1


def _refuse_options(context: typer.Context) -> None:
    """Refuse options of `bench` itself before a sub-command, where they have no effect."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = "--compile" if name == "compiled" else f"--{name.replace('_', '-')}"
            command = f"bench {context.invoked_subcommand}"
            raise UsageError(
                option, f"belongs to `rcodsr bench`, not to `rcodsr {command}`", f"put options of {command} after it"
            )


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",")) if text else ()


def _numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    words = _words(text)
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UsageError(option, f"'{text}' is not a list of whole numbers", "write for example 512,2048")
    return tuple(map(int, words)) or None


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """A row of the table. A path that failed its check has no speed."""
    shown = {"size": f"{row['size']}", "batch": f"{row['batch']}", "tiles": f"{row['tiles']}", "PSNR": f"{row['psnr']:.1f} dB"}
    if row["passed"]:
        peak = row["peak_bytes"]["ours"]
        shown |= {
            "seconds": f"{row['ours']['median']:.4g}",
            "plain": f"{row['plain']['median']:.4g}",
            "speedup": f"{row['speedup']:.2f}",
            "noise": f"{row['noise']:.1%}",
            "images/s": f"{row['images_per_second']:.3g}",
            "x floor": f"{row['times_floor']:.2f}",
            "% matmul": f"{row['share_of_matmul']:.0%}",
            "memory": size_text(peak.get("reserved", peak.get("resident", 0))),
        }
    return {name: shown.get(name, "-") for name in _COLUMNS}


def _show(report: dict[str, Any], rows: list[dict[str, str]], for_people: bool) -> None:
    """Print the table and the machine's limits, on standard output for people, otherwise on standard error."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=not for_people, highlight=False, markup=False, soft_wrap=True)
    table = Table(title=f"{report['weights']}, {report['device']}, {report['dtype']}", show_header=False)
    for justify in ("left", *["right"] * len(rows)):
        table.add_column(justify=justify)  # type: ignore[arg-type]
    for name in _COLUMNS:
        table.add_row(name, *(row[name] for row in rows))
    console.print(table)
    for line in _lines(report):
        console.print(line)


def _lines(report: dict[str, Any]) -> list[str]:
    ceilings, trained = report["ceilings"], report["trainable_parameters"]
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in trained.items() if kind != "total")
    lines = [
        f"measured ceilings: matrix product {ceilings['matmul'] / 1e12:.3g} TFLOP/s, convolution {ceilings['conv'] / 1e12:.3g} "
        f"TFLOP/s, memory {ceilings['copy'] / 1e9:.3g} GB/s",
        f"trainable parameters: {trained['total']:,} ({kinds})",
    ]
    for row in report["results"]:
        if row.get("stages"):
            stages = ", ".join(f"{name} {seconds:.4g}" for name, seconds in row["stages"].items())
            lines.append(f"stages at {row['size']}, batch {row['batch']}, in seconds, one after another: {stages}")
    published = ", ".join(f"{name} {seconds:g} s" for name, seconds in report["published"]["seconds"].items())
    return [*lines, f"the paper's own figures for 512x512 on an A100, not measured here: {published}"]
