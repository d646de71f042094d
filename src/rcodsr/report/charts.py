"""Small charts as PNG, drawn with Pillow: a plotting library would be this package's largest dependency."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SIZE, _MARGIN, _TEXT = 800, 92, 22
_INK, _FAINT, _BAR, _BORDER = "#222222", "#dddddd", "#4a7fb5", "#c0392b"


def similarity_chart(
    estimated: Sequence[float], true: Sequence[float] | None, borders: Sequence[float], groups: Sequence[str] = ()
) -> bytes:
    """Draw a histogram of M_L with the groups' borders (the paper's Fig. S4b); with `true`, also predicted against true.

    Args:
        estimated: M̂_L of each picture.
        true: M_L of each picture, or None.
        borders: values of M_L at which groups change, ascending.
        groups: names of the groups, one more than borders.

    Returns:
        A PNG file.
    """
    panels = [_histogram(estimated, borders, groups)]
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
    """Realism level; points that have one are joined in this order."""


def tradeoff_chart(points: Sequence[Point], fidelity: str, score: str, low_is_real: bool) -> bytes:
    """Draw fidelity to the right and realism upwards: the curve of realism levels, with other methods beside it.

    Args:
        points: at least one.
        fidelity: name of the horizontal metric; higher is better.
        score: name of the vertical metric.
        low_is_real: whether a lower score means more realism; inverts the vertical axis.

    Returns:
        A PNG file.
    """
    left, right = _range([point.fidelity for point in points])
    bottom, top = _range([point.realism_score for point in points])
    if low_is_real:
        bottom, top = top, bottom
    axes = _Axes((left, right), (bottom, top), f"{fidelity}, more faithful to the right", f"{score}, more real upwards")
    levels = sorted((point for point in points if point.realism is not None), key=lambda point: point.realism or 0.0)
    if len(levels) > 1:
        axes.draw.line([axes.at(point.fidelity, point.realism_score) for point in levels], _BAR, 3)
    for point in points:
        x, y = axes.at(point.fidelity, point.realism_score)
        axes.draw.ellipse((x - 6, y - 6, x + 6, y + 6), _BAR if point.realism is not None else _BORDER)
        beyond = x > _SIZE / 2
        axes.draw.text((x - 11 if beyond else x + 11, y), point.name, _INK, axes.font, anchor="rm" if beyond else "lm")
    return _png(axes.image)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def ticks(low: float, high: float, most: int = 7, whole: bool = False) -> list[tuple[float, str]]:
    """Round numbers between two ends with their labels; steps are 1, 2 or 5 times a power of ten.

    Args:
        low: lower end.
        high: upper end, above `low`.
        most: maximum number of ticks.
        whole: restrict ticks to whole numbers.
    """
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(
        factor * power
        for factor in (1, 2, 5, 10, 20, 50)
        if math.floor(high / (factor * power)) - math.ceil(low / (factor * power)) < most
    )
    step = max(1.0, step) if whole else step
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [(number * step, f"{number * step:.{decimals}f}") for number in numbers]


class _Axes:
    """A square plot.

    Args:
        across: values at the left and right end.
        upwards: values at the bottom and top; may be descending.
        below: label below the plot.
        above: label above the plot.
        whole: whether the vertical values are counts.
    """

    def __init__(
        self, across: tuple[float, float], upwards: tuple[float, float], below: str, above: str, whole: bool = False
    ) -> None:
        self.image = Image.new("RGB", (_SIZE, _SIZE), "white")
        self.draw = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(_TEXT)
        self.across, self.upwards = across, upwards
        edge = _SIZE - _MARGIN
        for value, text in ticks(*across):
            x, _ = self.at(value, upwards[0])
            self.draw.line((x, _MARGIN, x, edge), _FAINT)
            self.draw.text((x, edge + 8), text, _INK, self.font, anchor="mt")
        for value, text in ticks(min(upwards), max(upwards), 6, whole):
            _, y = self.at(across[0], value)
            self.draw.line((_MARGIN, y, edge, y), _FAINT)
            self.draw.text((_MARGIN - 8, y), text, _INK, self.font, anchor="rm")
        self.draw.rectangle((_MARGIN, _MARGIN, edge, edge), outline=_INK)
        self.draw.text((_SIZE / 2, _SIZE - 14), below, _INK, self.font, anchor="mb")
        self.draw.text((_SIZE / 2, 16), above, _INK, self.font, anchor="mt")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixel position of a point."""
        side = _SIZE - 2 * _MARGIN
        across = (x - self.across[0]) / (self.across[1] - self.across[0])
        up = (y - self.upwards[0]) / (self.upwards[1] - self.upwards[0])
        return _MARGIN + side * across, _SIZE - _MARGIN - side * up


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = max(0.02, 0.05 * (high - low))
    return low - room, high + room


def _histogram(values: Sequence[float], borders: Sequence[float], groups: Sequence[str]) -> Image.Image:
    low, high = _range([*values, *borders])
    counts, edges = np.histogram(values, bins=30, range=(low, high))
    top = 1.1 * max(1, int(counts.max()))  # room for the names of groups
    axes = _Axes(
        (low, high), (0, top), "estimated M_L", f"{len(values)} pictures; in red the groups, by their timesteps", whole=True
    )
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        if count:
            axes.draw.rectangle((*axes.at(left, count), *axes.at(right, 0)), _BAR, "white")
    for border in borders:
        axes.draw.line((*axes.at(border, 0), *axes.at(border, top)), _BORDER, 3)
    for name, left, right in zip(groups, [low, *borders], [*borders, high], strict=False):
        x, y = axes.at((left + right) / 2, top)
        axes.draw.text((x, y + 6), name, _BORDER, axes.font, anchor="mt")
    return axes.image


def _scatter(estimated: Sequence[float], true: Sequence[float], borders: Sequence[float]) -> Image.Image:
    low, high = _range([*estimated, *true])
    axes = _Axes((low, high), (low, high), "true M_L", "estimated M_L upwards")
    axes.draw.line((*axes.at(low, low), *axes.at(high, high)), _INK)
    for border in borders:
        if low < border < high:
            axes.draw.line((*axes.at(border, low), *axes.at(border, high)), _BORDER)
            axes.draw.line((*axes.at(low, border), *axes.at(high, border)), _BORDER)
    for x, y in zip(true, estimated, strict=True):
        a, b = axes.at(x, y)
        axes.draw.ellipse((a - 3, b - 3, a + 3, b + 3), _BAR)
    return axes.image
