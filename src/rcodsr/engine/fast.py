"""Speedups of inference: each can be switched off and declares the devices where it pays off.

`models.rewrites` contains those that change modules, `engine.graphs` those that need a GPU.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

from rcodsr.errors import UsageError
from rcodsr.models.one_step import OneStepSR
from rcodsr.parts import SdUNetSpec

ALL, NONE = "all", "none"


@dataclass(frozen=True)
class Speedup:
    """One speedup."""

    about: str
    cuda: bool = True
    """On by default on a GPU."""
    cpu: bool = False
    """On by default on a CPU; only for speedups measured to help there."""
    rewrites: bool = False
    """Whether it is one of `models.rewrites`."""


ITEMS = {
    "channels-last": Speedup("convolutions in channels_last layout", cpu=True),
    "upsample": Speedup("doubling and its convolution as one transposed convolution", cpu=True, rewrites=True),
    "norm": Speedup("GroupNorm and SiLU in one pass, without changing the layout", rewrites=True),
    "time": Speedup("time embeddings from a table, one projection for all blocks", rewrites=True),
    "context": Speedup("keys and values of all cross-attentions in one product, once per picture", rewrites=True),
    "vae-attention": Speedup("the autoencoder's attention without reshaping", rewrites=True),
    "sdpa": Speedup("cuDNN's attention before FlashAttention's"),
    "graph": Speedup("each stage captured as a CUDA graph when its shape recurs"),
    "stream": Speedup("the vision tower in parallel with the encoder"),
    "device": Speedup("bicubic, blending and colour fix on the GPU"),
    "batch": Speedup("several tiles at once"),
    "compile": Speedup("torch.compile of the U-Net's blocks: seconds to minutes at the start", cuda=False),
}
"""Speedups by name. `compile` is never on by default."""


def choose(device: str, asked: Collection[str] | None = None) -> frozenset[str]:
    """Return the names of the speedups to use.

    Args:
        device: cpu, cuda or mps.
        asked: names; `all` means the device's defaults, `-NAME` removes one of them. None: the device's defaults.

    Raises:
        UsageError: for an unknown name.
    """
    own = {name for name, item in ITEMS.items() if (item.cuda if device == "cuda" else item.cpu)}
    if device == "mps":
        own = {"channels-last"}  # no other speedup has been measured there
    if asked is None:
        return frozenset(own)
    chosen: set[str] = set(own) if any(name == ALL or name.startswith("-") for name in asked) else set()
    for name in asked:
        if name in {ALL, NONE}:
            continue
        if name.removeprefix("-") not in ITEMS:
            raise UsageError("items", f"'{name}' is not a valid item", f"use all, none, {', '.join(ITEMS)}, or -NAME")
        (chosen.discard if name.startswith("-") else chosen.add)(name.removeprefix("-"))
    return frozenset(chosen)


def rewrite(model: OneStepSR, items: frozenset[str]) -> OneStepSR:
    """Apply the selected rewrites to a model in place; best in float32, before casting."""
    if isinstance(model.spec.unet, SdUNetSpec):
        from rcodsr.models.rewrites import REWRITES

        for name, change in REWRITES.items():
            if name in items:
                change(model)
    return model


def compile_blocks(model: OneStepSR) -> None:
    """Compile the repeated blocks; opt-in. Not with max-autotune, whose Triton convolutions failed (pytorch issue 173068)."""
    unet, autoencoder = cast(Any, model.unet), cast(Any, model.autoencoder)
    if isinstance(model.spec.unet, SdUNetSpec):
        unet.compile_repeated_blocks(fullgraph=True)
        autoencoder.decoder.compile()
    else:
        unet.compile()
