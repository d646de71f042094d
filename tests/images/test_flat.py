"""What counts as flat ground, from the input alone."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rcodsr.images.flat import flatness, hold_flat
from rcodsr.images.resize import upsample


def _levels(values: np.ndarray) -> Tensor:
    """8-bit values (h, w) or (3, h, w) as a picture."""
    planes = np.broadcast_to(values, (3, *values.shape[-2:])).astype(np.float32)
    return torch.from_numpy(planes / 255)


def _noise(height: int, width: int, around: float = 128, deviation: float = 20) -> np.ndarray:
    return np.random.default_rng(5).normal(around, deviation, (3, height, width)).round().clip(0, 255)


def test_one_value_for_sixteen_pixels_in_every_direction_is_flat() -> None:
    values = _noise(81, 81)
    values[:, 24:57, 24:57] = np.array([200, 90, 40])[:, None, None]  # 33 pixels each way
    share = flatness(_levels(values))
    assert share[40, 40] == 1
    assert share[:20].max() == 0
    assert share[:, 60:].max() == 0
    fading = share[40, 24:41]
    assert (fading.diff() >= 0).all()
    assert fading.diff().max() < 0.25  # no border that shows


@pytest.mark.parametrize("value", [0, 255])
def test_clipped_values_are_trusted_close_to_what_ends_them(value: int) -> None:
    values = _noise(40, 40)
    values[:, :, 20:] = value
    share = flatness(_levels(values))
    assert share[:, :20].max() == 0
    assert share[:, 23:].min() == 1


def test_a_colour_with_every_channel_clipped_is_clipped() -> None:
    values = np.zeros((3, 9, 9))
    values[0], values[1, 4, 0] = 255, 30
    share = flatness(_levels(values))
    assert share[4, 0] == 0
    assert share[4, 5] == 1


def test_black_and_white_pixels_side_by_side_are_no_flat_ground() -> None:
    pattern = np.random.default_rng(1).integers(0, 2, (40, 40)) * 255
    assert flatness(_levels(pattern)).max() == 0


@pytest.mark.parametrize("deviation", [0.4, 1.0, 3.0])
def test_noise_is_no_flat_ground(deviation: float) -> None:
    assert flatness(_levels(_noise(96, 96, deviation=deviation))).max() == 0


@pytest.mark.parametrize("plateau", [8, 20, 60])
@pytest.mark.parametrize("kind", ["across", "aslant", "round"])
def test_rounded_gradients_are_flat_everywhere(plateau: int, kind: str) -> None:
    y, x = np.mgrid[:128, :128].astype(float)
    distance = {"across": x, "aslant": 0.8 * x + 0.6 * y, "round": np.hypot(x - 31.4, y - 70.2)}[kind]
    values = np.stack([np.floor((distance + offset) / plateau) + base for offset, base in ((0, 40), (3, 90), (6, 200))])
    assert flatness(_levels(values)).min() == 1


def test_a_steep_gradient_is_flat_up_to_the_edges() -> None:
    ramp = torch.linspace(0.05, 0.95, 64).mul(255).round().div(255)
    assert flatness(ramp.expand(3, 40, 64)).min() == 1
    assert flatness(ramp[:, None].expand(3, 64, 40)).min() == 1


def test_flat_ground_takes_the_enlarged_input_and_the_rest_is_left_alone() -> None:
    values = _noise(48, 48)
    values[:, :, 24:] = 255
    lr = _levels(values)
    enlarged, restored = upsample(lr[None], 4)[0], torch.rand(3, 192, 192)
    held = hold_flat(restored.clone(), enlarged, lr)
    assert held[:, :, 4 * 24 + 14 :].min() > 1 - 1e-5
    assert torch.equal(held[:, :, : 4 * 23], restored[:, :, : 4 * 23])


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2)])
def test_tiny_pictures_have_a_share_each(size: tuple[int, int]) -> None:
    share = flatness(torch.full((3, *size), 0.3))
    assert share.shape == size
    assert (share == 1).all()
