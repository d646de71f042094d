"""Pictures and scores of a run in progress, made by the engine that users run."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rcodsr.bench.quality import psnr_y, ssim_y
from rcodsr.data.degradation import degrade
from rcodsr.data.photos import find_photos
from rcodsr.data.presets import PRESETS
from rcodsr.engine.runtime import Runtime
from rcodsr.engine.upscaler import Upscaler
from rcodsr.images import io
from rcodsr.images.picture import Picture, to_pil
from rcodsr.images.resize import resize
from rcodsr.models.one_step import OneStepSR
from rcodsr.options import LEVELS, UpscaleOptions

_PHOTOS = 8
_SIDE = 256
"""Ground truth is cut to at most this many pixels a side."""


class Validation:
    """A fixed handful of degraded photos.

    Args:
        photos: a directory, never one that is trained on; of many photos every so many-th is taken.
        mix: degradation preset → share; the photos take turns.
        seed: of the degradation.
    """

    def __init__(self, photos: Path, mix: dict[str, float], seed: int) -> None:
        presets = [PRESETS[name] for name in sorted(mix)]
        self.pairs: list[tuple[Tensor, Tensor]] = []
        found = find_photos(photos)
        for i, path in enumerate(found[:: max(1, len(found) // _PHOTOS)][:_PHOTOS]):
            rgb = io.read(path).laid_on().rgb
            height, width = (min(_SIDE, side) // 16 * 16 for side in rgb.shape[1:])
            top, left = (rgb.shape[1] - height) // 2, (rgb.shape[2] - width) // 2
            hr = rgb[:, top : top + height, left : left + width]
            self.pairs.append((degrade(hr, presets[i % len(presets)], (seed, i)), hr))

    def run(self, model: OneStepSR, runtime: Runtime) -> tuple[Tensor, dict[str, float]]:
        """Enlarge at every level.

        Returns:
            A contact sheet (3, H, W) in [0, 1], one photo a row: bicubic, the levels from fidelity to realism, ground truth;
            and PSNR and SSIM by level.
        """
        upscaler = Upscaler(model, runtime, "training")
        rows: list[Tensor] = []
        scores: dict[str, list[float]] = {}
        for lr, hr in self.pairs:
            row = [resize(lr[None], *hr.shape[1:])[0]]
            for name, realism in LEVELS.items():
                made = upscaler.run(Picture(lr), UpscaleOptions(default_realism=realism)).picture.rgb
                scores.setdefault(f"psnr_{name}", []).append(psnr_y(made, hr))
                scores.setdefault(f"ssim_{name}", []).append(ssim_y(made, hr))
                row.append(made)
            rows.append(_padded(torch.cat([*row, hr], 2)))
        return torch.cat(rows, 1), {name: float(np.mean(values)) for name, values in scores.items()}


def _padded(row: Tensor) -> Tensor:
    width = _SIDE * (len(LEVELS) + 2)
    return torch.nn.functional.pad(row, (0, width - row.shape[2]))


def keep(run: Path, step: int, sheet: Tensor, scores: dict[str, float]) -> None:
    """Store a validation as `<run>/validation/<step>.png` and a line of `<run>/validation.jsonl`."""
    folder = run / "validation"
    folder.mkdir(exist_ok=True)
    to_pil(Picture(sheet)).save(folder / f"{step:08}.png")
    with (run / "validation.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"step": step, **scores}) + "\n")
