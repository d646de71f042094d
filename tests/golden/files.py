"""The files that OSEDiff, S3Diff and PiSA-SR publish, at tiny size with random values, and the base under them.

Every name, order, number and text is written out here as the originals have it, not taken from `rcodsr`.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from tests.golden.arithmetic import Array
from tests.text_base import write_text_encoder

WIDTHS, HEADS, CONTEXT, TOKENS = (8, 16, 24, 24), (1, 2, 3, 3), 24, 12
"""Widths that grow where those of SD 2.1 do (320, 640, 1280, 1280), so that there are as many layers to adapt."""
FREQUENCIES, EMBEDDING, HIDDEN, NARROW, WIDE = 4, 6, 10, 6, 8
"""Of S3Diff's modulation and degradation estimator: 64, 64, 512, 64, 128 in the published ones."""
OSEDIFF_PROMPT = "a sharp, detailed, high quality photo"
"""Ours, in the place of tags."""
POSITIVE = "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, and natural lighting."
NEGATIVE = "oil painting, cartoon, blur, dirty, messy, low quality, deformation, low resolution, oversmooth"
LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "conv_shortcut", "conv", "conv_in", "conv_out"),
    *("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
)

State = dict[str, Any]


def networks(blocks: int) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """Those of SD 2.1, which has 2 blocks a level, in narrow."""
    unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=WIDTHS,
        layers_per_block=blocks,
        attention_head_dim=HEADS,
        cross_attention_dim=CONTEXT,
        norm_num_groups=4,
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=WIDTHS,
        layers_per_block=blocks,
        latent_channels=4,
        norm_num_groups=4,
    )
    return unet.eval(), vae.eval()


class Base:
    """A diffusion base with random weights, in memory and as a directory.

    Args:
        directory: where it goes.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.unet, self.vae = networks(blocks=1)
        for name, network in (("unet", self.unet), ("vae", self.vae)):
            (directory / name).mkdir(parents=True)
            state = {key: value.contiguous() for key, value in network.state_dict().items()}
            save_file(state, directory / name / "diffusion_pytorch_model.safetensors")
        (directory / "scheduler").mkdir()
        (directory / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": "epsilon"}))
        write_text_encoder(directory, width=CONTEXT, length=TOKENS)

    def tell(self, text: str) -> Array:
        """The text encoder's last states, (1, tokens, width)."""
        tokenizer = CLIPTokenizer.from_pretrained(self.directory / "tokenizer")
        encoder: Any = CLIPTextModel.from_pretrained(self.directory / "text_encoder", dtype=torch.float32)
        with torch.no_grad():
            ids = tokenizer(text, max_length=TOKENS, padding="max_length", truncation=True, return_tensors="pt").input_ids
            return np.asarray(encoder(ids)[0])


def adapted_layers(network: nn.Module) -> list[str]:
    """What has a weight, is no normalisation, and ends like one of `LAYERS`."""
    weights = [name.removesuffix(".weight") for name, _ in network.named_parameters() if name.endswith(".weight")]
    found = [name for name in weights if "norm" not in name.rpartition(".")[2]]
    return [name for name in found if any(name == layer or name.endswith(f".{layer}") for layer in LAYERS)]


def lora(network: nn.Module, adapters: dict[str, list[str]], rank: int) -> State:
    """Random A and B of each layer, by peft's names."""
    state, weights = {}, network.state_dict()
    for adapter, names in adapters.items():
        for name in names:
            out, *rest = weights[f"{name}.weight"].shape
            state[f"{name}.lora_A.{adapter}.weight"] = 0.1 * torch.randn(rank, *rest)
            state[f"{name}.lora_B.{adapter}.weight"] = 0.1 * torch.randn(out, rank, *[1] * (len(rest) - 1))
    return state


def sides(unet: nn.Module) -> dict[str, list[str]]:
    """OSEDiff's three lists: conv_in and the way down, conv_out and the way up, the middle."""
    names = adapted_layers(unet)
    encoder = [name for name in names if name.startswith(("conv_in", "down_blocks."))]
    decoder = [name for name in names if name.startswith(("conv_out", "up_blocks."))]
    return {"encoder": encoder, "decoder": decoder, "others": [name for name in names if name.startswith("mid_block.")]}


