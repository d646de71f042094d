"""Figures of docs/what-was-invented.md: how far results agree with photos, and whether the map rises with realism.

python dev/measure_evidence.py PHOTOS --weights rcod-small --count 20

The middle 384×384 pixels of each photo are shrunk to 96×96. Lightly: JPEG of quality 90. Badly: a blur of 1.1 pixels, noise
of 10 levels, JPEG of quality 55. One line per degradation and level: consistency in dB (minimum, 5th percentile, median), and
the mean of the map. The last line counts the photos whose map rises strictly with realism.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import rcodsr
from rcodsr.bench.latents import spearman
from rcodsr.data.degradation import Degradation, Filter, Jpeg, Noise, Resize, Step, apply
from rcodsr.data.kernels import gaussian_kernel
from rcodsr.data.photos import find_photos
from rcodsr.engine.evidence import departure
from rcodsr.images import io
from rcodsr.images.picture import Picture
from rcodsr.options import Level, UpscaleOptions

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
SIDE, SCALE = 384, 4


def degraded(photo: Tensor, badly: bool, seed: int) -> Tensor:
    """Shrink and degrade the middle of a photo (3, H, W): (3, 96, 96)."""
    top, left = ((side - SIDE) // 2 for side in photo.shape[1:])
    shrunk: list[Step] = [Resize(SIDE // SCALE, SIDE // SCALE, "area")]
    spoilt: list[Step] = [
        Filter(gaussian_kernel(21, (1.1, 1.1), 0.0).numpy()),
        Noise("gaussian", 10 / 255, gray=False),
        Jpeg(55),
    ]
    steps = (*shrunk, *(spoilt if badly else [Jpeg(90)]))
    return apply(photo[:, top : top + SIDE, left : left + SIDE], Degradation(steps, seed))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", default="rcod-small")
    parser.add_argument("--count", type=int, default=32)
    asked = parser.parse_args()
    upscaler = rcodsr.load(asked.weights)
    photos = [io.read(path).rgb for path in find_photos(asked.photos)[: asked.count]]
    for badly in (False, True):
        agreement, maps = np.empty((len(photos), len(LEVELS))), np.empty((len(photos), len(LEVELS)))
        for i, photo in enumerate(photos):
            picture = Picture(degraded(photo, badly, i))
            made = [upscaler.run(picture, UpscaleOptions(Level(level))) for level in LEVELS]
            agreement[i] = [one.consistency for one in made]
            maps[i] = [float(departure(one.picture.rgb, made[0].picture.rgb).mean()) for one in made]
        for level, column, means in zip(LEVELS, agreement.T, maps.T, strict=True):
            least, low, median = np.percentile(column, (0, 5, 50))
            words = f"consistency {least:.1f} {low:.1f} {median:.1f} dB, map {means.mean():.2f} steps"
            print(f"{'badly' if badly else 'lightly'}, realism {level:g}: {words}", flush=True)
        rising = sum(spearman(row.tolist(), LEVELS) > 0.999 for row in maps)
        print(f"map rises with realism: {rising} of {len(photos)}", flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
