"""Check that M̂_L falls with degradation: ladders of blur, noise and JPEG, alone and combined, beside the true M_L.

python tools/degradation_ladder.py PHOTOS --weights rcod-tiny --count 20

One line per ladder: M̂_L of its five steps (mean over the photos), its rank correlation with the step (mean and worst photo;
−1 is strictly falling), the same for the true M_L, the realism that --adaptive chooses at each step, and the levels chosen
at the last step with their counts. --save OUTPUT also writes the pictures and their ground truth, for
`rcodsr estimate OUTPUT/lr --gt OUTPUT/hr`.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import rcodsr
from rcodsr.bench.latents import spearman
from rcodsr.data.degradation import Degradation, Filter, Jpeg, Noise, Resize, Step, apply
from rcodsr.data.kernels import gaussian_kernel
from rcodsr.data.photos import find_photos
from rcodsr.diffusion.grouping import group_timestep
from rcodsr.engine.estimation import measure, measure_true
from rcodsr.images import io
from rcodsr.images.picture import Picture, to_pil
from rcodsr.images.resize import upsample
from rcodsr.models.one_step import OneStepSR
from rcodsr.parts import GroupingSpec

BLUR = (0, 0.6, 1.1, 1.7, 2.4)
"""Standard deviation in pixels of the low-resolution picture."""
NOISE = (0, 4, 10, 18, 30)
"""Standard deviation in 8-bit levels, independent in each channel."""
QUALITY = (95, 75, 55, 35, 20)
LADDERS = ("blur", "noise", "jpeg", "blur+noise", "blur+jpeg", "noise+jpeg", "blur+noise+jpeg")
SCALE, SIDE = 4, 512


def degradation(ladder: str, step: int, size: tuple[int, int], seed: int) -> Degradation:
    """Shrink, blur, add noise, compress: the degradation of a photo at a step from 0 to 4 of a ladder."""
    kinds = ladder.split("+")
    steps: list[Step] = [Resize(size[0] // SCALE, size[1] // SCALE, "area")]
    if "blur" in kinds and BLUR[step]:
        steps.append(Filter(gaussian_kernel(21, (BLUR[step], BLUR[step]), 0.0).numpy()))
    if "noise" in kinds and NOISE[step]:
        steps.append(Noise("gaussian", NOISE[step] / 255, gray=False))
    if "jpeg" in kinds:
        steps.append(Jpeg(QUALITY[step]))
    return Degradation(tuple(steps), seed)


def climb(hr: Tensor, ladder: str, seed: int) -> Iterator[Tensor]:
    """The steps of a ladder: (3, H, W) → five times (3, H/4, W/4), in [0, 1]."""
    for step in range(len(BLUR)):
        yield apply(hr, degradation(ladder, step, (hr.shape[1], hr.shape[2]), seed * 10 + step))


def judge(model: OneStepSR, hr: Tensor, pictures: Iterable[Tensor]) -> Tensor:
    """M̂_L and M_L of the steps of a ladder: shape (2, 5)."""
    enlarged = [upsample(lr[None], SCALE) for lr in pictures]
    return torch.tensor([[measure(model, x).mean for x in enlarged], [measure_true(model, x, hr[None]).mean for x in enlarged]])


def report(ladder: str, estimated: Tensor, true: Tensor, grouping: GroupingSpec) -> str:
    """Format a ladder's line; both tensors have a row per photo and a column per step."""
    falls, true_falls = ([spearman(row.tolist(), range(len(row))) for row in rows] for rows in (estimated, true))
    timesteps = group_timestep(estimated, grouping).tolist()
    realism = torch.tensor([[grouping.timestep_realism(t) for t in row] for row in timesteps])
    last = Counter(grouping.level(row[-1]) for row in timesteps)
    cells = (
        *(ladder, _means(estimated, 3), f"{np.mean(falls):.2f}", f"{max(falls):.2f}"),
        *(_means(true, 3), f"{np.mean(true_falls):.2f}"),
        *(_means(realism, 2), ", ".join(f"{level} {count}" for level, count in last.most_common())),
    )
    return "\t".join(cells)


def _means(values: Tensor, digits: int) -> str:
    return " ".join(f"{value:.{digits}f}" for value in values.mean(0).tolist())


def save(output: Path, name: str, lr: Tensor, hr: Tensor) -> None:
    """Save a picture and its ground truth under the same name."""
    for side, pixels in (("lr", lr), ("hr", hr)):
        (output / side).mkdir(parents=True, exist_ok=True)
        to_pil(Picture(pixels)).save(output / side / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", default="rcod-tiny")
    parser.add_argument("--count", type=int, default=20, help="number of photos, in order of their names")
    parser.add_argument("--save", type=Path)
    asked = parser.parse_args()
    model = rcodsr.load(asked.weights).model
    photos = [io.read(path).rgb[:, :SIDE, :SIDE] for path in find_photos(asked.photos)[: asked.count]]
    photos = [hr[:, : hr.shape[1] // 16 * 16, : hr.shape[2] // 16 * 16] for hr in photos]
    print("ladder\testimated\trho\tworst rho\ttrue\ttrue rho\trealism\tlast step")
    for ladder in LADDERS:
        judged = []
        for number, hr in enumerate(photos):
            pictures = list(climb(hr, ladder, number))
            judged.append(judge(model, hr, pictures))
            for step, lr in enumerate(pictures if asked.save else ()):
                save(asked.save, f"{number:02}-{ladder}-{step}", lr, hr)
        estimated, true = torch.stack(judged, 1)
        print(report(ladder, estimated, true, model.spec.grouping), flush=True)


if __name__ == "__main__":
    main()
