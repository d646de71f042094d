"""Blur kernels by their properties, and the filter that applies them."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rcodsr.data.degradation import _filter
from rcodsr.data.kernels import SIDES, gaussian_kernel, random_kernel, sinc_kernel
from tests.data.conftest import psnr


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("sinc_probability", [0.0, 0.5])
def test_random_kernels_sum_to_one_and_are_point_symmetric(seed: int, sinc_probability: float) -> None:
    rng = np.random.default_rng(seed)
    kernel = random_kernel(rng, (0.2, 3.0), sinc_probability, (0.5, 4.0), (1.0, 2.0))
    assert kernel.shape == (kernel.shape[0],) * 2
    assert kernel.shape[0] in SIDES
    assert kernel.dtype == torch.float32
    assert kernel.sum().item() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(kernel, kernel.rot90(2), atol=1e-7)
    assert kernel.max() == kernel[kernel.shape[0] // 2, kernel.shape[0] // 2]


def test_random_kernels_follow_their_generator() -> None:
    def draw(seed: int) -> list[Tensor]:
        rng = np.random.default_rng(seed)
        return [random_kernel(rng, (0.2, 3.0), 0.3, (0.5, 4.0), (1.0, 2.0)) for _ in range(20)]

    assert all(torch.equal(a, b) for a, b in zip(draw(1), draw(1), strict=True))
    assert len({kernel.shape for kernel in draw(1)}) > 3
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(draw(1), draw(2), strict=True))


def test_a_gaussian_has_the_standard_deviations_it_was_asked_for() -> None:
    kernel = gaussian_kernel(41, (1.5, 4.0), 0.0).double()
    axis = torch.arange(41, dtype=torch.float64) - 20
    assert math.sqrt((kernel.sum(0) * axis**2).sum()) == pytest.approx(1.5, rel=1e-3)  # the first axis is horizontal
    assert math.sqrt((kernel.sum(1) * axis**2).sum()) == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.2, -2.5])
def test_a_gaussians_covariance_follows_from_sigmas_and_angle(angle: float) -> None:
    kernel = gaussian_kernel(41, (1.5, 4.0), angle).double().numpy()
    y, x = np.mgrid[:41, :41] - 20.0
    moments = [[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)]
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    assert np.allclose(moments, turn @ np.diag([1.5**2, 4.0**2]) @ turn.T, atol=0.02)


def test_a_gaussian_turns_with_its_angle() -> None:
    upright = gaussian_kernel(15, (1.0, 3.0), 0.3)
    assert torch.allclose(gaussian_kernel(15, (1.0, 3.0), 0.3 + math.pi / 2), upright.rot90(-1), atol=1e-7)
    assert torch.allclose(gaussian_kernel(15, (1.0, 3.0), 0.3 + math.pi), upright, atol=1e-7)
    assert not torch.allclose(upright, upright.T, atol=1e-3)


def test_a_small_sigma_hardly_blurs_and_a_large_beta_is_flat() -> None:
    assert gaussian_kernel(7, (0.2, 0.2), 0.0)[3, 3] > 0.999
    for plateau in (False, True):
        flat = gaussian_kernel(21, (5.0, 5.0), 0.0, beta=8.0, plateau=plateau)
        assert flat[10, 13] / flat[10, 10] > 0.99
        assert flat[10, 20] / flat[10, 10] < 0.01


@pytest.mark.parametrize("cutoff", [math.pi / 3, math.pi / 2])
def test_a_sinc_passes_what_lies_below_its_cutoff_and_stops_the_rest(cutoff: float) -> None:
    kernel = sinc_kernel(21, cutoff).double()
    n = torch.arange(21, dtype=torch.float64) - 10

    def response(frequency: float) -> float:
        return (kernel.sum(0) * torch.cos(frequency * n)).sum().item()

    assert response(0) == pytest.approx(1, abs=1e-6)
    for share in (0.3, 0.5):
        assert response(share * cutoff) == pytest.approx(1, abs=0.1)
    for frequency in (1.5 * cutoff, 1.8 * cutoff, math.pi):
        assert response(frequency) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("side", SIDES)
def test_a_sinc_is_symmetric_in_every_way(side: int) -> None:
    kernel = sinc_kernel(side, 1.9)
    assert kernel.sum().item() == pytest.approx(1, abs=1e-5)
    for other in (kernel.T, kernel.flip(0), kernel.flip(1), kernel.rot90()):
        assert torch.allclose(kernel, other, atol=1e-7)
    assert kernel.min() < 0  # it rings


def test_a_sincs_centre_follows_from_its_neighbourhood() -> None:
    # the analytic limit at r = 0 must join the curve of the other taps: w J1(w r) / (2 pi r) is even and smooth in r,
    # so with a low cutoff the parabola through r = 1 and r = 2 meets the centre
    kernel = sinc_kernel(21, 0.4).double()
    one, two, centre = (kernel[10, 10 + r].item() for r in (1, 2, 0))
    assert centre == pytest.approx((4 * one - two) / 3, rel=1e-3)


def test_the_widest_sinc_is_close_to_the_identity(face: Tensor) -> None:
    kernel = sinc_kernel(21, math.pi)
    assert kernel[10, 10] > 0.75
    widest, narrow = (_filter(face[None], sinc_kernel(21, cutoff))[0] for cutoff in (math.pi, math.pi / 3))
    assert psnr(widest, face) > 35
    assert psnr(widest, face) > psnr(narrow, face) + 6


@pytest.mark.parametrize("side", [7, 13, 21])
@pytest.mark.parametrize("shape", [(40, 33), (21, 64), (12, 9), (3, 5), (1, 1)])
def test_the_fft_filter_is_the_convolution_layer(side: int, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(side)
    x = torch.rand(2, 3, *shape, generator=generator)
    kernel = torch.rand(side, side, generator=generator)  # without symmetry, so that a flip would show
    kernel /= kernel.sum()
    pad = side // 2
    padded = F.pad(x, (pad,) * 4, mode="reflect" if min(shape) > pad else "replicate")
    expected = F.conv2d(padded, kernel.expand(3, 1, side, side), groups=3)
    result = _filter(x, kernel)
    assert result.shape == x.shape
    assert torch.allclose(result, expected, atol=1e-5)
