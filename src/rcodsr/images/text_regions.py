"""Find text in a picture: letters are marks of one ink on one ground, with sharp edges, arranged in lines.

A light classical detector for input resolution, made of known steps: local thresholds (Bernsen 1986), connected components,
and lines of neighbours of similar height and ink (as after the stroke width transform; Epshtein et al. 2010). It finds printed,
nearly horizontal text from about five pixels in height. Railings, windows and foliage against the sky can look like text.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_LOOKS = ((2, 9), (2, 17), (1, 17))
"""Enlargement of the picture and window side of the threshold, for: letters in narrow boxes, small letters, large letters."""
_CONTRAST = 0.2
"""Range of values in a window below which it contains no ink."""
_HEIGHTS = (5, 60)
"""Height of a letter or a word, in pixels of the enlarged picture."""
_STRICT = {"contrast": 0.13, "ink": 0.5, "ground": 0.37, "edge": 0.6, "fill": 0.3}
_LOOSE = {"contrast": 0.1, "ink": 0.65, "ground": 0.6, "edge": 0.5, "fill": 0.2}
"""Bounds for letters, strict ones alone, loose ones beside others: least contrast, edge, fill; most spread of ink, ground."""
_SHARPEST = 1.05
"""Edges steeper than this are noise."""


def find_text(rgb: Tensor) -> Tensor:
    """Find regions that look like text, with a margin of most of a letter.

    Args:
        rgb: shape (3, h, w) in [0, 1].

    Returns:
        Shape (h, w), bool, on the CPU.
    """
    luma = torch.einsum("c,chw->hw", torch.tensor([0.299, 0.587, 0.114]), rgb.float().cpu())
    found = np.zeros(luma.shape, bool)
    for scale, window in _LOOKS:
        plane = luma[None, None]
        if scale > 1:
            plane = F.interpolate(plane, scale_factor=scale, mode="bicubic").clamp_(0, 1)
        high, low = _largest(plane, window), -_largest(-plane, window)
        lively, middle = high - low > _CONTRAST, (high + low) / 2
        grey = plane[0, 0].numpy()
        for ink in (plane < middle, plane > middle):
            marks = _marks(grey, (ink & lively)[0, 0].numpy())
            for box in _lines(marks):
                left, top, right, bottom = (side / scale for side in box)
                found[max(0, int(top)) : int(np.ceil(bottom)), max(0, int(left)) : int(np.ceil(right))] = True
    return torch.from_numpy(found)


@dataclass(frozen=True)
class _Marks:
    """Connected marks, with one entry per mark in every field."""

    left: Integers
    top: Integers
    right: Integers
    bottom: Integers
    level: Floats
    """Mean value of the ink."""
    contrast: Floats
    """Difference between the means of the ink and of the ground beside it."""
    traits: dict[str, Floats]
    """Values compared with `_STRICT` and `_LOOSE`."""

    def __len__(self) -> int:
        return len(self.left)

    @property
    def height(self) -> Integers:
        """Height of each mark."""
        return self.bottom - self.top

    def chosen(self, which: NDArray[np.bool_]) -> "_Marks":
        """A selection of the marks."""
        left, top, right, bottom = (side[which] for side in (self.left, self.top, self.right, self.bottom))
        traits = {name: trait[which] for name, trait in self.traits.items()}
        return _Marks(left, top, right, bottom, self.level[which], self.contrast[which], traits)

    def like_letters(self, bounds: dict[str, float]) -> NDArray[np.bool_]:
        """Whether each mark looks like a letter."""
        good = self.traits["edge"] < _SHARPEST
        for name, bound in bounds.items():
            good &= self.traits[name] <= bound if name in {"ink", "ground"} else self.traits[name] >= bound
        return good


def _largest(plane: Tensor, window: int) -> Tensor:
    reach = window // 2
    return F.max_pool2d(F.max_pool2d(plane, (window, 1), 1, (reach, 0)), (1, window), 1, (0, reach))


def _marks(grey: NDArray[np.float32], ink: NDArray[np.bool_]) -> _Marks:
    """Connected components of the ink (8-connected) with traits of letters, computed from horizontal runs."""
    height, width = grey.shape
    # an empty column on each side: runs end with their row, and have ground on both sides
    ink = np.pad(ink, ((0, 0), (1, 1)))
    grey = np.pad(grey, ((0, 0), (1, 1)), mode="edge")
    steps = np.diff(ink.ravel().astype(np.int8))
    starts, ends = np.flatnonzero(steps == 1) + 1, np.flatnonzero(steps == -1) + 1
    label, count = _joined(starts, ends, width + 2)
    rows, first, last = starts // (width + 2), starts % (width + 2) - 1, ends - starts + starts % (width + 2) - 1
    flat = grey.ravel().astype(np.float64)
    sums, squares = (np.concatenate(([0.0], np.cumsum(values))) for values in (flat, flat * flat))

    def total(values: Floats) -> Floats:
        return np.bincount(label, values, count).astype(np.float64)

    def extreme(values: Integers, largest: bool) -> Integers:
        out = np.full(count, -1 if largest else max(height, width) + 2)
        (np.maximum if largest else np.minimum).at(out, label, values)
        return out

    area, runs = total((ends - starts).astype(float)), total(np.ones(len(starts)))
    level, spread = _moments(total(sums[ends] - sums[starts]), total(squares[ends] - squares[starts]), area)
    before, after = flat[starts - 1], flat[ends]
    ground, unrest = _moments(total(before + after), total(before**2 + after**2), 2 * runs)
    slope = total(np.abs(flat[starts] - before) + np.abs(flat[ends - 1] - after)) / np.maximum(2 * runs, 1)
    left, right, top, bottom = extreme(first, False), extreme(last, True), extreme(rows, False), extreme(rows, True) + 1
    contrast = np.abs(level - ground)
    floor = np.maximum(contrast, 0.01)
    fill = area / np.maximum(1, (right - left) * (bottom - top))
    traits = {"contrast": contrast, "ink": spread / floor, "ground": unrest / floor, "edge": slope / floor, "fill": fill}
    marks = _Marks(left, top, right, bottom, level, contrast, traits)
    tall = (marks.height >= _HEIGHTS[0]) & (marks.height <= _HEIGHTS[1])
    wide = (right - left >= 2) & (right - left <= 14 * marks.height)
    return marks.chosen(tall & wide)


def _moments(total: Floats, squares: Floats, count: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation from sums."""
    mean = total / np.maximum(count, 1)
    return mean, np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean * mean, 0))


