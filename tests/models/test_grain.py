"""Noise beside the latents: seeded, the same in tiles and whole, and as strong as the U-Net predicts."""

from dataclasses import replace

import torch

from rcodsr.engine.runtime import choose_runtime
from rcodsr.engine.upscaler import Upscaler
from rcodsr.images.picture import Picture
from rcodsr.models.build import build_model
from rcodsr.models.grain import SIDE, Grain
from rcodsr.models.one_step import Condition, OneStepSR
from rcodsr.models.tiny_unet import TinyUNet
from rcodsr.options import UpscaleOptions
from rcodsr.parts import TinyUNetSpec
from rcodsr.variants import VariantSpec


def _at(*origins: tuple[int, int]) -> torch.Tensor:
    return torch.tensor(origins)


def test_a_sample_is_mean_plus_deviation_times_noise() -> None:
    grain = Grain(3)
    mean, deviation = torch.randn(2, 3, 40, 56), torch.rand(2, 3, 40, 56)
    sample = grain(torch.cat((mean, deviation), 1), _at((0, 0), (0, 0)))
    torch.testing.assert_close(sample, mean + deviation * grain.field[:, :40, :56])
    noise = grain.field
    assert abs(float(noise.mean())) < 0.03 and abs(float(noise.std()) - 1) < 0.03
    beside = torch.corrcoef(torch.stack((noise.flatten(), noise.roll(1, 2).flatten(), noise.roll(1, 0).flatten())))
    assert (beside - torch.eye(3)).abs().max() < 0.05  # white: neither positions nor sub-bands are correlated


def test_the_noise_is_the_same_everywhere_and_always() -> None:
    """These numbers are part of the weights: others would change every picture."""
    torch.testing.assert_close(Grain(48).field[0, 0, :3], torch.tensor([1.764052, 0.400157, 0.978738]))


def test_a_tile_draws_what_its_place_in_the_picture_draws() -> None:
    grain = Grain(6)
    net = torch.randn(1, 12, 150, 90)
    whole = grain(net, _at((0, 0)))
    tiles = torch.cat((net[:, :, 100:130, 40:80], net[:, :, 8:38, 0:40]))
    parts = grain(tiles, _at((100, 40), (8, 0)))
    torch.testing.assert_close(parts[0], whole[0, :, 100:130, 40:80])
    torch.testing.assert_close(parts[1], whole[0, :, 8:38, 0:40])
    assert not torch.equal(grain(net, _at((1, 0))), whole)
    assert torch.equal(grain(net, _at((SIDE, 2 * SIDE))), whole)


def test_conditions_keep_the_origin_of_their_tile() -> None:
    condition = Condition(torch.tensor([250, 750]), torch.randn(2, 3, 4), origin=_at((4, 8), (12, 16)))
    assert condition[1:].begins.tolist() == [[12, 16]]
    assert condition[1:].expand(3).begins.tolist() == [[12, 16]] * 3
    assert replace(condition, origin=None).begins.tolist() == [[0, 0]] * 2


def test_tiles_of_a_grainy_picture_agree(small_model: OneStepSR) -> None:
    upscaler = Upscaler(small_model, choose_runtime("cpu"), "small")
    picture = Picture(torch.rand(3, 40, 150) * 0.5 + 0.25)
    calm = upscaler.run(picture, UpscaleOptions(tile=0)).picture.rgb
    with torch.no_grad():
        small_model.unet.get_parameter("deviation.bias").add_(0.5)
    whole, tiled = (upscaler.run(picture, UpscaleOptions(tile=tile, tile_overlap=24)).picture.rgb for tile in (0, 64))
    assert (whole - calm).std() > 0.02
    assert (whole - tiled).square().mean().sqrt() < 0.002


def test_a_network_gets_grain_without_losing_what_it_computes(small_spec: VariantSpec) -> None:
    spec = TinyUNetSpec(channels=(8, 12), blocks=(1, 3), embedding=16, heads=2)
    unet = TinyUNet(4, 6, spec)
    torch.nn.init.normal_(unet.conv_out.weight, std=0.2)
    grainy = unet.grown(replace(spec, grain=True))
    z, t, tokens = torch.randn(2, 4, 8, 8), torch.tensor([250, 750]), torch.randn(2, 5, 6)
    with torch.no_grad():
        mean, deviation = grainy(z, t, tokens).chunk(2, 1)
        torch.testing.assert_close(mean, unet(z, t, tokens))
    assert not deviation.any()
    assert grainy.grown(spec).spec.grain
    assert isinstance(small_spec.unet, TinyUNetSpec)
    assert build_model(replace(small_spec, unet=replace(small_spec.unet, grain=False))).grain is None
