import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from rcodsr.images.resize import pad_to_multiple, resize, upsample


@pytest.fixture(scope="module")
def cat() -> np.ndarray:
    return np.ascontiguousarray(skimage.data.chelsea()[40:168, 100:292])  # 128×192


def to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def pillow_float(x: Tensor, height: int, width: int) -> np.ndarray:
    """Pillow's bicubic on 32-bit planes: its 8-bit version clips and rounds between the two passes."""
    planes = [Image.fromarray(plane.numpy()).resize((width, height), Image.Resampling.BICUBIC) for plane in x[0]]
    return np.stack([np.asarray(plane) for plane in planes]).clip(0, 1)


@pytest.mark.parametrize(("height", "width"), [(512, 768), (32, 48), (50, 31), (200, 97), (1, 1)])
def test_resize_is_pillows_bicubic(cat: np.ndarray, height: int, width: int) -> None:
    x = to_tensor(cat)
    ours = resize(x, height, width)
    assert ours.shape == (1, 3, height, width)
    assert np.abs(ours[0].numpy() - pillow_float(x, height, width)).max() < 1e-4


@pytest.mark.parametrize(("height", "width"), [(512, 768), (32, 48)])
def test_resize_is_within_one_step_of_pillows_8_bit_result(cat: np.ndarray, height: int, width: int) -> None:
    reference = np.asarray(Image.fromarray(cat).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    ours = resize(to_tensor(cat), height, width)[0].permute(1, 2, 0).mul(255).round().numpy().astype(int)
    assert np.abs(ours - reference).max() <= 1


def test_resize_result_stays_in_range_at_hard_edges() -> None:
    checkers = (torch.arange(12)[:, None] // 3 + torch.arange(12) // 3).remainder(2).float().expand(1, 3, 12, 12)
    for side in (48, 50, 7):
        result = resize(checkers, side, side)
        assert result.min() >= 0
        assert result.max() <= 1
    assert resize(checkers, 48, 48).max() == 1  # bicubic overshoots here, so the limit was needed


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_constant_picture_stays_constant(level: float) -> None:
    for height, width in ((40, 60), (3, 2), (1, 1)):
        assert torch.allclose(resize(torch.full((1, 3, 10, 15), level), height, width), torch.tensor(level), atol=1e-6)


def test_resize_to_the_same_size_changes_nothing(cat: np.ndarray) -> None:
    x = to_tensor(cat)
    assert torch.equal(resize(x, *x.shape[-2:]), x)


def test_resize_leaves_its_input_alone(cat: np.ndarray) -> None:
    x = to_tensor(cat)
    before = x.clone()
    resize(x, 33, 44)
    assert torch.equal(x, before)


def test_upsample_multiplies_both_sides(cat: np.ndarray) -> None:
    x = to_tensor(cat)[..., :9, :7]
    assert torch.equal(upsample(x, 4), resize(x, 36, 28))


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 8, 16, 64]))
@settings(max_examples=150, deadline=None)
def test_padding_keeps_the_picture_and_reaches_the_multiple(height: int, width: int, multiple: int) -> None:
    x = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height * 41 + width))
    padded = pad_to_multiple(x, multiple)
    for side, original in zip(padded.shape[-2:], (height, width), strict=True):
        assert side % multiple == 0
        assert original <= side < original + multiple
    assert torch.equal(padded[..., :height, :width], x)


@pytest.mark.parametrize("side", range(1, 41))
def test_padding_works_at_every_side(side: int) -> None:
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(side))
    padded = pad_to_multiple(x, 16)
    assert padded.shape[-2:] == (-(-side // 16) * 16,) * 2
    assert torch.equal(padded[..., :side, :side], x)
    assert set(padded.unique().tolist()) <= set(x.unique().tolist())  # nothing invented


def test_padding_repeats_a_single_pixel() -> None:
    pixel = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1)
    assert torch.equal(pad_to_multiple(pixel, 16), pixel.expand(1, 3, 16, 16))


def test_padding_mirrors_first_and_then_repeats() -> None:
    row = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    assert pad_to_multiple(row, 8)[0, 0, 0].tolist() == [1, 2, 3, 2, 1, 1, 1, 1]
    assert pad_to_multiple(row, 4)[0, 0, 0].tolist() == [1, 2, 3, 2]


def test_a_fitting_picture_is_not_padded() -> None:
    x = torch.rand(1, 3, 32, 16)
    assert torch.equal(pad_to_multiple(x, 16), x)
