"""A comparison as one PNG: all versions of the picture in a row, with crops of the regions that differ most below."""

from PIL import Image, ImageDraw, ImageFont

from rcodsr.images.departures import legend
from rcodsr.report.comparison import Box, Comparison, Panel, said_of, written
from rcodsr.report.encoding import png

_CELL, _GAP, _LINE = 288, 12, 20
_PAPER, _INK, _FAINT = "#ffffff", "#1c1e21", "#5c636b"
_MARKS = ("#d1345b", "#1b6fc2", "#2f8f4e")
"""Colours of the spots, in the overview and around the crops."""


def contact_sheet(comparison: Comparison) -> bytes:
    """Render a comparison as a PNG file: one column per picture, with its label, scores and zoomed crops."""
    panels = comparison.panels
    width, height = comparison.size
    scale = min(1.0, _CELL / max(width, height)) if max(width, height) > _CELL else max(1, _CELL // max(width, height))
    shown = max(1, round(width * scale)), max(1, round(height * scale))
    title = [comparison.name, f"{width} x {height}, {comparison.weights}"]
    title += [said_of(comparison.estimated)] if comparison.estimated is not None else []
    title += [comparison.remark] if comparison.remark else []
    top = _GAP + _LINE * len(title) + _GAP
    overview_top = top + _LINE * (1 + max(len(_details(panel)) for panel in panels))
    maps_top = overview_top + shown[1] + _GAP
    rows = maps_top + (_LINE + shown[1] + _GAP) * any(panel.invented for panel in panels)
    sheet = Image.new("RGB", (_GAP + (_CELL + _GAP) * len(panels), rows + (_CELL + _GAP) * len(comparison.spots)), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, line in enumerate(title):
        draw.text((_GAP, _GAP + i * _LINE), _fitting(line, font, sheet.width - 2 * _GAP), _FAINT if i else _INK, font)
    for i, panel in enumerate(panels):
        left = _GAP + i * (_CELL + _GAP)
        draw.text((left, top), panel.label, _INK, font)
        for n, line in enumerate(_details(panel)):
            draw.text((left, top + (1 + n) * _LINE), line, _FAINT, font)
        overview = panel.image.convert("RGB").resize(shown, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
        sheet.paste(overview, (left, overview_top))
        if panel.invented is not None:
            draw.text((left, maps_top), panel.evidence, _FAINT, font)
            sheet.paste(panel.invented.convert("RGB").resize(shown, Image.Resampling.BOX), (left, maps_top + _LINE))
        for n, spot in enumerate(comparison.spots):
            _outline(draw, left, overview_top, spot, scale, _MARKS[n])
            at = left, rows + n * (_CELL + _GAP)
            sheet.paste(_zoomed(panel, spot), at)
            draw.rectangle((at[0], at[1], at[0] + _CELL - 1, at[1] + _CELL - 1), outline=_MARKS[n], width=2)
    if rows > maps_top:
        for n, line in enumerate(("How far each level departs", "from realism 0, in 8-bit steps:")):
            draw.text((_GAP, maps_top + n * _LINE), line, _INK if n == 0 else _FAINT, font)
        sheet.paste(legend(_CELL), (_GAP, maps_top + 2 * _LINE + 4))
    return png(sheet)


def _details(panel: Panel) -> list[str]:
    """Lines below the label: the timestep and the scores, two scores per line; at least one line."""
    worded = [
        written("PSNR", value) if heading == "PSNR" else f"{heading} {written(heading, value)}"
        for heading, value in panel.scores.items()
    ]
    first = ([] if panel.timestep is None else [f"t {panel.timestep}"]) + worded[:2]
    return [", ".join(first), *(", ".join(worded[i : i + 2]) for i in range(2, len(worded), 2))]


def _zoomed(panel: Panel, spot: Box) -> Image.Image:
    left, top, width, height = spot
    crop = panel.image.convert("RGB").crop((left, top, left + width, top + height))
    return crop.resize((_CELL, _CELL), Image.Resampling.NEAREST)


def _outline(draw: ImageDraw.ImageDraw, left: int, top: int, spot: Box, scale: float, color: str) -> None:
    x, y, width, height = (side * scale for side in spot)
    draw.rectangle((left + x, top + y, left + x + width - 1, top + y + height - 1), outline=color, width=2)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    """Shorten a text to the available width by omitting its middle."""
    keep = len(text)
    shown = text
    while keep > 8 and font.getlength(shown) > room:
        keep -= 2
        shown = f"{text[: keep // 2]}…{text[-(keep // 2) :]}"
    return shown
