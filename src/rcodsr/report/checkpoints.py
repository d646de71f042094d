"""Checkpoints of a run side by side: their validation pictures as a sheet, and a page with their scores."""

import html
import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from rcodsr.options import LEVELS
from rcodsr.report.encoding import data_uri

MOST = 8
"""Checkpoints whose pictures are shown: more would be too small to see."""
_CELL, _GAP, _LINE = 224, 6, 20
_PAPER, _INK, _FAINT = "#ffffff", "#1c1e21", "#5c636b"
_STYLE = """
:root { color-scheme: light dark; }
body { margin: 14px 16px; font: 15px/1.45 system-ui, sans-serif; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 12px 3px 0; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
div { overflow-x: auto; }
"""


def chosen(count: int) -> list[int]:
    """Which of so many checkpoints are shown: all, or the first, the last, and what lies evenly between."""
    if count <= MOST:
        return list(range(count))
    return [round(i * (count - 1) / (MOST - 1)) for i in range(MOST)]


def side_by_side(steps: Sequence[int], sheets: Sequence[Image.Image]) -> Image.Image:
    """The pictures of validations in columns: bicubic, one column per checkpoint, ground truth; one band per realism level.

    Args:
        steps: of each checkpoint.
        sheets: its validation sheet, whose columns are bicubic, the levels from fidelity to realism, ground truth.
    """
    columns = len(LEVELS) + 2
    side = sheets[0].width // columns
    height = max(1, round(sheets[0].height * _CELL / side))
    band = _LINE + height + _GAP
    heads = ["bicubic", *(f"step {step}" for step in steps), "ground truth"]
    made = Image.new("RGB", (_GAP + (_CELL + _GAP) * len(heads), _LINE + _GAP + band * len(LEVELS)), _PAPER)
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(15)
    for i, head in enumerate(heads):
        draw.text((_GAP + i * (_CELL + _GAP), 2), head, _INK, font)
    for row, level in enumerate(LEVELS):
        top = _LINE + _GAP + row * band
        draw.text((_GAP, top), level, _FAINT, font)
        shown = [(sheets[0], 0), *((sheet, row + 1) for sheet in sheets), (sheets[-1], columns - 1)]
        for i, (sheet, column) in enumerate(shown):
            part = sheet.convert("RGB").crop((column * side, 0, (column + 1) * side, sheets[0].height))
            reduced = part.resize((_CELL, height), Image.Resampling.LANCZOS)
            made.paste(reduced, (_GAP + i * (_CELL + _GAP), top + _LINE))
    return made


def as_page(name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], picture: Image.Image | None) -> bytes:
    """A self-contained HTML page: the table, and below it the pictures.

    Args:
        name: of the run.
        columns: of the table.
        rows: one for each checkpoint.
        picture: from `side_by_side`; None where there are no pictures.
    """
    head = "".join(f"<th scope=col>{html.escape(column)}" for column in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in row) for row in rows)
    shown = "" if picture is None else f'<div><img alt="validation pictures" src="{_uri(picture)}"></div>'
    title = html.escape(name)
    page = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}: its checkpoints</title>
<style>{_STYLE}</style>
<h1>{title}</h1>
<p>Scores at fidelity / neutral / realism. knob: root mean square between its ends, in 8-bit levels.</p>
<div><table><thead><tr>{head}</thead><tbody>
{body}
</tbody></table></div>
{shown}
</html>
"""
    return page.encode("utf-8", "replace")


def _uri(picture: Image.Image) -> str:
    kind = "webp" if max(picture.size) < 16_383 else "jpeg"
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=90)
    return data_uri(kind, buffer.getvalue())
