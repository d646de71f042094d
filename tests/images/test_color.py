import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor
from torch.nn import functional as F

from rcodsr.images.color import bleed, limit_chroma, limit_overshoot, low_pass, match
from rcodsr.options import ColorFix

KINDS: list[ColorFix] = ["wavelet", "adain", "none"]


@pytest.fixture
def face() -> Tensor:
    pixels = np.ascontiguousarray(skimage.data.astronaut()[:96, 180:300])
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 * 0.6 + 0.2  # room for casts


def dense_low_pass(plane: Tensor) -> Tensor:
    """StableSR's wavelet blur, literally: five 3×3 convolutions with growing dilation."""
    row = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(row, row)[None, None]
    for dilation in (1, 2, 4, 8, 16):
        padded = F.pad(plane[None, None], (dilation,) * 4, mode="replicate")
        plane = F.conv2d(padded, kernel, dilation=dilation)[0, 0]
    return plane


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 3), (40, 31), (96, 120)])
def test_low_pass_is_the_dense_a_trous_filter(shape: tuple[int, int]) -> None:
    plane = torch.rand(shape, generator=torch.Generator().manual_seed(3))
    before = plane.clone()
    assert torch.allclose(low_pass(plane), dense_low_pass(plane), atol=1e-6)
    assert torch.equal(plane, before)


def test_low_pass_keeps_a_constant() -> None:
    assert torch.allclose(low_pass(torch.full((20, 30), 0.37)), torch.tensor(0.37), atol=1e-6)


def test_low_pass_removes_the_finest_stripes() -> None:
    stripes = torch.arange(128).remainder(2).float().expand(64, 128)
    inside = low_pass(stripes)[:, 40:-40]  # the five passes reach 31 pixels far
    assert torch.allclose(inside, torch.tensor(0.5), atol=1e-6)


def test_wavelet_removes_a_colour_cast(face: Tensor) -> None:
    cast = torch.tensor([0.15, -0.05, 0.08])[:, None, None]
    assert torch.allclose(match(face + cast, face, "wavelet"), face, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_beyond_the_range_of_pictures_does_not_count(face: Tensor, kind: ColorFix) -> None:
    """Halos of a network reach far below 0 and above 1; as the originals, the fix measures the picture that would be seen."""
    beyond = face.clone()
    beyond[:, 40:50, 40:60], beyond[:, 40:50, 60:80] = 1.6, -0.5
    seen = match(beyond.clamp(0, 1), face, kind)
    assert torch.equal(match(beyond, face, kind), seen)
    assert (seen == match(face.clone(), face, kind)).float().mean() < 1


def test_wavelet_keeps_the_pictures_high_frequencies() -> None:
    # fine stripes on a wrong level over a smooth reference: the level changes, the stripes stay
    stripes = 0.1 * torch.tensor([1.0, -1.0]).repeat(64).expand(3, 128, 128)
    reference = torch.full((3, 128, 128), 0.4)
    result = match(stripes + 0.6, reference, "wavelet")
    inside = (slice(None), slice(40, -40), slice(40, -40))
    assert torch.allclose(result[inside], (stripes + 0.4)[inside], atol=1e-3)


def test_wavelet_ignores_the_references_high_frequencies() -> None:
    stripes = 0.1 * torch.tensor([1.0, -1.0]).repeat(64).expand(3, 128, 128)
    result = match(torch.full((3, 128, 128), 0.6), stripes + 0.4, "wavelet")
    inside = (slice(None), slice(40, -40), slice(40, -40))
    assert torch.allclose(result[inside], torch.tensor(0.4), atol=1e-3)


def test_wavelet_takes_the_references_low_frequencies(face: Tensor) -> None:
    picture = face.flip(2) * 0.5 + 0.25
    result = match(picture.clone(), face, "wavelet")
    for channel, original, target in zip(result, picture, face, strict=True):
        expected = original - dense_low_pass(original) + dense_low_pass(target)
        assert torch.allclose(channel, expected.clamp(0, 1), atol=1e-5)


def test_none_only_clamps() -> None:
    picture = torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.5, 0.75]).view(1, 2, 3).repeat(3, 1, 1)
    expected = picture.clamp(0, 1)
    assert torch.equal(match(picture, torch.rand(3, 2, 3), "none"), expected)


