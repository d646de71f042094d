"""OSEDiff, S3Diff and PiSA-SR at tiny size: the files they would publish, and the picture they would make of one input.

Every name, order, number and text is written out here as the originals have it, not taken from `rcodsr`. Networks are stock
diffusers and transformers, in float64; LoRA is merged into their weights by hand, S3Diff's for each picture.
"""

import copy
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

from tests.golden.arithmetic import Array, adain, affine, bicubic, convolved, mirrored, one_step, relu, wavelet
from tests.text_base import write_text_encoder

WIDTHS, CONTEXT, TOKENS = (8, 16, 24, 24), 24, 12
"""Widths that grow where those of SD 2.1 do (320, 640, 1280, 1280), so that there are as many layers to adapt."""
FREQUENCIES, EMBEDDING, HIDDEN, NARROW, WIDE = 4, 6, 10, 6, 8
"""Of S3Diff's modulation and degradation estimator: 64, 64, 512, 64, 128 in the published ones."""
SCALING, ALPHA = 0.18215, 8
OSEDIFF_PROMPT = "a sharp, detailed, high quality photo"
"""Ours, in the place of tags."""
POSITIVE = "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, and natural lighting."
NEGATIVE = "oil painting, cartoon, blur, dirty, messy, low quality, deformation, low resolution, oversmooth"
LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "conv_shortcut", "conv", "conv_in", "conv_out"),
    *("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
)

State = dict[str, Any]
Weights = dict[str, Array]


class Base:
    """A diffusion base with random weights, in memory and as a directory.

    Args:
        directory: where it goes.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.unet = UNet2DConditionModel(
            in_channels=4,
            out_channels=4,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            block_out_channels=WIDTHS,
            layers_per_block=2,
            attention_head_dim=(1, 2, 3, 3),
            cross_attention_dim=CONTEXT,
            norm_num_groups=4,
            use_linear_projection=True,
        ).eval()
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=WIDTHS,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=4,
        ).eval()
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


class Adapted:
    """A base whose networks have other weights.

    Args:
        base: the base.
        unet: changed weights of its U-Net.
        vae: of its autoencoder.
    """

    def __init__(self, base: Base, unet: Weights, vae: Weights) -> None:
        self.unet, self.vae = _with(base.unet, unet), _with(base.vae, vae)

    def encode(self, x: Array) -> Array:
        """(3, H, W) in [0, 1] → scaled posterior means (4, H / 8, W / 8)."""
        with torch.no_grad():
            encoded: Any = self.vae.encode(torch.from_numpy(2 * x[None] - 1))
            return np.asarray(encoded.latent_dist.mode()[0] * SCALING)

    def ask(self, z: Array, t: int, words: Array) -> Array:
        """The U-Net's answer."""
        tokens = torch.from_numpy(words).double()
        with torch.no_grad():
            return np.asarray(self.unet(torch.from_numpy(z[None]), torch.tensor([t]), tokens)[0][0])

    def decode(self, z: Array) -> Array:
        """Latents → picture, nominally in [0, 1]."""
        with torch.no_grad():
            decoded: Any = self.vae.decode(torch.from_numpy(z[None] / SCALING))
            return np.asarray(decoded.sample[0] / 2 + 0.5)


def _with(network: nn.Module, weights: Weights) -> Any:
    changed = copy.deepcopy(network).double()
    state = changed.state_dict()
    for key, value in weights.items():
        state[key].copy_(torch.from_numpy(value))
    return changed


# ---- files


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
    changed = {f"conv_in.base_layer.{kind}": 0.3 * torch.randn(*base.unet.conv_in.get_parameter(kind).shape) for kind in _BOTH}
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


_BOTH = ("weight", "bias")
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
        "state_dict_unet": {f"conv_in.{kind}": base.unet.conv_in.get_parameter(kind).detach() + 0.1 for kind in _BOTH}
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


# ---- what they mean


def merged(network: nn.Module, state: State, rank: int, mixed: dict[str, Array] | None = None) -> Weights:
    """W + (8 / rank) · B M A of every layer, M the identity unless given; other entries replace what they name."""
    old = {key: np.asarray(value.detach(), dtype=np.float64) for key, value in network.state_dict().items()}
    new: Weights = {}
    for key, value in state.items():
        if ".lora_B." in key:
            continue
        if ".lora_A." not in key:
            new[key.replace(".base_layer", "")] = np.asarray(value, dtype=np.float64)
    for key, value in state.items():
        if ".lora_A." not in key:
            continue
        layer = key.partition(".lora_A.")[0]
        a, b = (np.asarray(x, dtype=np.float64) for x in (value, state[key.replace(".lora_A.", ".lora_B.")]))
        if mixed is not None:
            a = np.einsum("l...,lr->r...", a, mixed[layer])  # what comes out of A is a row, times M
        change = np.einsum("or,r...->o...", b.reshape(len(b), rank), a)
        name = f"{layer}.weight"
        new[name] = new.get(name, old[name]) + ALPHA / rank * change
    return new


def degradation(lr: Array, state: State) -> Array:
    """The estimator's two scores of a picture (3, h, w) in [0, 1]."""
    net = {key: np.asarray(value, dtype=np.float64) for key, value in state.items()}

    def both(name: str) -> tuple[Array, Array]:
        return net[f"{name}.weight"], net[f"{name}.bias"]

    scores = []
    for branch in range(2):
        x = convolved(lr, *both(f"conv_first.{branch}"))
        for block in range(9):
            name = f"body.{branch}.{block}"
            if block == 6:
                x = convolved(x, *both(name), stride=2)
            else:
                x = x + convolved(relu(convolved(x, *both(f"{name}.conv1"))), *both(f"{name}.conv2"))
        hidden = relu(affine(x.mean((1, 2)), *both(f"fc_degree.{branch}.0")))
        scores.append(1 / (1 + np.exp(-affine(hidden, *both(f"fc_degree.{branch}.2"))[0])))
    return np.array(scores)


