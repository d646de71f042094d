"""Measure grain and grids in enlarged pictures against ground truth, which PSNR, LPIPS and NIQE do not show.

python dev/check_artefacts.py --gt HR --results DIR...

flat: mean local deviation where the ground truth is flat (local standard deviation below 2/255 in 7×7 pixels), ours divided by
theirs; median over the pictures. Grain is above 1.
grid 2, grid 4: power at a period of 2 and of 4 pixels, in both directions, ours divided by theirs; repeating patterns are
above 1.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from rcodsr.bench.quality import luma
from rcodsr.bench.sets import pairs
from rcodsr.images import io

WINDOW = 7
FLAT = 2 * 219 / 255  # 2 of 255 in the studio swing of luma
PERFECT = 0.1  # below this, a drawing, for which ratios are meaningless


def local_std(y: torch.Tensor) -> torch.Tensor:
    """Standard deviation in a window around each pixel: (H, W) → (H', W')."""
    y = y[None, None].double()
    mean, square = F.avg_pool2d(y, WINDOW, 1), F.avg_pool2d(y * y, WINDOW, 1)
    return (square - mean * mean).clamp(min=0).sqrt()[0, 0]


def grid_power(y: np.ndarray, period: int) -> float:
    """Power at one period along either axis, ignoring slow changes along the other."""
    y = y[: y.shape[0] // 16 * 16, : y.shape[1] // 16 * 16]
    window = np.hanning(y.shape[0])[:, None] * np.hanning(y.shape[1])
    power = np.abs(np.fft.fft2((y - y.mean()) * window)) ** 2
    rows, columns = y.shape[0] // period, y.shape[1] // period
    return float(power[rows - 1 : rows + 2, :2].mean() + power[:2, columns - 1 : columns + 2].mean()) / y.size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gt", type=Path, required=True)
    parser.add_argument("--results", type=Path, nargs="+", required=True)
    asked = parser.parse_args()
    for results in asked.results:
        flat, grids = [], {2: [0.0, 0.0], 4: [0.0, 0.0]}
        for made, truth in pairs(results, asked.gt):
            t, m = (luma(io.read(path).rgb) for path in (truth, made))
            std_t, std_m = local_std(t), local_std(m)
            where = std_t < FLAT
            if where.sum() > 500 and std_t[where].mean() > PERFECT:
                flat.append((float(std_t[where].mean()), float(std_m[where].mean())))
            for period, sums in grids.items():
                for i, y in enumerate((m, t)):
                    sums[i] += grid_power(y.numpy(), period)
        ratios = sorted(m / t for t, m in flat)
        shown = "  ".join(f"grid {period} {ours_ / theirs_:.2f}" for period, (ours_, theirs_) in grids.items())
        print(f"{results}: flat {np.median(ratios):.2f} ({len(flat)} pictures, {ratios[0]:.2f} to {ratios[-1]:.2f})  {shown}")


if __name__ == "__main__":
    main()