def test_adain_matches_mean_and_standard_deviation(face: Tensor) -> None:
    reference = face * 0.5 + torch.tensor([0.1, 0.25, 0.3])[:, None, None]
    result = match(face.flip(1) * 0.8 + 0.05, reference, "adain")
    assert torch.allclose(result.mean((1, 2)), reference.mean((1, 2)), atol=1e-3)
    assert torch.allclose(result.std((1, 2)), reference.std((1, 2)), rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_matching_a_picture_with_itself_changes_nothing(face: Tensor, kind: ColorFix) -> None:
    assert torch.allclose(match(face.clone(), face, kind), face, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_written_over_the_picture_and_the_reference_is_kept(face: Tensor, kind: ColorFix) -> None:
    picture, reference = face * 1.2, face.clone()
    result = match(picture, reference, kind)
    assert result.data_ptr() == picture.data_ptr()
    assert torch.equal(reference, face)
    assert result.min() >= 0
    assert result.max() <= 1


@pytest.mark.parametrize("kind", ["wavelet", "adain"])
def test_one_pixel_takes_the_references_colour(kind: ColorFix) -> None:
    reference = torch.tensor([0.2, 0.5, 0.9]).view(3, 1, 1)
    assert torch.allclose(match(torch.full((3, 1, 1), 0.7), reference, kind), reference, atol=1e-6)


def test_one_pixel_works_without_colour_fix() -> None:
    assert torch.equal(match(torch.full((3, 1, 1), 0.7), torch.zeros(3, 1, 1), "none"), torch.full((3, 1, 1), 0.7))


@pytest.mark.parametrize("kind", ["wavelet", "adain"])
def test_a_constant_picture_takes_a_constant_references_colour(kind: ColorFix) -> None:
    result = match(torch.full((3, 33, 17), 0.8), torch.full((3, 33, 17), 0.3), kind)
    assert torch.allclose(result, torch.tensor(0.3), atol=1e-5)


def test_bleed_spreads_visible_colour_under_transparent_pixels() -> None:
    rgb = torch.zeros(3, 9, 13)
    alpha = torch.zeros(1, 9, 13)
    rgb[:, 2:5, 3:6] = torch.tensor([0.8, 0.4, 0.2]).view(3, 1, 1)
    alpha[:, 2:5, 3:6] = 0.5
    filled = bleed(rgb, alpha)
    torch.testing.assert_close(filled, torch.tensor([0.8, 0.4, 0.2]).view(3, 1, 1).expand_as(rgb), atol=1e-5, rtol=0)


def test_bleed_leaves_visible_pixels_and_opaque_or_empty_pictures_alone() -> None:
    rgb = torch.rand(3, 8, 8)
    some = (torch.rand(1, 8, 8) > 0.5).float()
    filled = bleed(rgb, some)
    torch.testing.assert_close(filled * some, rgb * some)
    torch.testing.assert_close(bleed(rgb, torch.ones(1, 8, 8)), rgb)
    assert torch.isfinite(bleed(rgb, torch.zeros(1, 8, 8))).all()


def test_bleed_weighs_colours_by_alpha() -> None:
    """A faint rest (2 of 255) of a green ground around a red cut-out, and noise that cannot be seen at all."""
    rgb, alpha = torch.tensor([0.1, 0.9, 0.1]).view(3, 1, 1).repeat(1, 24, 24), torch.full((1, 24, 24), 2 / 255)
    rgb[:, 8:16, 8:16], alpha[:, 8:16, 8:16] = torch.tensor([0.8, 0.1, 0.1]).view(3, 1, 1), 1.0
    rgb[:, 20:], alpha[:, 20:] = torch.rand(3, 4, 24), 0.0
    filled = bleed(rgb, alpha)
    assert torch.equal(filled[:, 8:16, 8:16], rgb[:, 8:16, 8:16])
    rim = filled[:, 5:8, 8:16]  # further than a cubic kernel looks
    assert rim[0].min() > 0.73
    assert rim[1].max() < 0.18


def test_bleed_keeps_the_detail_of_what_fades_slowly() -> None:
    rgb, alpha = torch.rand(3, 16, 64), torch.linspace(1, 0.3, 64).expand(1, 16, 64)
    torch.testing.assert_close(bleed(rgb, alpha), rgb)
    torch.testing.assert_close(bleed(rgb, torch.full((1, 16, 64), 0.02)), rgb)


def test_colour_is_taken_off_where_the_input_has_none() -> None:
    lr = torch.rand(1, 24, 24).repeat(3, 1, 1)
    lr[:, 8:12, 8:12] = torch.tensor([0.8, 0.1, 0.2]).view(3, 1, 1)  # the red stamp of a grey page
    tinted = torch.rand(3, 96, 96)
    limited = limit_chroma(tinted.clone(), lr)
    spread = (limited.amax(0) - limited.amin(0)).view(24, 4, 24, 4).amax((1, 3))
    near = torch.zeros(24, 24, dtype=torch.bool)
    near[6:14, 6:14] = True
    assert spread[~near].max() < 1e-6
    torch.testing.assert_close(limited[:, 32:48, 32:48], tinted[:, 32:48, 32:48])  # twice the stamp's own 0.7 is allowed
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    torch.testing.assert_close((limited * luma).sum(0), (tinted * luma).sum(0))


def test_overshoot_is_cut_to_the_range_nearby_and_edges_stay_steep() -> None:
    soft = torch.linspace(0, 1, 16).clamp(0.4, 0.6).expand(3, 16, 16).contiguous()
    sharp = (torch.arange(16) >= 8).float().mul(0.2).add(0.4).expand(3, 16, 16).clone()
    sharp[:, :, 6], sharp[:, :, 9] = 0.3, 0.7  # a halo on both sides
    limited = limit_overshoot(sharp.clone(), soft)
    assert limited.min() >= 0.4
    assert limited.max() <= 0.6
    assert (limited[:, :, 8] - limited[:, :, 7]).min().item() == pytest.approx(0.2)


def test_overshoot_on_one_pixel_pictures() -> None:
    assert limit_overshoot(torch.ones(3, 1, 1), torch.zeros(3, 1, 1)).max() == 0
