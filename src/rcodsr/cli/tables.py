"""Tables of results: rows on standard output as they come, and files of CSV, Markdown and JSON."""

import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rcodsr.cli.streams import result_line

_IN_CELLS = {ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"}
"""Characters of a name that would end a cell or a row."""


def show_row(cells: Sequence[str], first: int) -> None:
    """One row on standard output: aligned on a terminal, where the first column has `first` characters, else tabs between."""
    if sys.stdout is not None and sys.stdout.isatty():
        name, *others = cells
        result_line(f"{name:{first}}" + "".join(f" {cell:>11}" for cell in others))
    else:
        result_line("\t".join(cell.translate(_IN_CELLS) for cell in cells))


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """A heading and rows; a cell that a row lacks stays empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def markdown_text(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A heading and rows, numbers to the right of the first column."""
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def json_text(values: Mapping[str, Any]) -> str:
    """One object, indented."""
    return json.dumps(values, indent=1) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; a pipe or a device as it is.

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
