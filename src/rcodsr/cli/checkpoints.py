"""`rcodsr compare RUN`: the checkpoints of a training run side by side."""

from pathlib import Path

from rcodsr.cli.streams import note, result_line
from rcodsr.cli.tables import show_table


def compare_checkpoints(run: Path, output: Path | None) -> None:
    """Print what validation has measured of each checkpoint; or write it with its pictures, as a page or a sheet.

    Args:
        run: the run's directory.
        output: PAGE.html or SHEET.png; None prints the table.

    Raises:
        InputError: when the run has no validation, or a sheet is asked for and none is left.
    """
    from rcodsr.errors import InputError
    from rcodsr.images.io import make_directory, read, write_atomic
    from rcodsr.images.picture import to_pil
    from rcodsr.report.checkpoints import as_page, chosen, side_by_side
    from rcodsr.report.encoding import png
    from rcodsr.training.history import alike, looks, table

    seen = looks(run)
    columns, rows = table(seen)
    if output is None:
        show_table([columns, *rows])
        return
    pictured = [(look.step, look.sheet) for look in alike(seen)]
    pictured = [pictured[i] for i in chosen(len(pictured))]
    page = output.suffix.lower() != ".png"
    if not pictured and not page:
        raise InputError(run / "validation", "holds no pictures", "write a page, which has the table alone")
    sheets = [to_pil(read(path)) for _, path in pictured]
    made = side_by_side([step for step, _ in pictured], sheets) if pictured else None
    if len(pictured) < len(seen):
        note(f"pictures of {len(pictured)} of {len(seen)} validations")
    make_directory(output.parent)
    write_atomic(output, as_page(str(run), columns, rows, made) if page or made is None else png(made))
    result_line(str(output))
