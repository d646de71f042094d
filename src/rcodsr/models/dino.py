"""The discriminator for training RCOD_S, on frozen DINO features: S3Diff's, after Vision-aided GAN."""

import re
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from transformers import ViTConfig, ViTModel

from rcodsr.models.stable_diffusion import CLIP_MEAN

IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DinoSpec:
    """Shape of the frozen vision transformer; the defaults are those of DINO ViT-B/16."""

    image_side: int = 224
    patch: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    levels: tuple[int, ...] = (4, 8)
    """Blocks, counted from 0, whose patches the heads judge."""
    hidden: int = 128
    """Width of the heads."""


class DinoDiscriminator(nn.Module):
    """Judges pictures by features of a frozen DINO: patches after two of its blocks, and the final class token.

    All states pass DINO's final LayerNorm, as in its `get_intermediate_layers`. Only the heads are trained, with spectral
    normalisation: per level convolutions 768 → 128 → 1 with a blur before each stride; for the class token two linear layers.
    Sizes and order are those of Vision-aided GAN.

    Args:
        spec: shape of the transformer.
    """

    def __init__(self, spec: DinoSpec | None = None) -> None:
        super().__init__()
        self.spec = spec = spec or DinoSpec()
        config = ViTConfig(
            hidden_size=spec.width,
            intermediate_size=4 * spec.width,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            image_size=spec.image_side,
            patch_size=spec.patch,
        )
        self.backbone = cast(nn.Module, ViTModel(config, add_pooling_layer=False)).eval().requires_grad_(False)
        self.heads = nn.ModuleList(_patch_head(spec) for _ in spec.levels)
        self.heads.append(_class_head(spec))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Pictures (B, 3, H, W) in [0, 1] → logits of each head, (B, n) each; larger means real."""
        side = self.spec.image_side
        mean, std = (x.new_tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, IMAGENET_STD))  # mixed as in the original
        pixels = (F.interpolate(x, (side, side), mode="area") - mean) / std
        seen = self.backbone(pixels, output_hidden_states=True)
        across = side // self.spec.patch
        # hidden_states starts with the embeddings, so the index of a block's output is one higher
        norm = self.backbone.get_submodule("layernorm")
        states = [norm(seen.hidden_states[level + 1]) for level in self.spec.levels]
        maps = [state[:, 1:].mT.unflatten(2, (across, across)) for state in states]
        judged = [*maps, seen.last_hidden_state[:, 0]]
        return [head(features).flatten(1).float() for head, features in zip(self.heads, judged, strict=True)]


class _Blur(nn.Module):
    """Binomial filter 1-3-3-1 in both directions over zero-padded maps: (B, C, h, w) → (B, C, h + 2·pad − 3, w + 2·pad − 3)."""

    kernel: Tensor

    def __init__(self, pad: int) -> None:
        super().__init__()
        self.pad = pad
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", torch.outer(row, row)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Filter each channel; shapes as above."""
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.to(x.dtype).expand(channels, -1, -1, -1), padding=self.pad, groups=channels)


def _patch_head(spec: DinoSpec) -> nn.Sequential:
    """Patches (B, width, n, n) → logits; 14×14 → 15×15 → 7×7 → 6×6 → 3×3."""
    wide = spectral_norm(nn.Conv2d(spec.width, spec.hidden, 3, stride=2))
    narrow = spectral_norm(nn.Conv2d(spec.hidden, 1, 1, stride=2))
    return nn.Sequential(_Blur(2), wide, nn.LeakyReLU(0.2), _Blur(1), narrow)


def _class_head(spec: DinoSpec) -> nn.Sequential:
    wide, narrow = nn.Linear(spec.width, spec.hidden), nn.Linear(spec.hidden, 1)
    return nn.Sequential(spectral_norm(wide), nn.LeakyReLU(0.2), spectral_norm(narrow))


_PUBLISHED = {
    r"^vit\.": "",
    r"^encoder\.layer\.": "layers.",
    r"\.attention\.attention\.(q|k|v)(uery|ey|alue)\.": r".attention.\1_proj.",
    r"\.attention\.output\.dense\.": ".attention.o_proj.",
    r"\.intermediate\.dense\.": ".mlp.fc1.",
    r"\.output\.dense\.": ".mlp.fc2.",
}
"""Names in the published file → names in recent versions of transformers, in this order."""


def backbone_names(keys: set[str], expected: set[str]) -> dict[str, str]:
    """Map each key of a published DINO file to its name in this version's backbone, without the pooler."""
    names = {key: key for key in keys if not key.startswith("pooler.")}
    if set(names.values()) == expected:
        return names
    for old, new in _PUBLISHED.items():
        names = {key: re.sub(old, new, name) for key, name in names.items()}
    return names