def matrices(scores: Array, state: State, network: str) -> Array:
    """M of each block, (blocks, rank, rank): Fourier features of the first score, then of the second; score before block."""

    def both(table: State, name: str = "") -> tuple[Array, Array]:
        weight, bias = (np.asarray(table[f"{name}{kind}"], dtype=np.float64) for kind in _BOTH)
        return weight, bias

    angles = 2 * np.pi * scores[:, None] * np.asarray(state["w"].detach(), dtype=np.float64)
    features = np.concatenate([np.sin(angles[0]), np.cos(angles[0]), np.sin(angles[1]), np.cos(angles[1])])
    told = relu(affine(features, *both(state[f"state_dict_{network}_de_mlp"], "0.")))
    table = np.asarray(state["state_embeddings"][f"state_dict_{network}_block"]["weight"], dtype=np.float64)
    blocks = relu(affine(table, *both(state[f"state_dict_{network}_block_mlp"], "0.")))
    fused = [affine(np.concatenate([told, block]), *both(state[f"state_dict_{network}_fuse_mlp"])) for block in blocks]
    return np.array(fused).reshape(len(blocks), RANKS[network], RANKS[network])


def block_of(network: str, layer: str) -> int:
    """Which M a layer follows."""
    if network == "vae":
        _, part, number, *_ = f"{layer}.-.-".split(".")
        return int(number) if part == "down_blocks" else {"mid_block": 4}.get(part, 5)
    part, number, *_ = f"{layer}.-".split(".")
    if part in {"down_blocks", "up_blocks"}:
        return int(number) + {"down_blocks": 0, "up_blocks": 5}[part]
    return {"mid_block": 4}.get(part, 9)


def modulated(base: Base, state: State, estimator: State, lr: Array) -> Adapted:
    """S3Diff's networks for one picture."""
    scores, weights = degradation(lr, estimator), {}
    for network, module in (("unet", base.unet), ("vae", base.vae)):
        found, table = matrices(scores, state, network), state[f"state_dict_{network}"]
        layers = {key.partition(".lora_A.")[0] for key in table if ".lora_A." in key}
        mixed = {layer: found[block_of(network, layer)] for layer in layers}
        weights[network] = merged(module, table, RANKS[network], mixed)
    return Adapted(base, **weights)


class OseDiff:
    """What `osediff.pkl` stands for."""

    fix, multiple = staticmethod(adain), 64
    enlarge = staticmethod(bicubic)

    def __init__(self, base: Base, state: State) -> None:
        unet = merged(base.unet, state["state_dict_unet"], 4)
        self.networks = Adapted(base, unet, merged(base.vae, state["state_dict_vae"], 4))
        self.words = base.tell(OSEDIFF_PROMPT)

    def restored(self, x: Array, lr: Array) -> Array:
        """ẑ_H of an enlarged picture."""
        z = self.networks.encode(x)
        return one_step(z, self.networks.ask(z, 999, self.words), 999)

    def forward(self, x: Array, lr: Array) -> Array:
        """Enlarged (3, H, W) in [0, 1] → the same size, not clamped."""
        z = self.restored(x, lr)
        return self.networks.decode(z)

    def picture(self, lr: Array) -> Array:
        """Enlarged by four."""
        x = self.enlarge(lr, 4)
        made = self.forward(mirrored(x, self.multiple), lr)[:, : x.shape[1], : x.shape[2]]
        return self.fix(np.clip(made, 0, 1), x)


class S3Diff(OseDiff):
    """What `s3diff.pkl` and `de_net.pth` stand for; `guidance` None asks once, as we do by default."""

    fix = staticmethod(wavelet)

    def __init__(self, base: Base, state: State, estimator: State, guidance: float | None = None) -> None:
        self.base, self.state, self.estimator, self.guidance = base, state, estimator, guidance
        self.positive, self.negative = base.tell(POSITIVE), base.tell(NEGATIVE)

    def restored(self, x: Array, lr: Array) -> Array:
        self.networks = modulated(self.base, self.state, self.estimator, lr)
        z = self.networks.encode(x)
        eps = self.networks.ask(z, 999, self.positive)
        if self.guidance is not None:
            away = self.networks.ask(z, 999, self.negative)
            eps = away + self.guidance * (eps - away)
        return one_step(z, eps, 999)


class PisaSr(OseDiff):
    """What `pisa_sr.pkl` stands for: pixel and semantic LoRA, merged or weighed; ẑ_H = z_L − net at t = 1."""

    def __init__(self, base: Base, state: State, weights: tuple[float, float] | None = None) -> None:
        table = state["state_dict_unet"]
        pixels = {key: value for key, value in table.items() if "_pix." in key}
        self.networks = Adapted(base, merged(base.unet, table, 4), {})
        self.pixels = Adapted(base, merged(base.unet, pixels, 4), {})
        self.words, self.weights = base.tell(""), weights

    def restored(self, x: Array, lr: Array) -> Array:
        z = self.networks.encode(x)
        net = self.networks.ask(z, 1, self.words)
        if self.weights is not None:
            p, (of_pixels, of_semantics) = self.pixels.ask(z, 1, self.words), self.weights
            net = of_pixels * p + of_semantics * (net - p)
        return z - net
