"""Small charts as PNG, drawn with Pillow: a plotting library would be the heaviest thing this package needs."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SIZE, _MARGIN = 480, 56
_INK, _FAINT, _BAR, _BORDER = "#222222", "#dddddd", "#4a7fb5", "#c0392b"


def similarity_chart(estimated: Sequence[float], true: Sequence[float] | None, borders: Sequence[float]) -> bytes:
    """Histogram of M_L with the groups' borders (the paper's Fig. S4b); with the truth, predicted against true beside it.

    Args:
        estimated: M̂_L of each picture.
        true: M_L of each picture, or None.
        borders: where groups change.

    Returns:
        A PNG file.
    """
    panels = [_histogram(estimated, borders)]
    if true is not None:
        panels.append(_scatter(estimated, true, borders))
    sheet = Image.new("RGB", (_SIZE * len(panels), _SIZE), "white")
    for i, panel in enumerate(panels):
        sheet.paste(panel, (i * _SIZE, 0))
    return _png(sheet)


@dataclass(frozen=True)
class Point:
    """One method of a trade-off."""

    name: str
    fidelity: float
    realism_score: float
    realism: float | None = None
    """The level it was made at; points that have one are joined in their order."""


def tradeoff_chart(points: Sequence[Point], fidelity: str, score: str, low_is_real: bool) -> bytes:
    """Fidelity to the right, realism upwards: the curve of the realism levels, and other methods beside it.

    Args:
        points: at least one.
        fidelity: name of what is measured across; higher is better.
        score: name of what is measured upwards.
        low_is_real: whether a lower score means more realism; the axis then runs downwards.

    Returns:
        A PNG file.
    """
    left, right = _range([point.fidelity for point in points])
    bottom, top = _range([point.realism_score for point in points])
    if low_is_real:
        bottom, top = top, bottom
    axes = _Axes(left, right, bottom, top, f"{fidelity}, more faithful to the right", f"{score}, more real upwards")
    levels = sorted((point for point in points if point.realism is not None), key=lambda point: point.realism or 0.0)
    if len(levels) > 1:
        axes.draw.line([axes.at(point.fidelity, point.realism_score) for point in levels], _BAR, 2)
    for point in points:
        x, y = axes.at(point.fidelity, point.realism_score)
        axes.draw.ellipse((x - 4, y - 4, x + 4, y + 4), _BAR if point.realism is not None else _BORDER)
        beyond = x > _SIZE / 2
        axes.draw.text((x - 7 if beyond else x + 7, y), point.name, _INK, axes.font, anchor="rm" if beyond else "lm")
    return _png(axes.image)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class _Axes:
    """A square plot: values of [low, high] across, [0, top] or the same range upwards."""

    def __init__(self, low: float, high: float, bottom: float, top: float, across: str, upwards: str) -> None:
        self.image = Image.new("RGB", (_SIZE, _SIZE), "white")
        self.draw = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(14)
        self.low, self.high, self.bottom, self.top = low, high, bottom, top
        edge = _SIZE - _MARGIN
        for value in np.linspace(low, high, 6):
            x, _ = self.at(value, bottom)
            self.draw.line((x, _MARGIN, x, edge), _FAINT)
            self.draw.text((x, edge + 6), f"{value:.2f}", _INK, self.font, anchor="mt")
        for value in np.linspace(bottom, top, 5):
            _, y = self.at(low, value)
            self.draw.text((_MARGIN - 6, y), f"{value:.3g}", _INK, self.font, anchor="rm")
        self.draw.rectangle((_MARGIN, _MARGIN, edge, edge), outline=_INK)
        self.draw.text((_SIZE / 2, _SIZE - 8), across, _INK, self.font, anchor="mb")
        self.draw.text((_SIZE / 2, 10), upwards, _INK, self.font, anchor="mt")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixel of a point."""
        side = _SIZE - 2 * _MARGIN
        across = (x - self.low) / (self.high - self.low)
        up = (y - self.bottom) / (self.top - self.bottom)
        return _MARGIN + side * across, _SIZE - _MARGIN - side * up


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = max(0.02, 0.05 * (high - low))
    return low - room, high + room


def _histogram(values: Sequence[float], borders: Sequence[float]) -> Image.Image:
    low, high = _range([*values, *borders])
    counts, edges = np.histogram(values, bins=30, range=(low, high))
    axes = _Axes(
        low, high, 0, max(1, int(counts.max())), "estimated M_L", f"{len(values)} pictures, borders of the groups in red"
    )
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        if count:
            axes.draw.rectangle((*axes.at(left, count), *axes.at(right, 0)), _BAR, "white")
    for border in borders:
        axes.draw.line((*axes.at(border, 0), *axes.at(border, axes.top)), _BORDER, 2)
    return axes.image


def _scatter(estimated: Sequence[float], true: Sequence[float], borders: Sequence[float]) -> Image.Image:
    low, high = _range([*estimated, *true])
    axes = _Axes(low, high, low, high, "true M_L", "estimated M_L upwards")
    axes.draw.line((*axes.at(low, low), *axes.at(high, high)), _INK)
    for border in borders:
        if low < border < high:
            axes.draw.line((*axes.at(border, low), *axes.at(border, high)), _BORDER)
            axes.draw.line((*axes.at(low, border), *axes.at(high, border)), _BORDER)
    for x, y in zip(true, estimated, strict=True):
        a, b = axes.at(x, y)
        axes.draw.ellipse((a - 2, b - 2, a + 2, b + 2), _BAR)
    return axes.image
