"""The paper's networks: real shapes without weights, small ones with weights, and the full model on a small picture."""

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from rcodsr.models.build import build_model, random_model
from rcodsr.models.lora import add_lora, parameter_counts, unet_adapters, vae_adapters
from rcodsr.models.one_step import OneStepSR
from rcodsr.models.stable_diffusion import CLIP_MEAN, CLIP_STD, ClipVisionTower, KlAutoencoder
from rcodsr.parts import ClipSpec, KlSpec
from rcodsr.variants import RCOD_O, RCOD_S


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def shapes() -> OneStepSR:
    """RCOD_O at its real size, without memory for its weights."""
    return build_model(RCOD_O, weightless=True)


def test_the_bases_have_their_published_sizes(shapes: OneStepSR) -> None:
    assert _count(shapes.unet) == 865_910_724
    assert _count(shapes.autoencoder) == 83_653_863
    assert _count(shapes.prompt.get_submodule("tower")) == 303_179_776


def test_parameter_names_are_those_of_the_published_files(shapes: OneStepSR) -> None:
    unet, vae = shapes.unet.state_dict(), shapes.autoencoder.state_dict()
    assert unet["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape == (320, 1024)
    assert unet["time_embedding.linear_1.weight"].shape == (1280, 320)
    assert unet["mid_block.attentions.0.proj_in.weight"].shape == (1280, 1280)  # linear, as in SD 2
    assert vae["encoder.mid_block.attentions.0.to_q.weight"].shape == (512, 512)
    assert {"quant_conv.weight", "post_quant_conv.weight", "decoder.conv_out.bias"} <= vae.keys()
    vision = shapes.prompt.get_submodule("tower.vision").state_dict()
    assert vision["encoder.layers.23.self_attn.q_proj.weight"].shape == (1024, 1024)
    assert vision["embeddings.position_embedding.weight"].shape == (257, 1024)


def test_lora_goes_where_osediff_puts_it(shapes: OneStepSR) -> None:
    unet, vae = unet_adapters(shapes.unet), vae_adapters(shapes.autoencoder)
    assert {name: len(names) for name, names in unet.items()} == {
        "default_encoder": 94,
        "default_decoder": 148,
        "default_others": 16,
    }
    assert {name: len(names) for name, names in vae.items()} == {"default_encoder": 32}
    named = {name for names in unet.values() for name in names}
    assert not any("time_emb" in name or "norm" in name for name in named)
    assert {"conv_in", "conv_out", "up_blocks.1.upsamplers.0.conv", "down_blocks.0.downsamplers.0.conv"} <= named


def test_trainable_parameters_are_the_papers() -> None:
    """Table 2's 9.5 M: two U-Net LoRAs (the regulariser's too), the encoder's, conv_in, and VPIM's linear layer."""
    model = build_model(RCOD_O, weightless=True)
    assert RCOD_O.lora is not None
    with torch.device("meta"):
        add_lora(model, RCOD_O.lora)
    counts = parameter_counts(model)
    assert counts == {"unet_lora": 4_055_712, "vae_lora": 369_356, "conv_in": 11_840, "vpim": 1_049_600}
    assert sum(counts.values()) == 5_486_508
    assert sum(counts.values()) + counts["unet_lora"] == 9_542_220
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 5_486_508


def test_trainable_parameters_of_the_second_variant_are_the_papers() -> None:
    """Table 2's 35.5 M: the LoRA of 257 + 31 modules, conv_in, what steers the LoRA, and VPIM's linear layer."""
    model = build_model(RCOD_S, weightless=True)
    assert RCOD_S.lora is not None
    with torch.device("meta"):
        add_lora(model, RCOD_S.lora)
    counts = parameter_counts(model)
    assert counts == {
        "unet_lora": 32_434_304,
        "vae_lora": 1_477_168,
        "conv_in": 11_840,
        "modulation_mlps": 550_784,
        "block_embeddings": 1_024,
        "vpim": 1_049_600,
    }
    assert sum(counts.values()) == 35_524_720
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 35_524_720
    assert _count(model.get_submodule("modulator.estimator")) == 2_351_362  # frozen
    layers = [name for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)]
    assert sum(name.startswith("unet.") for name in layers) == 257
    assert sum(name.startswith("autoencoder.encoder.") for name in layers) == 31
    assert len(layers) == 288
    scales = {name.partition(".")[0]: dict(vars(model.get_submodule(name))["scaling"]) for name in layers}
    assert scales == {"unet": {"default_all": 0.25}, "autoencoder": {"default_encoder": 0.5}}


def test_latents_are_the_mode_of_diffusers_posterior() -> None:
    spec = KlSpec(widths=(16, 16, 32), blocks=1, norm_groups=8)
    ours = KlAutoencoder(spec).eval()
    theirs = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=spec.widths,
        layers_per_block=1,
        norm_num_groups=8,
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        z = ours.encode(x)
        assert z.shape == (2, 4, 8, 12)
        torch.testing.assert_close(z, theirs.encode(2 * x - 1).latent_dist.mode() * 0.18215)
        torch.testing.assert_close(2 * ours.decode(z) - 1, theirs.decode(z / 0.18215).sample)
        assert torch.equal(z, ours.encode(x))


def test_every_clip_token_passes_the_last_norm() -> None:
    tower = ClipVisionTower(ClipSpec(image_side=28, width=32, layers=2, heads=2)).eval()
    x = torch.rand(2, 3, 28, 28)
    with torch.no_grad():
        norm = tower.vision.post_layernorm
        norm.weight.normal_(), norm.bias.normal_()
        tokens = tower(x)
        assert tokens.shape == (2, 5, 32)
        mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
        theirs = tower.vision(pixel_values=(x - mean) / std)
        torch.testing.assert_close(tokens[:, 0], theirs.pooler_output)
        torch.testing.assert_close(tokens[:, 1:], norm(theirs.last_hidden_state[:, 1:]))


@pytest.mark.slow
def test_one_step_at_the_real_size() -> None:
    """1.25 billion random weights, 128×128 pixels: about 6 GB and half a minute."""
    model = random_model(RCOD_O, seed=0)
    x_l = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        condition = model.condition(x_l, torch.tensor([750]))
        out = model(x_l, condition)
    assert condition.tokens.shape == (1, 257, 1024)
    assert out.shape == (1, 3, 128, 128)
    assert torch.isfinite(out).all()
    assert out.std() > 1e-3