def encoder_layers(vae: nn.Module) -> list[str]:
    """S3Diff's layers of the autoencoder; OSEDiff has `quant_conv` besides."""
    return [name for name in adapted_layers(vae) if name.startswith("encoder.")]


def osediff(base: Base) -> State:
    unet, vae = sides(base.unet), [*encoder_layers(base.vae), "quant_conv"]
    changed = {f"conv_in.base_layer.{kind}": 0.3 * torch.randn(*base.unet.conv_in.get_parameter(kind).shape) for kind in BOTH}
    return {
        "vae_lora_encoder_modules": vae,
        **{f"unet_lora_{side}_modules": names for side, names in unet.items()},
        "rank_unet": 4,
        "rank_vae": 4,
        "state_dict_unet": changed | lora(base.unet, {f"default_{side}": names for side, names in unet.items()}, 4),
        "state_dict_vae": lora(base.vae, {"default_encoder": vae}, 4),
    }


def pisa_sr(base: Base) -> State:
    unet = {(half, side): names for half in ("pix", "sem") for side, names in sides(base.unet).items()}
    return {
        **{f"unet_lora_{side}_modules_{half}": names for (half, side), names in unet.items()},
        "lora_rank_unet_pix": 4,
        "lora_rank_unet_sem": 4,
        "state_dict_unet": lora(base.unet, {f"default_{side}_{half}": names for (half, side), names in unet.items()}, 4),
    }


BOTH = ("weight", "bias")
RANKS = {"unet": 6, "vae": 5}
"""Of S3Diff's LoRA: 32 and 16 in the published one."""


def s3diff(base: Base) -> State:
    unet = [name for name in adapted_layers(base.unet) if name != "conv_in"]
    scores, blocks = 4 * FREQUENCIES, {"vae": 6, "unet": 10}
    state: State = {
        "unet_lora_target_modules": [layer for layer in LAYERS if layer != "conv_in"],
        "vae_lora_target_modules": r"^encoder\..*(conv1|conv2|conv_in|conv_shortcut|conv|conv_out|to_k|to_q|to_v|to_out\.0)$",
        "rank_unet": RANKS["unet"],
        "rank_vae": RANKS["vae"],
        "state_dict_unet": {f"conv_in.{kind}": base.unet.conv_in.get_parameter(kind).detach() + 0.1 for kind in BOTH}
        | lora(base.unet, {"default": unet}, RANKS["unet"]),
        "state_dict_vae": lora(base.vae, {"vae_skip": encoder_layers(base.vae)}, RANKS["vae"]),
        "w": nn.Parameter(torch.randn(FREQUENCIES), requires_grad=False),
        "state_embeddings": {},
    }
    for network, rank in RANKS.items():
        state[f"state_dict_{network}_de_mlp"] = _layer(scores, scores, "0.")
        state[f"state_dict_{network}_block_mlp"] = _layer(EMBEDDING, EMBEDDING, "0.")
        state[f"state_dict_{network}_fuse_mlp"] = _layer(scores + EMBEDDING, rank**2)
        state["state_embeddings"][f"state_dict_{network}_block"] = {"weight": torch.randn(blocks[network], EMBEDDING)}
    return state


def de_net() -> State:
    """The degradation estimator: per branch a convolution, six blocks, a convolution of stride 2, two blocks, two layers."""
    state: State = {}
    for branch in range(2):
        state |= _convolution(f"conv_first.{branch}.", 3, NARROW)
        for block in range(9):
            width = NARROW if block < 6 else WIDE
            if block == 6:
                state |= _convolution(f"body.{branch}.6.", NARROW, WIDE)
                continue
            for one in ("conv1", "conv2"):
                state |= _convolution(f"body.{branch}.{block}.{one}.", width, width)
        state |= _layer(WIDE, HIDDEN, f"fc_degree.{branch}.0.") | _layer(HIDDEN, 1, f"fc_degree.{branch}.2.")
    return state


def _layer(wide_in: int, wide_out: int, name: str = "") -> State:
    return {f"{name}weight": torch.randn(wide_out, wide_in) / math.sqrt(wide_in), f"{name}bias": 0.1 * torch.randn(wide_out)}


def _convolution(name: str, wide_in: int, wide_out: int) -> State:
    return {
        f"{name}weight": torch.randn(wide_out, wide_in, 3, 3) / (3 * math.sqrt(wide_in)),
        f"{name}bias": torch.zeros(wide_out),
    }
