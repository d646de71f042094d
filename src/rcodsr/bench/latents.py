"""Correlation of the latent metrics of Eq. (6) with perceived degradation: Table S1(b) of the paper.

Seeded crops of photos are degraded and enlarged bicubically. M_L compares their latents, SSIM and LPIPS the pictures.
Only the autoencoder runs, never the U-Net.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from rcodsr.bench.judges import Scorer
from rcodsr.data.degradation import degrade
from rcodsr.data.photos import check_sizes, find_photos
from rcodsr.data.presets import PRESETS, DegradationSpec
from rcodsr.diffusion.grouping import latent_metric
from rcodsr.errors import UsageError
from rcodsr.images import io
from rcodsr.images.picture import Picture
from rcodsr.images.resize import upsample
from rcodsr.models.one_step import OneStepSR
from rcodsr.parts import MetricKind
from rcodsr.variants import VariantSpec

KINDS: tuple[MetricKind, ...] = get_args(MetricKind)
_BATCH = 8
_LEAST_CROP = 32
"""LPIPS needs 17 pixels, and latents of a few positions carry no information."""

Pair = tuple[Tensor, Tensor]


class DegradedCrops:
    """Seeded crops of photos, degraded and enlarged again; crop i depends only on (seed, i).

    Iterating yields (enlarged, truth), both (3, crop, crop) in [0, 1], grouped by photo, so that each is decoded once.

    Args:
        photos: a directory of pictures, each at least as large as the crop.
        count: number of crops.
        crop: side of the ground truth, in pixels.
        presets: names of `data.degradation.PRESETS`, drawn with equal shares.
        seed: seed of all random choices.
        multiple: `crop` must be a multiple of this.

    Raises:
        UsageError: when a preset is unknown or the crop does not fit.
        NoInputError: when there are no photos.
        InputError: when a photo cannot be read, or is smaller than the crop.
    """

    scale = VariantSpec.scale

    def __init__(self, photos: Path, count: int, crop: int, presets: Sequence[str], seed: int, multiple: int) -> None:
        for name in presets:
            if name not in PRESETS:
                raise UsageError("--preset", f"'{name}' is unknown", f"use one of {', '.join(PRESETS)}")
        if crop < _LEAST_CROP or crop % multiple:
            raise UsageError("--crop", f"{crop} does not fit", f"use a multiple of {multiple} from {_LEAST_CROP} on")
        self.photos = find_photos(photos)
        check_sizes(self.photos, crop)
        self.count, self.crop, self.seed = count, crop, seed
        self.presets = [PRESETS[name] for name in presets]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Pair]:
        draws = [np.random.default_rng((self.seed, index)) for index in range(self.count)]
        chosen = sorted((int(rng.integers(len(self.photos))), index) for index, rng in enumerate(draws))
        for photo, group in groupby(chosen, key=itemgetter(0)):
            rgb = io.read(self.photos[photo]).laid_on().rgb
            for _, index in group:
                yield self._pair(rgb, draws[index], index)

    def _pair(self, rgb: Tensor, rng: np.random.Generator, index: int) -> Pair:
        top, left = (int(rng.integers(side - self.crop + 1)) for side in rgb.shape[1:])
        preset: DegradationSpec = self.presets[rng.integers(len(self.presets))]
        truth = rgb[:, top : top + self.crop, left : left + self.crop]
        low = degrade(truth, preset, (self.seed, index, 1), self.scale)
        return upsample(low[None], self.scale)[0], truth


def correlate(
    crops: DegradedCrops, model: OneStepSR, scorer: Scorer, advance: Callable[[], None] = lambda: None
) -> dict[str, dict[str, float | None]]:
    """Compute |Spearman| of each latent metric against each score.

    Args:
        crops: the crops to measure.
        model: provides the autoencoder.
        scorer: provides SSIM, and LPIPS if its weights are available.
        advance: called after each crop.

    Returns:
        Metric → score → a value in [0, 1], None for constant values.
    """
    metrics, scores = [], []
    pairs = iter(crops)
    while batch := list(islice(pairs, _BATCH)):
        metrics += _latent_metrics(batch, model)
        for enlarged, truth in batch:
            scores.append(scorer(Picture(enlarged), Picture(truth)))
            advance()
    columns = {"ssim": [score.ssim for score in scores]}
    if "lpips_squeeze" in scorer.columns:
        columns["lpips"] = [score.lpips_squeeze for score in scores if score.lpips_squeeze is not None]
    return {
        kind: {name: _absolute(spearman(values, column)) for name, column in columns.items()}
        for kind, values in zip(KINDS, zip(*metrics, strict=True), strict=True)
    }


def _latent_metrics(batch: list[Pair], model: OneStepSR) -> list[tuple[float, ...]]:
    """M_L of each pair for all kinds, in their order."""
    enlarged, truth = (torch.stack(pictures).to(model.device) for pictures in zip(*batch, strict=True))
    with torch.no_grad():
        z_l, z_h = model.encode(enlarged), model.encode(truth)
    return list(zip(*(latent_metric(z_l, z_h, kind).tolist() for kind in KINDS), strict=True))


def _absolute(value: float) -> float | None:
    return None if math.isnan(value) else round(abs(value), 4)


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation, in [-1, 1]: Pearson's of the ranks, with ties averaged.

    Positions where either is NaN are skipped. NaN for constant values, or if fewer than two positions remain.
    """
    pairs = np.array([a, b], dtype=np.float64)
    x, y = (_ranks(values) for values in pairs[:, ~np.isnan(pairs).any(0)])
    if len(x) < 2:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    lengths = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / lengths) if lengths else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values get the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    means: np.ndarray = np.cumsum(counts) - (counts - 1) / 2
    return means[places]
