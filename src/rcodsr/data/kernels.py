"""Blur kernels of the Real-ESRGAN pipeline (Wang et al. 2021), drawn from a seeded generator."""

import math

import numpy as np
import torch
from torch import Tensor

FAMILIES = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
FAMILY_PROBABILITIES = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
SIDES = tuple(range(7, 22, 2))


def gaussian_kernel(side: int, sigma: tuple[float, float], angle: float, beta: float = 1.0, plateau: bool = False) -> Tensor:
    """A Gaussian-like kernel: exp(−q^β / 2), or the flat-topped 1 / (1 + q^β), where q is the squared Mahalanobis distance.

    Args:
        side: size of the kernel in pixels, odd.
        sigma: standard deviations along the two axes, in pixels.
        angle: angle of the first axis, in radians.
        beta: shape parameter; 1 is the plain Gaussian.
        plateau: use the flat-topped form.

    Returns:
        Shape (side, side), float32, sums to 1.
    """
    axis = torch.arange(side, dtype=torch.float64) - side // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    c, s = math.cos(angle), math.sin(angle)
    q = ((c * x + s * y) / sigma[0]) ** 2 + ((c * y - s * x) / sigma[1]) ** 2
    kernel = 1 / (1 + q**beta) if plateau else torch.exp(-0.5 * q**beta)
    return (kernel / kernel.sum()).float()


def sinc_kernel(side: int, cutoff: float) -> Tensor:
    """Ideal circular low-pass (ringing and overshoot): ω J₁(ω r) / (2π r).

    Args:
        side: size of the kernel in pixels, odd.
        cutoff: ω in radians per pixel, up to π.

    Returns:
        Shape (side, side), float32, sums to 1.
    """
    axis = torch.arange(side, dtype=torch.float64) - side // 2
    r = torch.hypot(*torch.meshgrid(axis, axis, indexing="ij"))
    r[side // 2, side // 2] = 1.0
    kernel = cutoff * torch.special.bessel_j1(cutoff * r) / (2 * math.pi * r)
    kernel[side // 2, side // 2] = cutoff**2 / (4 * math.pi)
    return (kernel / kernel.sum()).float()


def random_kernel(
    rng: np.random.Generator,
    sigma: tuple[float, float],
    sinc_probability: float,
    beta_gaussian: tuple[float, float],
    beta_plateau: tuple[float, float],
) -> Tensor:
    """Draw one blur kernel: a sinc with `sinc_probability`, otherwise one of the six Gaussian-like families.

    Args:
        rng: the sample's seeded generator.
        sigma: range of the standard deviations, in pixels.
        sinc_probability: share of sinc kernels.
        beta_gaussian: range of β of the generalised Gaussians.
        beta_plateau: range of β of the plateau kernels.

    Returns:
        Shape (side, side) with a random odd side, float32, sums to 1.
    """
    side = int(rng.choice(SIDES))
    if rng.random() < sinc_probability:
        return sinc_kernel(side, rng.uniform(math.pi / 3 if side < 13 else math.pi / 5, math.pi))
    family = FAMILIES[rng.choice(len(FAMILIES), p=FAMILY_PROBABILITIES)]
    first = rng.uniform(*sigma)
    isotropic = family.endswith("iso") and "aniso" not in family
    sigmas = (first, first if isotropic else rng.uniform(*sigma))
    angle = 0.0 if isotropic else rng.uniform(-math.pi, math.pi)
    if family.startswith("plateau"):
        return gaussian_kernel(side, sigmas, angle, _beta(rng, beta_plateau), plateau=True)
    return gaussian_kernel(side, sigmas, angle, _beta(rng, beta_gaussian) if family.startswith("generalized") else 1.0)


def _beta(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    # half of the draws lie below 1, half above, as in Real-ESRGAN
    low, high = limits
    return float(rng.uniform(low, 1.0) if rng.random() < 0.5 else rng.uniform(1.0, high))
