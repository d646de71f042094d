"""Scores of whole sets: a folder of results, bicubic enlargement, or the engine at a realism level."""

from collections.abc import Callable
from pathlib import Path

from rcodsr.bench.quality import Scorer, Scores, mean_scores
from rcodsr.bench.sets import pairs
from rcodsr.config import UpscaleOptions
from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import InputError
from rcodsr.images import io
from rcodsr.images.picture import Picture
from rcodsr.images.resize import resize


def score_folder(results: Path, truth: Path, scorer: Scorer) -> Scores:
    """Mean scores of finished pictures.

    Raises:
        InputError: when a result's size is not its ground truth's.
    """
    return _score(results, truth, scorer, lambda picture, size: picture)


def score_bicubic(lr: Path, truth: Path, scorer: Scorer) -> Scores:
    """Mean scores of bicubic enlargement to the ground truth's size."""

    def enlarge(picture: Picture, size: tuple[int, int]) -> Picture:
        return Picture(resize(picture.rgb[None], size[1], size[0])[0])

    return _score(lr, truth, scorer, enlarge)


def score_level(lr: Path, truth: Path, scorer: Scorer, upscaler: Upscaler, options: UpscaleOptions) -> Scores:
    """Mean scores of the engine at one realism level."""
    return _score(lr, truth, scorer, lambda picture, size: upscaler.run(picture, options).picture)


def _score(folder: Path, truth: Path, scorer: Scorer, make: Callable[[Picture, tuple[int, int]], Picture]) -> Scores:
    rows = []
    for path, truth_path in pairs(folder, truth):
        wanted = io.read(truth_path)
        result = make(io.read(path), wanted.size)
        if result.size != wanted.size:
            raise InputError(path, f"gives {result.size}, but {truth_path} is {wanted.size}", "compare pictures of one size")
        if min(wanted.size) < 17:
            raise InputError(truth_path, "too small to be scored", "score pictures of at least 17 pixels a side")
        rows.append(scorer(result, wanted))
    return mean_scores(rows)
