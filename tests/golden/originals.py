"""The pictures that OSEDiff, S3Diff and PiSA-SR make with the networks of `files`.

Networks are stock diffusers', in float64; LoRA is merged into their weights by hand, S3Diff's for each picture.
"""

import copy
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from tests.golden.arithmetic import (
    Array,
    adain,
    affine,
    bicubic,
    bilinear,
    convolved,
    cut,
    mirrored,
    one_step,
    relu,
    wavelet,
)
from tests.golden.files import BOTH, NEGATIVE, OSEDIFF_PROMPT, POSITIVE, RANKS, Base, State

SCALING, ALPHA = 0.18215, 8
Weights = dict[str, Array]


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
        weight, bias = (np.asarray(table[f"{name}{kind}"], dtype=np.float64) for kind in BOTH)
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

    fix = staticmethod(adain)
    tile, overlap, least = 96, 32, 128

    def __init__(self, base: Base, state: State) -> None:
        unet = merged(base.unet, state["state_dict_unet"], 4)
        self.networks = Adapted(base, unet, merged(base.vae, state["state_dict_vae"], 4))
        self.words = base.tell(OSEDIFF_PROMPT)

    def restored(self, x: Array, lr: Array) -> Array:
        """ẑ_H of an enlarged picture."""
        z = self.networks.encode(x)
        return self.finished(z, self.in_tiles(z))

    def asked(self, z: Array) -> Array:
        """What the U-Net says of latents."""
        return self.networks.ask(z, 999, self.words)

    def finished(self, z: Array, net: Array) -> Array:
        """ẑ_H of what the U-Net says."""
        return one_step(z, net, 999)

    def in_tiles(self, z: Array) -> Array:
        """The same; of more latents than a tile's square has, what it says of squares, blended by Gaussian weights."""
        height, width = z.shape[1:]
        if height * width <= self.tile**2:
            return self.asked(z)
        side = min(self.tile, height, width)
        places = np.arange(side)
        across, down = (np.exp(-((places - middle) ** 2) / side**2 / 0.02) for middle in ((side - 1) / 2, side / 2))
        weight, total, weights = np.outer(down, across), np.zeros_like(z), np.zeros_like(z)
        for left in self._starts(width, side):
            for top in self._starts(height, side):
                square = (slice(None), slice(top, top + side), slice(left, left + side))
                total[square] += weight * self.asked(z[square])
                weights[square] += weight
        return np.asarray(total / weights)

    def _starts(self, length: int, side: int) -> list[int]:
        found = [0]
        while found[-1] + side < length:
            found.append(found[-1] + side - self.overlap)
        return [*found[:-1], length - side]

    def forward(self, x: Array, lr: Array) -> Array:
        """Enlarged (3, H, W) in [0, 1] → the same size, not clamped."""
        z = self.restored(x, lr)
        return self.networks.decode(z)

    def picture(self, lr: Array) -> Array:
        """Enlarged by four."""
        x = bicubic(lr, 4)
        return self.dressed(self.forward(mirrored(x, 64), lr), x)

    def dressed(self, made: Array, x: Array) -> Array:
        """What a forward pass has made, without the padding and in the colours of the enlarged input."""
        return self.fix(np.clip(made[:, : x.shape[1], : x.shape[2]], 0, 1), x)

    def published(self, lr: Array) -> Array:
        """What the script saves, whole bytes / 255: 8-bit bicubic of what is at least so large, squeezed to multiples of 8."""
        picture = Image.fromarray(np.uint8(np.round(255 * lr.transpose(1, 2, 0))))
        width, height = picture.size
        if min(width, height) < self.least:
            factor = self.least / min(width, height)
            picture = picture.resize((int(factor * width), int(factor * height)))
        picture = picture.resize((4 * picture.width, 4 * picture.height))
        sides = (picture.width - picture.width % 8, picture.height - picture.height % 8)
        x = np.asarray(picture.resize(sides, Image.Resampling.LANCZOS)).transpose(2, 0, 1) / 255
        made = cut(self.fix(cut(self.forward(x, lr)), x))
        resized = Image.fromarray(np.uint8(np.round(255 * made.transpose(1, 2, 0)))).resize((4 * width, 4 * height))
        return np.asarray(resized).transpose(2, 0, 1) / 255


class S3Diff(OseDiff):
    """What `s3diff.pkl` and `de_net.pth` stand for; `guidance` None asks once, as we do by default."""

    fix = staticmethod(wavelet)

    def __init__(self, base: Base, state: State, estimator: State, guidance: float | None = None) -> None:
        self.base, self.state, self.estimator, self.guidance = base, state, estimator, guidance
        self.positive, self.negative = base.tell(POSITIVE), base.tell(NEGATIVE)

    def restored(self, x: Array, lr: Array) -> Array:
        self.networks = modulated(self.base, self.state, self.estimator, lr)
        return super().restored(x, lr)

    def asked(self, z: Array) -> Array:
        eps = self.networks.ask(z, 999, self.positive)
        if self.guidance is None:
            return eps
        away = self.networks.ask(z, 999, self.negative)
        return away + self.guidance * (eps - away)

    def published(self, lr: Array) -> Array:
        """Bilinear, and padded to multiples of 64."""
        x = bilinear(lr, 4)
        made = self.forward(mirrored(x, 64), lr)[:, : x.shape[1], : x.shape[2]]
        return cut(self.fix(cut(made), cut(x)))


class PisaSr(OseDiff):
    """What `pisa_sr.pkl` stands for: pixel and semantic LoRA, merged or weighed; ẑ_H = z_L − net at t = 1."""

    def __init__(self, base: Base, state: State, weights: tuple[float, float] | None = None) -> None:
        table = state["state_dict_unet"]
        pixels = {key: value for key, value in table.items() if "_pix." in key}
        self.networks = Adapted(base, merged(base.unet, table, 4), {})
        self.pixels = Adapted(base, merged(base.unet, pixels, 4), {})
        self.words, self.weights = base.tell(""), weights

    def asked(self, z: Array) -> Array:
        net = self.networks.ask(z, 1, self.words)
        if self.weights is None:
            return net
        p, (of_pixels, of_semantics) = self.pixels.ask(z, 1, self.words), self.weights
        return of_pixels * p + of_semantics * (net - p)

    def finished(self, z: Array, net: Array) -> Array:
        return z - net