def _joined(starts: Integers, ends: Integers, width: int) -> tuple[Integers, int]:
    """Component of each run, and number of components.

    Every run takes the smallest label among those it touches, and labels point to labels (Shiloach and Vishkin 1982).

    Args:
        starts: first positions of the runs in the flattened picture, ascending.
        ends: first positions behind the runs.
        width: row length. No run crosses the end of a row.
    """
    # touching runs of the next row end behind this start and begin before this end, corners included
    low = np.searchsorted(ends, starts + width - 1, "right")
    low = np.where(ends[np.minimum(low, len(ends) - 1)] < starts + width, low + 1, low) if len(ends) else low
    high = np.searchsorted(starts, ends + width, "right")
    reach = np.maximum(0, high - low)
    above = np.repeat(np.arange(len(starts)), reach)
    below = np.arange(reach.sum()) - np.repeat(np.cumsum(reach) - reach, reach) + np.repeat(low, reach)
    name = np.arange(len(starts))
    while (differs := name[above] != name[below]).any():
        above, below = above[differs], below[differs]
        one, other = name[above], name[below]
        np.minimum.at(name, np.maximum(one, other), np.minimum(one, other))
        while (further := name[name]).tobytes() != name.tobytes():
            name = further
    found, label = np.unique(name, return_inverse=True)
    return label, len(found)


def _lines(marks: _Marks) -> list[tuple[float, float, float, float]]:
    """Boxes (left, top, right, bottom) around lines of letters, with a margin."""
    marks = marks.chosen(marks.like_letters(_LOOSE))
    if not len(marks):
        return []
    strict = marks.like_letters(_STRICT)
    pairs = _neighbours(marks)
    line = np.arange(len(marks))
    for a, b in pairs:
        line[line == line[b]] = line[a]
    boxes = []
    for name in np.unique(line):
        members = np.flatnonzero(line == name)
        if strict[members].sum() < 3 and not (strict[members].any() and len(members) >= 4):
            continue
        margin = 0.8 * float(np.median(marks.height[members]))
        boxes += [_around(marks, [int(i)], margin) for i in members]
        boxes += [_around(marks, [a, b], 0.6 * margin) for a, b in pairs if line[a] == name]
    return boxes


def _around(marks: _Marks, members: list[int], margin: float) -> tuple[float, float, float, float]:
    return (
        float(marks.left[members].min()) - margin,
        float(marks.top[members].min()) - margin,
        float(marks.right[members].max()) + margin,
        float(marks.bottom[members].max()) + margin,
    )


def _neighbours(marks: _Marks) -> list[tuple[int, int]]:
    """Pairs of marks that may belong to one line: side by side, with similar height and ink."""
    order = np.argsort(marks.left)
    middle = (marks.top + marks.bottom) / 2
    pairs = []
    lefts = marks.left[order]
    for place, i in enumerate(order):
        reach = np.searchsorted(lefts, marks.right[i] + 1.2 * 2.2 * marks.height[i], "right")
        others = order[place + 1 : reach]
        taller, smaller = (pick(marks.height[i], marks.height[others]) for pick in (np.maximum, np.minimum))
        near = marks.left[others] - marks.right[i] < 1.2 * taller
        level = np.abs(middle[others] - middle[i]) < 0.45 * taller
        ink = np.abs(marks.level[others] - marks.level[i]) < 0.5 * np.maximum(marks.contrast[i], marks.contrast[others])
        pairs += [(int(i), int(j)) for j in others[near & level & ink & (taller < 2.2 * smaller)]]
    return pairs
