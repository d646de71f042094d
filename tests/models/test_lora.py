"""LoRA: one base, three networks."""

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from rcodsr.models.build import build_model
from rcodsr.models.lora import LoraStates, add_lora, merge_lora
from rcodsr.models.one_step import OneStepSR
from rcodsr.parts import LoraSpec
from rcodsr.variants import VariantSpec
from tests.conftest import shake

STATES = (LoraStates.GENERATOR, LoraStates.REGULARIZER, LoraStates.FROZEN)


@pytest.fixture
def model(small_sd_spec: VariantSpec) -> OneStepSR:
    model = build_model(small_sd_spec).eval()
    add_lora(model, LoraSpec())
    return model


@pytest.mark.parametrize(
    ("network", "name", "adapter"),
    [
        ("unet", "conv_in", "default_encoder"),
        ("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", "default_encoder"),
        ("unet", "mid_block.resnets.0.conv1", "default_others"),
        ("unet", "up_blocks.1.attentions.0.proj_in", "default_decoder"),
        ("autoencoder", "encoder.mid_block.attentions.0.to_q", "default_encoder"),
        ("autoencoder", "quant_conv", "default_encoder"),
    ],
)
def test_every_adapter_acts_and_merges_as_two_b_a(model: OneStepSR, network: str, name: str, adapter: str) -> None:
    """alpha / rank = 8 / 4: the layer computes W x + 2 B A x, and merging turns it into W + 2 B A."""
    layer = model.get_submodule(f"{network}.{name}")
    a, b = (layer.get_submodule(f"lora_{side}.{adapter}") for side in "AB")
    with torch.no_grad():
        b.get_parameter("weight").normal_()
        base = layer.get_submodule("base_layer")
        weight = base.get_parameter("weight")
        shape = (1, weight.shape[1], 8, 8) if weight.dim() == 4 else (1, 3, weight.shape[1])
        x = torch.randn(shape)
        expected = base(x) + 2.0 * b(a(x))
        torch.testing.assert_close(layer(x), expected)
        merge_lora(model.get_submodule(network))
        merged = model.get_submodule(f"{network}.{name}")
        assert merged is base
        torch.testing.assert_close(merged(x), expected, rtol=1e-4, atol=1e-5)


def test_a_starts_gaussian_and_b_at_zero(model: OneStepSR) -> None:
    """A ~ N(0, (1/rank)²) for any layer: Kaiming initialisation would depend on the layer's width."""
    layers = [layer for layer in model.unet.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in layers:
        for name, parameter in layer.named_parameters():
            if ".default_" in name and "lora_B" in name:
                assert not parameter.any()
            if ".default_" in name and "lora_A" in name and parameter.numel() >= 1000:
                assert parameter.std().item() == pytest.approx(0.25, rel=0.15), name
    weights = [p for layer in layers for name, p in layer.named_parameters() if "lora_A.default_" in name]
    assert torch.cat([p.flatten() for p in weights]).std().item() == pytest.approx(0.25, rel=0.02)


def test_no_adapter_is_left_without_effect(model: OneStepSR) -> None:
    for network in (model.unet, model.autoencoder):
        for layer in network.modules():
            if isinstance(layer, BaseTunerLayer):
                assert layer.active_adapters == list(layer.lora_A)  # type: ignore[arg-type]


def _outputs(states: LoraStates) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    z, tokens = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 24, generator=generator)
    outputs = []
    for state in STATES:
        with states.using(state) as unet, torch.no_grad():
            outputs.append(unet(z, torch.tensor([250, 750]), tokens))
    return outputs


def test_each_state_follows_its_own_parameters_and_the_base_follows_none(model: OneStepSR) -> None:
    states = LoraStates(model.unet, LoraSpec())
    before = _outputs(states)
    assert torch.equal(before[0], before[1])
    assert torch.equal(before[0], before[2])  # B = 0: no effect yet
    shake(states.parameters(LoraStates.GENERATOR), by=0.1)
    generator, regularizer, frozen = _outputs(states)
    assert not torch.allclose(generator, before[0])
    assert torch.equal(regularizer, before[1])
    assert torch.equal(frozen, before[2])
    shake(states.parameters(LoraStates.REGULARIZER), by=0.1)
    again = _outputs(states)
    assert torch.equal(again[0], generator)
    assert not torch.allclose(again[1], regularizer)
    assert torch.equal(again[2], frozen)


def test_the_states_share_the_base_and_no_parameter(model: OneStepSR) -> None:
    size = sum(p.numel() for p in model.unet.parameters())
    states = LoraStates(model.unet, LoraSpec())
    mine, other = (states.parameters(state) for state in STATES[:2])
    assert not {id(p) for p in mine} & {id(p) for p in other}
    assert len({id(p) for p in mine}) == len(mine)  # conv_in has LoRA and is trained in full: still once each
    assert sum(p.numel() for p in model.unet.parameters()) == size + sum(p.numel() for p in other)
    conv_in = model.unet.get_submodule("conv_in.base_layer")
    assert sum(p.numel() for p in mine) == sum(p.numel() for p in [*other, *conv_in.parameters()])
    assert states.parameters(LoraStates.FROZEN) == []


def test_switching_states_between_forward_and_backward_cuts_nothing_off(model: OneStepSR) -> None:
    states = LoraStates(model.unet, LoraSpec())
    shake(states.parameters(LoraStates.GENERATOR), by=0.1)
    z, t, tokens = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 5, 24)
    out = model.unet(z, t, tokens)
    for state in STATES[1:]:
        with states.using(state) as unet, torch.no_grad():
            unet(z, t, tokens)
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in states.parameters(LoraStates.GENERATOR))
    assert all(p.grad is None for p in states.parameters(LoraStates.REGULARIZER))
    assert all(p.grad is None for p in model.unet.parameters() if not p.requires_grad)
