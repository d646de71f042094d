import pytest
import torch
from torch import Tensor

from rcodsr.data.sensor import mosaic, sharpen
from tests.data.conftest import psnr

SHIFTS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def colour_measured(height: int, width: int, shift: tuple[int, int]) -> Tensor:
    """0, 1 or 2 for each pixel, by the pattern red green / green blue."""
    return torch.tensor([[(y + shift[0]) % 2 + (x + shift[1]) % 2 for x in range(width)] for y in range(height)])


@pytest.mark.parametrize("shift", SHIFTS)
def test_one_colour_is_guessed_right_everywhere(shift: tuple[int, int]) -> None:
    colour = torch.tensor([0.75, 0.25, 0.5])[None, :, None, None].expand(1, 3, 7, 10)
    assert torch.allclose(mosaic(colour, shift), colour, atol=1e-6)


@pytest.mark.parametrize("shift", SHIFTS)
def test_what_was_measured_is_kept(shift: tuple[int, int]) -> None:
    x = torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(1))
    index = colour_measured(9, 12, shift).expand(2, 1, 9, 12)
    assert torch.equal(mosaic(x, shift).gather(1, index), x.gather(1, index))


@pytest.mark.parametrize("shift", SHIFTS)
def test_grey_ramps_stay_grey_ramps(shift: tuple[int, int]) -> None:
    ramp = (torch.arange(12.0)[:, None] + 2 * torch.arange(16.0)).expand(1, 3, 12, 16) / 64
    inside = (..., slice(2, -2), slice(2, -2))  # reflection breaks the ramp at the borders
    assert torch.allclose(mosaic(ramp, shift)[inside], ramp[inside], atol=1e-6)


def test_a_lone_red_point_by_hand() -> None:
    x = torch.zeros(1, 3, 9, 9)
    x[0, 0, 4, 4] = 0.8
    red, green, blue = mosaic(x, (0, 0))[0]
    # figure 2 of the paper, eighths: green 4 and blue 6 where it is; red 4 at its neighbours, 2 across
    assert (red[4, 4].item(), green[4, 4].item(), blue[4, 4].item()) == pytest.approx((0.8, 0.4, 0.6))
    assert (red[4, 5].item(), red[3, 4].item(), red[5, 5].item()) == pytest.approx((0.4, 0.4, 0.2))
    assert red[4, 6].item() == 0
    assert blue[4, 5].item() == 0


def test_noise_of_single_pixels_gets_blots_of_colour(face: Tensor) -> None:
    noise = 0.05 * torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    rough = mosaic(0.5 + noise, (0, 0)) - 0.5
    neighbours = (rough[..., 1:] * rough[..., :-1]).mean() / rough.square().mean()
    assert neighbours > 0.15
    assert abs((noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean()) < 0.02
    assert psnr(mosaic(face[None], (0, 0))[0], face) > 28


def test_sharpening_makes_an_edge_overshoot_and_leaves_flat_places() -> None:
    edge = torch.where(torch.arange(24) < 12, 0.25, 0.75).expand(2, 3, 20, 24)
    crisp = sharpen(edge, 0.8, 0.5)
    assert crisp[0, 0, 10, 11] < 0.25 < 0.75 < crisp[0, 0, 10, 12]
    assert torch.allclose(crisp[..., :6], edge[..., :6], atol=1e-4)
    assert torch.equal(sharpen(edge, 0.8, 0.0), edge)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)])
def test_tiny_pictures_pass(size: tuple[int, int]) -> None:
    x = torch.full((1, 3, *size), 0.5)
    assert torch.allclose(mosaic(x, (1, 0)), x, atol=1e-6)
    assert torch.allclose(sharpen(x, 1.0, 1.0), x, atol=1e-6)
