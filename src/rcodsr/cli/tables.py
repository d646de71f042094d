"""Tables of results: rows on standard output as they arrive, and files in CSV, Markdown and JSON."""

import csv
import io
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rcodsr.cli.streams import result_line

_IN_CELLS = {ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"}
"""Characters in a name that would end a cell or a row."""


_LEAST = 12
"""Minimum columns for a name or a wrapped text."""


def terminal_width() -> int | None:
    """Width of the terminal on standard output in columns. None if it is not a terminal."""
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if on_terminal else None


def show_row(cells: Sequence[str], first: int) -> None:
    """Print one row: aligned on a terminal, with a first column of at most `first` characters, otherwise tab-separated.

    A long name keeps its end. On a narrow terminal it gets its own line.
    """
    width = terminal_width()
    if width is not None:
        result_line(aligned(cells, first, width))
    else:
        result_line("\t".join(cell.translate(_IN_CELLS) for cell in cells))


def show_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows that are all known: in columns as wide as their widest cell on a terminal, otherwise tab-separated."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    on_terminal = terminal_width() is not None
    for row in rows:
        result_line("  ".join(map(str.rjust, row, widths)) if on_terminal else "\t".join(row))


def aligned(cells: Sequence[str], first: int, width: int) -> str:
    """A row of `width` columns: the first cell at most `first` wide, the others eleven each."""
    name, *others = cells
    rest = "".join(f" {cell:>11}" for cell in others)
    first = min(first, width - len(rest))
    if first < _LEAST:
        return f"{name}\n{rest}"
    return (name if len(name) <= first else f"…{name[1 - first :]}").ljust(first) + rest


def hanging(name: str, text: str, column: int, width: int) -> str:
    """A name, followed from `column` on by a text wrapped to the width."""
    start = f"{name:<{column - 1}} "
    return textwrap.fill(
        text, max(width, column + _LEAST), initial_indent=start, subsequent_indent=" " * column, break_on_hyphens=False
    )


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """A heading and rows. Missing cells are empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def markdown_text(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A heading and rows, with numbers right-aligned after the first column."""
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def json_text(values: Mapping[str, Any]) -> str:
    """One indented object."""
    return json.dumps(values, indent=1) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a file atomically. A pipe or a device is written directly.

    Raises:
        OutputError: when it cannot be written.
    """
    from rcodsr.images.io import output_error, write_atomic

    data = text.encode("utf-8", "surrogateescape")  # names that are not UTF-8 keep their bytes
    if path.is_file() or not path.exists():
        write_atomic(path, data)
        return
    try:
        path.write_bytes(data)
    except OSError as error:
        raise output_error(path, error) from error
