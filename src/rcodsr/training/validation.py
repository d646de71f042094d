"""Pictures and scores of a run in progress, computed by the engine that users run."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rcodsr.bench.judges import JudgeFiles, Scorer
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
"""Ground truth is cropped to at most this many pixels per side, unless the weights need more."""


class Validation:
    """A fixed small set of degraded photos.

    Args:
        photos: a directory of photos not used for training; if there are many, they are subsampled evenly.
        mix: degradation preset → share; the presets are assigned to the photos in turn.
        seed: seed of the degradation.
        side: requested side of the cropped ground truth, for priors that need more than 256 pixels.
        judges: directory of judges' parameters, same as for `bench.judges`; None for PSNR and SSIM alone.

    Raises:
        WeightsError: when a judge cannot be read.
    """

    def __init__(self, photos: Path, mix: dict[str, float], seed: int, side: int = _SIDE, judges: Path | None = None) -> None:
        presets = [PRESETS[name] for name in sorted(mix)]
        self.side = max(_SIDE, side)
        self.scorer = Scorer(None if judges is None else JudgeFiles.of_directory(judges))
        self.pairs: list[tuple[Tensor, Tensor]] = []
        found = find_photos(photos)
        for i, path in enumerate(found[:: max(1, len(found) // _PHOTOS)][:_PHOTOS]):
            rgb = io.read(path).laid_on().rgb
            height, width = (min(self.side, side) // 16 * 16 for side in rgb.shape[1:])
            top, left = (rgb.shape[1] - height) // 2, (rgb.shape[2] - width) // 2
            hr = rgb[:, top : top + height, left : left + width]
            self.pairs.append((degrade(hr, presets[i % len(presets)], (seed, i)), hr))

    def run(self, model: OneStepSR, runtime: Runtime) -> tuple[Tensor, dict[str, float]]:
        """Restore all photos at every level.

        Returns:
            A contact sheet (3, H, W) in [0, 1], one photo per row: bicubic, the levels from fidelity to realism, ground truth;
            and by level PSNR, SSIM and the judges' scores. For the knob: `knob_spread`, the root mean square between its ends
            in 8-bit levels, and `knob_monotone`, the share of photos whose PSNR never rises from level to level.
        """
        upscaler = Upscaler(model, runtime, "training")
        rows: list[Tensor] = []
        scores: dict[str, list[float]] = {}
        for lr, hr in self.pairs:
            options = (UpscaleOptions(default_realism=realism) for realism in LEVELS.values())
            made = [upscaler.run(Picture(lr), asked).picture.rgb for asked in options]
            judged = [self.scorer(Picture(picture), Picture(hr)) for picture in made]
            for level, seen in zip(LEVELS, judged, strict=True):
                for name in self.scorer.columns:
                    if (score := getattr(seen, name)) is not None:
                        scores.setdefault(f"{name}_{level}", []).append(score)
            spread = 255 * (made[-1] - made[0]).square().mean().sqrt().item()
            scores.setdefault("knob_spread", []).append(spread)
            falls = all(calm.psnr >= bold.psnr for calm, bold in pairwise(judged))
            scores.setdefault("knob_monotone", []).append(float(falls))
            rows.append(self._padded(torch.cat([resize(lr[None], *hr.shape[1:])[0], *made, hr], 2)))
        return torch.cat(rows, 1), {name: float(np.mean(values)) for name, values in sorted(scores.items())}

    def _padded(self, row: Tensor) -> Tensor:
        width = self.side * (len(LEVELS) + 2)
        return torch.nn.functional.pad(row, (0, width - row.shape[2]))


def keep(run: Path, step: int, sheet: Tensor, scores: dict[str, float]) -> None:
    """Save a validation as `<run>/validation/<step>.png` and a line of `<run>/validation.jsonl`."""
    folder = run / "validation"
    folder.mkdir(exist_ok=True)
    to_pil(Picture(sheet)).save(folder / f"{step:08}.png")
    with (run / "validation.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"step": step, **scores}) + "\n")
