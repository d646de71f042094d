"""Modulation of the generator's LoRA by the picture's degradation. RCOD_O and `rcod-tiny` use the null object."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from math import pi
from typing import Protocol

import torch
from torch import Tensor, nn

from rcodsr.models.degradation_estimator import DegradationEstimator
from rcodsr.parts import LoraSpec, ModulationSpec


@dataclass(frozen=True)
class Modulation:
    """Result of a modulator; empty if nothing is modulated."""

    matrices: tuple[Tensor, ...] = ()
    """Per block, shape (B, r, r)."""
    features: tuple[Tensor, ...] = ()
    """Features behind the matrices, one entry (B, F); also read by the metric estimator."""

    def __getitem__(self, index: slice) -> "Modulation":
        return self._each(lambda values: values[index])

    def expand(self, count: int) -> "Modulation":
        """Repeat the modulation of a single picture for `count` tiles."""
        return self._each(lambda values: values.expand(count, *values.shape[1:]))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Modulation":
        return Modulation(tuple(map(change, self.matrices)), tuple(map(change, self.features)))


class Modulator(Protocol):
    """Measures a picture once and applies the result around every network call."""

    def attach(self, lora_a: Mapping[str, nn.Module]) -> None:
        """Modulate these LoRA layers from now on, and make the modulator's parameters trainable.

        Args:
            lora_a: the A of each LoRA layer by layer name, such as `unet.conv_out` or
                `autoencoder.encoder.conv_in`.
        """
        ...

    def measure(self, lr: Tensor) -> Modulation:
        """Return the modulation for low-resolution pictures at their own size, (B, 3, h, w) in [0, 1]."""
        ...

    @contextmanager
    def using(self, modulation: Modulation) -> Iterator[None]:
        """Apply the modulation to this thread's network calls inside the `with` block."""
        ...

    def again(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return the contexts of a starting pass and of its recomputation in `backward`: torch's `checkpoint(context_fn=…)`.

        The recomputation must use the same modulation, although it runs later and, on a GPU, in another thread.
        """
        ...

    def parts(self) -> dict[str, nn.Module]:
        """Return modules by the name of the file that stores them."""
        ...

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of trainable parameters, by kind."""
        ...


class NoModulation:
    """The null object: measures nothing, changes nothing."""

    def attach(self, lora_a: Mapping[str, nn.Module]) -> None:
        """Do nothing."""

    def measure(self, lr: Tensor) -> Modulation:
        """Return an empty modulation; arguments as in `Modulator.measure`."""
        return Modulation()

    @contextmanager
    def using(self, modulation: Modulation) -> Iterator[None]:
        """Do nothing."""
        yield

    def again(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return two empty contexts."""
        return nullcontext(), nullcontext()

    def parts(self) -> dict[str, nn.Module]:
        """Return an empty dict."""
        return {}

    def parameter_counts(self) -> dict[str, int]:
        """Return an empty dict."""
        return {}


_current: ContextVar[Modulation | None] = ContextVar("modulation", default=None)
"""Modulation of this thread's network calls; None leaves LoRA unchanged. Threads may share a model."""


def _mix(index: int, module: nn.Module, inputs: object, out: Tensor) -> Tensor:
    """Forward hook of a LoRA's A: A(x) → A(x) M along the rank axis, with each sample's own M.

    Shapes (B, r, h, w) for a convolution or (B, N, r) for a linear layer.
    """
    modulation = _current.get()
    if modulation is None:
        return out
    matrix = modulation.matrices[index].to(out.dtype)
    return torch.einsum("bkhw,bkr->brhw", out, matrix) if out.dim() == 4 else out @ matrix


class BlockSteering(nn.Module):
    """Fourier features of a picture's scores → one matrix per block of a network. Layers and names follow S3Diff.

    Args:
        features: width of the Fourier features.
        blocks: number of the network's blocks.
        rank: rank of the network's LoRA.
        width: width of a block's embedding.
    """

    def __init__(self, features: int, blocks: int, rank: int, width: int) -> None:
        super().__init__()
        self.rank = rank
        self.de_mlp = nn.Sequential(nn.Linear(features, features), nn.ReLU())
        self.block_embeddings = nn.Embedding(blocks, width)
        self.block_mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.fuse_mlp = nn.Linear(features + width, rank**2)
        # S3Diff scales its layers by 1e-5, which gives M = 1e-10 and an almost inactive LoRA; the identity is plain LoRA
        nn.init.zeros_(self.fuse_mlp.weight)
        with torch.no_grad():
            self.fuse_mlp.bias.copy_(torch.eye(rank).flatten())

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) → (B, blocks, r, r)."""
        scores, blocks = self.de_mlp(features), self.block_mlp(self.block_embeddings.weight)
        count, samples = len(blocks), len(scores)
        both = torch.cat((scores[:, None].expand(-1, count, -1), blocks.expand(samples, -1, -1)), 2)
        out: Tensor = self.fuse_mlp(both)
        return out.unflatten(2, (self.rank, self.rank))


class LoraSteering(nn.Module):
    """Scores → matrices of all blocks: first the autoencoder's (levels, middle, outside), then the U-Net's.

    Args:
        spec: widths.
        lora: ranks of the LoRA.
        vae_levels: levels of the autoencoder's encoder.
        unet_levels: levels of the U-Net.
    """

    w: Tensor
    """Frozen random frequencies, (F,), part of the weights."""

    def __init__(self, spec: ModulationSpec, lora: LoraSpec, vae_levels: int, unet_levels: int) -> None:
        super().__init__()
        features = 2 * spec.frequencies * DegradationEstimator.BRANCHES
        self.vae_levels, self.unet_levels = vae_levels, unet_levels
        self.register_buffer("w", torch.randn(spec.frequencies))
        self.vae = BlockSteering(features, vae_levels + 2, lora.vae_rank, spec.block_width)
        self.unet = BlockSteering(features, 2 * unet_levels + 2, lora.unet_rank, spec.block_width)

    def forward(self, scores: Tensor) -> tuple[Tensor, ...]:
        """(B, 2) in (0, 1) → per block (B, r, r)."""
        angles = 2 * pi * scores[:, :, None] * self.w
        features = torch.cat((angles.sin(), angles.cos()), 2).flatten(1)
        return (*self.vae(features).unbind(1), *self.unet(features).unbind(1))

    def index(self, layer: str) -> int:
        """Index of the matrix that modulates a layer, from the layer's name."""
        network, _, name = layer.partition(".")
        if network == "autoencoder":
            return _block(name.removeprefix("encoder."), self.vae_levels, self.vae_levels + 1)
        return self.vae_levels + 2 + _block(name, self.unet_levels, 2 * self.unet_levels + 1)


def _block(name: str, levels: int, outside: int) -> int:
    """Index of a module's block within its network: down, middle, up, then everything outside of them."""
    part, number, *_ = f"{name}.".split(".")
    if part == "mid_block":
        return levels
    return {"down_blocks": 0, "up_blocks": levels + 1}[part] + int(number) if number.isdecimal() else outside


class DegradationModulation(nn.Module):
    """S3Diff's degradation-guided LoRA: every layer computes W x + (alpha / rank) B M A x, with M from the picture itself.

    Outside `using` the LoRA is plain, M = I, which is also the initial M. M differs between pictures, so the LoRA cannot be
    merged into the weights. Always float32.

    Args:
        spec: widths of the estimator and the steering network.
        lora: ranks of the LoRA.
        vae_levels: levels of the autoencoder's encoder.
        unet_levels: levels of the U-Net.
    """

    def __init__(self, spec: ModulationSpec, lora: LoraSpec, vae_levels: int, unet_levels: int) -> None:
        super().__init__()
        self.estimator = DegradationEstimator(spec)
        self.steering = LoraSteering(spec, lora, vae_levels, unet_levels)

    def attach(self, lora_a: Mapping[str, nn.Module]) -> None:
        """Register a forward hook on every A; arguments as in `Modulator.attach`."""
        for name, module in lora_a.items():
            module.register_forward_hook(partial(_mix, self.steering.index(name)))

    def measure(self, lr: Tensor) -> Modulation:
        """Return one matrix (r, r) per block and picture; gradients reach the steering network, not the estimator.

        Args:
            lr: low-resolution pictures at their own size, (B, 3, h, w) in [0, 1].
        """
        with torch.autocast(lr.device.type, enabled=False):
            with torch.no_grad():
                scores, features = self.estimator(lr.float())
            return Modulation(self.steering(scores), (features,))

    @contextmanager
    def using(self, modulation: Modulation) -> Iterator[None]:
        """See `Modulator.using`."""
        with _set(modulation):
            yield

    def again(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Use the current modulation in both contexts."""
        return nullcontext(), _set(_current.get())

    def parts(self) -> dict[str, nn.Module]:
        """Return modules by the name of the file that stores them."""
        return {"modulation": self.steering, "degradation_estimator": self.estimator}

    def parameter_counts(self) -> dict[str, int]:
        """Count MLPs and block embeddings; the estimator is frozen."""
        networks = (self.steering.vae, self.steering.unet)
        embeddings = sum(network.block_embeddings.weight.numel() for network in networks)
        return {
            "modulation_mlps": sum(p.numel() for p in self.steering.parameters()) - embeddings,
            "block_embeddings": embeddings,
        }


@contextmanager
def _set(modulation: Modulation | None) -> Iterator[None]:
    token = _current.set(modulation)
    try:
        yield
    finally:
        _current.reset(token)
