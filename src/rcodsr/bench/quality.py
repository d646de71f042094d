"""Picture quality as reported in the papers: PSNR and SSIM on the Y channel, NIQE.

PSNR and SSIM follow pyiqa with `test_y_channel` (OSEDiff's published RealSR results give 25.1511 / 0.7341). NIQE needs a
parameter file, which is not part of the package.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rcodsr.errors import WeightsError


def luma(rgb: Tensor) -> Tensor:
    """Y of BT.601 studio swing, as in MATLAB's rgb2ycbcr: (3, H, W) in [0, 1] → (H, W), float64 in [16, 235]."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64)
    return torch.einsum("c,chw->hw", weights, rgb.double()) + 16


def psnr_y(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio on Y, in dB. Two pictures (3, H, W) in [0, 1]; equal ones give 80 dB."""
    error = (luma(a) - luma(b)).square().mean().item()
    return 10 * math.log10(255**2 / (error + 1e-8 * 255**2))


def ssim_y(a: Tensor, b: Tensor) -> float:
    """Structural similarity on rounded Y: 11×11 Gaussian window of σ 1.5, no padding (Wang et al. 2004).

    Two pictures (3, H, W) in [0, 1], sides of at least 11; 1 for equal ones.
    """
    x, y = luma(a).round(), luma(b).round()
    axis = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-axis.square() / (2 * 1.5**2))
    window /= window.sum()

    def mean(plane: Tensor) -> Tensor:
        rows = F.conv2d(plane[None, None], window.view(1, 1, -1, 1))
        return F.conv2d(rows, window.view(1, 1, 1, -1))[0, 0]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    structure = ((2 * cov + c2) / (vx + vy + c2)).clamp(min=0)
    return ((2 * mx * my + c1) / (mx * mx + my * my + c1) * structure).mean().item()


class Niqe:
    """Natural image quality evaluator (Mittal et al. 2013): distance of a picture's statistics from pristine photos'.

    Lower is better, but noise lowers it too: confirm it by eye.

    Args:
        parameters: the npz file of BasicSR and pyiqa (`mu_pris_param`, `cov_pris_param`, `gaussian_window`).

    Raises:
        WeightsError: when the file cannot be read.
    """

    block = 96

    def __init__(self, parameters: Path) -> None:
        try:
            with np.load(parameters) as values:
                self.mean, self.covariance = values["mu_pris_param"], values["cov_pris_param"]
                self.window = torch.from_numpy(values["gaussian_window"].astype(np.float64))[None, None]
        except Exception as error:  # numpy raises five unrelated types
            raise WeightsError(parameters, f"not NIQE's parameters ({error})", "pass BasicSR's niqe_pris_params.npz") from error
        self._alphas = np.arange(0.2, 10.001, 0.001)
        log_ratio = 2 * _lgamma(2 / self._alphas) - _lgamma(1 / self._alphas) - _lgamma(3 / self._alphas)
        self._ratios = np.exp(log_ratio)

    def __call__(self, rgb: Tensor) -> float | None:
        """Score a picture (3, H, W) in [0, 1], sides of at least 192; None for flat pictures."""
        x = (torch.einsum("c,chw->hw", torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64), rgb.double()) * 255).round()
        rows, columns = x.shape[0] // self.block, x.shape[1] // self.block
        x = x[: rows * self.block, : columns * self.block]
        features = []
        for side in (self.block, self.block // 2):
            normalised = self._normalise(x)
            tiles = normalised.unflatten(1, (columns, side)).unflatten(0, (rows, side)).permute(0, 2, 1, 3).flatten(0, 1)
            features.append(np.array([self._block_features(tile.numpy()) for tile in tiles]))
            x = F.interpolate(x[None, None], scale_factor=0.5, mode="bicubic", antialias=True)[0, 0]
        table = np.concatenate(features, 1)
        whole = table[~np.isnan(table).any(1)]
        if len(whole) < 2:  # a flat picture has no statistics
            return None
        delta = self.mean.ravel() - np.nanmean(table, 0)
        try:
            pooled = np.linalg.pinv((self.covariance + np.cov(whole, rowvar=False)) / 2)
        except np.linalg.LinAlgError:
            return None
        return float(np.sqrt(delta @ pooled @ delta))

    def _normalise(self, x: Tensor) -> Tensor:
        def mean(plane: Tensor) -> Tensor:
            return F.conv2d(F.pad(plane[None, None], (3, 3, 3, 3), mode="replicate"), self.window)[0, 0]

        average = mean(x)
        return (x - average) / ((mean(x * x) - average * average).abs().sqrt() + 1)

    def _block_features(self, x: np.ndarray) -> list[float]:
        alpha, left, right = self._fit(x)
        features = [alpha, (left + right) / 2]
        for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
            alpha, left, right = self._fit(x * np.roll(x, shift, (0, 1)))
            features += [alpha, (right - left) * math.gamma(2 / alpha) / math.gamma(1 / alpha), left, right]
        return features

    def _fit(self, x: np.ndarray) -> tuple[float, float, float]:
        """Fit an asymmetric generalised Gaussian by moment matching: shape, left and right scale."""
        negative, positive = x[x < 0], x[x > 0]
        left = math.sqrt(np.square(negative).mean()) if negative.size else 0.0
        right = math.sqrt(np.square(positive).mean()) if positive.size else 0.0
        if right == 0.0:
            return 10.0, float("nan"), float("nan")
        gamma = left / right
        ratio = np.abs(x).mean() ** 2 / np.square(x).mean()
        target = ratio * (gamma**3 + 1) * (gamma + 1) / (gamma**2 + 1) ** 2
        alpha = float(self._alphas[np.argmin(np.square(self._ratios - target))])
        spread = math.sqrt(math.gamma(1 / alpha) / math.gamma(3 / alpha))
        return alpha, left * spread, right * spread


def _lgamma(x: np.ndarray) -> np.ndarray:
    result: np.ndarray = torch.lgamma(torch.from_numpy(x)).numpy()
    return result


def eight_bit(rgb: Tensor) -> Tensor:
    """Round pixels in [0, 1], of any shape, to 8 bits, so that scores in memory equal scores of files."""
    return (rgb.float() * 255).round().clamp(0, 255) / 255
