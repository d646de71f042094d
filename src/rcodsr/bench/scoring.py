"""Scores of whole sets: a folder of results, bicubic enlargement, or the engine at one realism level."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from rcodsr.bench.judges import Scorer, mean_scores
from rcodsr.bench.paper_metrics import METRICS, PaperMetrics
from rcodsr.bench.quality import eight_bit
from rcodsr.bench.sets import pairs
from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import InputError
from rcodsr.images import io
from rcodsr.images.picture import Picture
from rcodsr.images.resize import resize
from rcodsr.options import Level, UpscaleOptions

COLUMNS = {
    "psnr": "PSNR↑",
    "ssim": "SSIM↑",
    "lpips": "LPIPS↓",
    "dists": "DISTS↓",
    "niqe": "NIQE↓",
    "musiq": "MUSIQ↑",
    "maniqa": "MANIQA↑",
    "clipiqa": "CLIPIQA↑",
    "fid": "FID↓",
    "lpips_vgg": "LPIPS-VGG↓",
    "lpips_squeeze": "LPIPS-squeeze↓",
}
"""Keys and headings in the order of the paper's Table S2, whose LPIPS uses AlexNet; the last two are not in it."""


def named_scores(scorer: Scorer, result: Tensor, truth: Tensor) -> dict[str, float]:
    """Scores of a picture (3, H, W) in [0, 1] by the headings of `COLUMNS`, without arrows; only those that apply to it."""
    scores = asdict(scorer(Picture(result), Picture(truth)))
    return {heading[:-1]: scores[key] for key, heading in COLUMNS.items() if scores.get(key) is not None}


@dataclass(frozen=True)
class Row:
    """Mean scores of one set."""

    name: str
    pictures: int
    scores: dict[str, float | None]
    """Some of `COLUMNS`; None if it applies to no picture."""
    realism: float | None = None
    """Level of the set, which makes it a point of the curve."""


class Judge:
    """Scores whole sets against their ground truth.

    Args:
        truth: directory of ground truth.
        scorer: PSNR, SSIM and further judges.
        paper: the paper's other columns, or None; takes precedence over `scorer`.
    """

    def __init__(self, truth: Path, scorer: Scorer, paper: PaperMetrics | None = None) -> None:
        self.truth, self.scorer, self.paper = truth, scorer, paper
        present = scorer.columns | (set(METRICS) if paper is not None else set())
        self.columns = [key for key in COLUMNS if key in present]

    def folder(self, results: Path) -> Row:
        """Score finished pictures.

        Raises:
            InputError: when the size of a result differs from its ground truth.
        """
        return self._row(str(results), results, lambda picture, size: picture)

    def bicubic(self, lr: Path) -> Row:
        """Score bicubic enlargement to the ground truth's size."""

        def enlarge(picture: Picture, size: tuple[int, int]) -> Picture:
            return Picture(resize(picture.rgb[None], size[1], size[0])[0])

        return self._row("bicubic", lr, enlarge)

    def engine(self, lr: Path, upscaler: Upscaler, options: UpscaleOptions) -> Row:
        """Score the engine at one realism level, by adaptive choice, or at the fixed timestep of its weights."""
        control = options.control
        level = control.realism if isinstance(control, Level) else None
        name = upscaler.model.spec.name if control is None else "adaptive" if level is None else f"realism {level:g}"
        return self._row(name, lr, lambda picture, size: upscaler.run(picture, options).picture, level)

    def _row(
        self, name: str, folder: Path, make: Callable[[Picture, tuple[int, int]], Picture], realism: float | None = None
    ) -> Row:
        scores, others = [], []
        with TemporaryDirectory() if self.paper is not None else nullcontext("") as kept:
            found = pairs(folder, self.truth)
            for i, (path, truth_path) in enumerate(found):
                wanted = io.read(truth_path)
                result = make(io.read(path), wanted.size)
                _comparable(result, path, wanted, truth_path)
                scores.append(self.scorer(result, wanted))
                if self.paper is not None:
                    others.append(self.paper(eight_bit(result.rgb), eight_bit(wanted.rgb)))
                    io.write_atomic(Path(kept, f"{i}.png"), io.encode(Picture(result.rgb), "PNG"))
            values: dict[str, float | None] = asdict(mean_scores(scores))
            if self.paper is not None:
                values |= {key: sum(other[key] for other in others) / len(others) for key in others[0]}
                values["fid"] = self.paper.fid(Path(kept), self.truth)
        return Row(name, len(found), {key: values.get(key) for key in self.columns}, realism)


def _comparable(result: Picture, path: Path, wanted: Picture, truth_path: Path) -> None:
    if result.size != wanted.size:
        raise InputError(path, f"has size {result.size}, but {truth_path} is {wanted.size}", "compare pictures of one size")
    if min(wanted.size) < 17:
        raise InputError(truth_path, "too small to be scored", "score pictures of at least 17 pixels per side")
