"""Data of a comparison for the sheet and the page: one picture at several realism levels, and where they differ most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rcodsr.engine.estimation import Estimated
from rcodsr.engine.evidence import departure
from rcodsr.engine.upscaler import Upscaled, Upscaler
from rcodsr.images.departures import painted
from rcodsr.images.picture import Picture, to_pil
from rcodsr.images.resize import upsample
from rcodsr.options import Level, UpscaleOptions

Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels of the enlarged picture."""
Score = Callable[[Tensor, Tensor], Mapping[str, float]]
"""Picture, ground truth → scores by heading; PSNR in dB."""


@dataclass(frozen=True)
class Panel:
    """One version of the picture in a comparison; all versions have the same size."""

    label: str
    image: Image.Image
    realism: float | None = None
    timestep: int | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    """Scores against the ground truth, by heading; empty without one."""
    invented: Image.Image | None = None
    """Map of a level's departure from realism 0, in the colours of `images.departures`."""
    evidence: str = ""
    """Text for a level: the mean of the map, and the consistency with the input."""


@dataclass(frozen=True)
class Comparison:
    """Several enlargements of one picture."""

    name: str
    """Name of the input, as written by the user."""
    weights: str
    before: Panel
    """Plain bicubic enlargement."""
    levels: tuple[Panel, ...]
    """Levels by rising realism."""
    truth: Panel | None
    estimated: Estimated | None
    spots: tuple[Box, ...]
    """Regions where the levels differ most."""
    remark: str = ""

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Every picture, from bicubic to ground truth."""
        return (self.before, *self.levels, *(() if self.truth is None else (self.truth,)))

    @property
    def headings(self) -> tuple[str, ...]:
        """Headings of the available scores."""
        return tuple(dict.fromkeys(heading for panel in self.panels for heading in panel.scores))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of every picture."""
        return self.before.image.size

    def with_remark(self, remark: str) -> Comparison:
        """Return a copy with another remark."""
        return replace(self, remark=remark)


def compare(
    upscaler: Upscaler,
    picture: Picture,
    name: str,
    levels: Sequence[float],
    truth: Picture | None = None,
    score: Score | None = None,
) -> Comparison:
    """Enlarge a picture at each level; transparency is composited on white.

    Args:
        upscaler: with weights that have a knob.
        picture: the input.
        name: displayed name.
        levels: realism values.
        truth: ground truth of the enlarged size, or None.
        score: scores a picture against the truth, or None.

    Raises:
        RcodsrError: as in `Upscaler.run`.
    """
    picture = picture.laid_on()
    scale = upscaler.model.spec.scale
    enlarged = upsample(picture.rgb[None], scale)
    height, width = enlarged.shape[2:]
    true = None if truth is None else truth.laid_on().rgb

    def panel(label: str, rgb: Tensor, realism: float | None = None, timestep: int | None = None) -> Panel:
        shown = Panel(label, to_pil(Picture(rgb, gray=picture.gray)), realism, timestep)
        if true is None or score is None or rgb is true or min(width, height) < 11:
            return shown
        return replace(shown, scores=score(rgb, true))

    made = [upscaler.run(picture, UpscaleOptions(Level(level), scale=scale)) for level in sorted({0.0, *levels})]
    evidence, made = made[0], [one for one in made if one.realism in levels]

    def level_panel(one: Upscaled) -> Panel:
        shown = panel(f"realism {one.realism:g}", one.picture.rgb, one.realism, one.timestep)
        steps = departure(one.picture.rgb, evidence.picture.rgb).numpy()
        figures = f"mean {steps.mean():.2f} steps, consistency {one.consistency:.1f} dB"
        return replace(shown, invented=painted(steps), evidence=figures)

    pixels = [one.picture.rgb for one in made]
    against = pixels if len(pixels) > 1 else [*pixels, enlarged[0]]
    return Comparison(
        name=name,
        weights=upscaler.weights_id,
        before=panel("input, bicubic", enlarged[0]),
        levels=tuple(level_panel(one) for one in made),
        truth=None if true is None else panel("ground truth", true),
        estimated=None if upscaler.model.metric_estimator is None else upscaler.judge(picture.rgb),
        spots=differing_spots(against, side=max(1, min(96, width, height)), count=3),
    )


def said_of(estimated: Estimated) -> str:
    """Format an estimate of the degradation as text."""
    chosen = f"realism {estimated.realism:.2g} ({estimated.level})"
    return f"estimated M_L {estimated.similarity:.3f}: --adaptive would choose {chosen}"


def written(heading: str, value: float) -> str:
    """Format a score without its heading."""
    return f"{value:.2f} dB" if heading == "PSNR" else f"{value:.3f}"


def differing_spots(pictures: Sequence[Tensor], side: int, count: int) -> tuple[Box, ...]:
    """Find the squares where pictures differ most, in falling order; without overlap, and fewer if few places differ.

    Args:
        pictures: each of shape (3, H, W) in [0, 1], sides of at least `side`.
        side: side of the squares, in pixels.
        count: maximum number of squares.
    """
    stack = torch.stack(list(pictures))
    spread = (stack.amax(0) - stack.amin(0)).mean(0)
    sums = F.avg_pool2d(spread[None, None], side, stride=1)[0, 0].clone()
    found: list[Box] = []
    while len(found) < count and float(sums.max()) > 1e-4:
        top, left = divmod(int(sums.argmax()), sums.shape[1])
        found.append((left, top, side, side))
        sums[max(0, top - side + 1) : top + side, max(0, left - side + 1) : left + side] = 0
    return tuple(found)


def region_of(picture: Picture, left: int, top: int, width: int, height: int) -> Picture:
    """Crop a picture and drop its metadata."""
    rows, columns = slice(top, top + height), slice(left, left + width)
    alpha = None if picture.alpha is None else picture.alpha[:, rows, columns]
    return Picture(picture.rgb[:, rows, columns], alpha, picture.gray, picture.neutral)
