"""The network of rcod-small, and the weights it loads from Real-ESRGAN's generator."""

import pytest
import torch
from torch import Tensor

from rcodsr.diffusion.schedule import NoiseSchedule
from rcodsr.images.resize import upsample
from rcodsr.models.autoencoder import WaveletAutoencoder
from rcodsr.models.build import build_model
from rcodsr.models.one_step import CleanLatent, OneStepSR
from rcodsr.models.real_esrgan import RealEsrgan, take_over
from rcodsr.models.residual_dense import ResidualDenseNet
from rcodsr.parts import ResidualDenseSpec, TowerSpec, WaveletSpec
from rcodsr.variants import VariantSpec
from tests.conftest import shake

LATENTS = WaveletSpec(refine_channels=0)


@pytest.fixture
def model() -> OneStepSR:
    spec = VariantSpec(
        name="small-dense",
        autoencoder=LATENTS,
        unet=ResidualDenseSpec(width=16, growth=8, blocks=3, embedding=16, heads=2),
        prompt=TowerSpec(image_side=16, tower_channels=(4, 8), context=12),
        noise_head="clean",
        limit_overshoot=False,
    )
    return build_model(spec).eval().requires_grad_(False)


@pytest.fixture
def generator() -> RealEsrgan:
    return RealEsrgan(width=16, growth=8, blocks=5).eval().requires_grad_(False)


def _net(model: OneStepSR) -> ResidualDenseNet:
    assert isinstance(model.unet, ResidualDenseNet)
    return model.unet


def _latents(photo: Tensor) -> WaveletAutoencoder:
    latents = WaveletAutoencoder(LATENTS)
    latents.fit(photo[None])
    return latents


def test_a_whole_generator_taken_over_makes_the_same_picture(generator: RealEsrgan, photo_tensor: Tensor) -> None:
    """With all blocks kept, and timestep and tokens without effect: only the input layer is approximated."""
    latents = _latents(photo_tensor)
    net = ResidualDenseNet(LATENTS, 12, ResidualDenseSpec(16, 8, 5, 16, 2)).eval().requires_grad_(False)
    missed = take_over(net, generator, latents)
    assert missed < 0.25
    lr = upsample(photo_tensor[None, :, 100:164, 200:264], 1)
    z = latents.encode(upsample(lr, 4))
    made = latents.decode(net(z, torch.tensor([500]), torch.randn(1, 3, 12)))
    expected = generator(lr)
    inner = (..., slice(32, -32), slice(32, -32))
    assert (made - expected)[inner].abs().mean() < 0.1 * expected[inner].std()


def test_blocks_are_left_out_evenly_with_both_ends_kept(generator: RealEsrgan, model: OneStepSR, photo_tensor: Tensor) -> None:
    net = _net(model)
    take_over(net, generator, _latents(photo_tensor))
    kernel = "rdb2.conv3.weight"
    for own, index in zip(net.body, (0, 2, 4), strict=True):
        torch.testing.assert_close(own.get_parameter(kernel), generator.body[index].get_parameter(kernel))
    assert net.output.latents.std.min() > 0
    torch.testing.assert_close(net.output.conv_last.bias, 2 * generator.get_parameter("conv_last.bias") - 1)


def test_published_names_fit() -> None:
    ours = set(RealEsrgan(blocks=1).state_dict())
    published = {"conv_first", "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"}
    published |= {f"body.0.rdb{i}.conv{k}" for i in (1, 2, 3) for k in (1, 2, 3, 4, 5)}
    assert {RealEsrgan.module_name(f"{name}.{kind}") for name in published for kind in ("weight", "bias")} == ours


def test_timestep_and_tokens_begin_without_effect_and_then_have_one(model: OneStepSR) -> None:
    net = _net(model)
    z, tokens = torch.randn(2, 48, 6, 7), torch.randn(2, 4, 12)
    early, late = torch.tensor([250, 250]), torch.tensor([750, 750])
    torch.testing.assert_close(net(z, early, tokens), net(z, late, 2 * tokens), rtol=0, atol=0)
    for learnt in (net.attention.to_out, *(block.get_submodule("film") for block in net.body)):
        shake(learnt.requires_grad_().parameters(), by=0.1)
    assert not torch.equal(net(z, early, tokens), net(z, late, tokens))
    assert not torch.equal(net(z, early, tokens), net(z, early, 2 * tokens))


def test_eq_3_gives_back_what_the_network_predicts() -> None:
    schedule = NoiseSchedule()
    z, net, t = torch.randn(3, 48, 4, 4), torch.randn(3, 48, 4, 4), torch.tensor([250, 500, 750])
    made = schedule.predict_x0(z, CleanLatent(schedule)(net, z, t), t)
    torch.testing.assert_close(made, net, rtol=0, atol=1e-5)


def test_the_picture_is_made_in_float32_by_a_network_in_bfloat16(model: OneStepSR) -> None:
    """A picture in bfloat16 would have some 250 values between -1 and 1."""
    model.to_dtype(torch.bfloat16)
    net = _net(model)
    assert net.dtype == torch.bfloat16
    assert net.output.conv_last.weight.dtype == torch.float32
    assert net.output.latents.mean.dtype == torch.float32
    z = torch.randn(1, 48, 8, 8, dtype=torch.bfloat16)
    out = net(z, torch.tensor([500]), torch.randn(1, 4, 12, dtype=torch.bfloat16))
    assert out.dtype == torch.float32
    assert not torch.equal(out, out.bfloat16().float())


def test_any_size_works_and_a_place_depends_on_its_surroundings_alone(model: OneStepSR) -> None:
    net = _net(model)
    z, t, tokens = torch.randn(1, 48, 5, 90), torch.tensor([600]), torch.randn(1, 4, 12)
    whole, part = net(z, t, tokens), net(z[..., :70], t, tokens)
    torch.testing.assert_close(whole[..., :6], part[..., :6], rtol=0, atol=1e-5)
