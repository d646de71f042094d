"""What makes inference fast, item by item: each can be switched off, and each says where it is worth having.

`models.rewrites` holds those that change modules; `engine.graphs` those that need a GPU.
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
    """One way to be faster."""

    about: str
    cuda: bool = True
    """Used on a GPU unless switched off."""
    cpu: bool = False
    """Used on a CPU unless switched off: only what was measured to help there."""
    rewrites: bool = False
    """It is one of `models.rewrites`."""


ITEMS = {
    "channels-last": Speedup("convolutions with the channels innermost", cpu=True),
    "upsample": Speedup("doubling and its convolution as one transposed convolution", cpu=True, rewrites=True),
    "norm": Speedup("GroupNorm and SiLU in one pass, without changing the layout", rewrites=True),
    "time": Speedup("time embeddings from a table, one projection for all blocks", rewrites=True),
    "context": Speedup("keys and values of all cross-attentions in one product, once per picture", rewrites=True),
    "vae-attention": Speedup("the autoencoder's attention without reshaping", rewrites=True),
    "sdpa": Speedup("cuDNN's attention before FlashAttention's"),
    "graph": Speedup("each stage recorded as a CUDA graph when its shape comes back"),
    "stream": Speedup("the vision tower beside the encoder"),
    "device": Speedup("bicubic, blending and colour fix on the GPU"),
    "batch": Speedup("several tiles at once"),
    "compile": Speedup("torch.compile of the U-Net's blocks: seconds to minutes at the start", cuda=False),
}
"""By name. `compile` is never chosen by itself."""


def choose(device: str, asked: Collection[str] | None = None) -> frozenset[str]:
    """The items to use.

    Args:
        device: cpu, cuda or mps.
        asked: names; `all` stands for the device's own choice, `-NAME` takes one away from it. None: the device's own choice.

    Raises:
        UsageError: for a name that is not known.
    """
    own = {name for name, item in ITEMS.items() if (item.cuda if device == "cuda" else item.cpu)}
    if device == "mps":
        own = {"channels-last"}  # nothing else has been measured there
    if asked is None:
        return frozenset(own)
    chosen: set[str] = set(own) if any(name == ALL or name.startswith("-") for name in asked) else set()
    for name in asked:
        if name in {ALL, NONE}:
            continue
        if name.removeprefix("-") not in ITEMS:
            raise UsageError("items", f"'{name}' is not one", f"use all, none, {', '.join(ITEMS)}, or -NAME")
        (chosen.discard if name.startswith("-") else chosen.add)(name.removeprefix("-"))
    return frozenset(chosen)


def rewrite(model: OneStepSR, items: frozenset[str]) -> OneStepSR:
    """Change the modules of a model as the items say, in place; best in float32, before it is cast."""
    if isinstance(model.spec.unet, SdUNetSpec):
        from rcodsr.models.rewrites import REWRITES

        for name, change in REWRITES.items():
            if name in items:
                change(model)
    return model


def compile_blocks(model: OneStepSR) -> None:
    """Opt-in: compile what repeats. Not with max-autotune, whose Triton convolutions have been wrong (pytorch issue 173068)."""
    unet, autoencoder = cast(Any, model.unet), cast(Any, model.autoencoder)
    if isinstance(model.spec.unet, SdUNetSpec):
        unet.compile_repeated_blocks(fullgraph=True)
        autoencoder.decoder.compile()
    else:
        unet.compile()
