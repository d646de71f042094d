"""The discriminator of RCOD_S's training, which sees through DINO's eyes: S3Diff's, after Vision-aided GAN."""

import re
from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from transformers import ViTConfig, ViTModel

from rcodsr.models.stable_diffusion import CLIP_MEAN

IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DinoSpec:
    """Shape of the frozen vision transformer; the defaults are DINO ViT-B/16's."""

    image_side: int = 224
    patch: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    levels: tuple[int, ...] = (4, 8)
    """Blocks, counted from 0, whose patches are judged."""
    hidden: int = 128
    """Width of the judging heads."""


class DinoDiscriminator(nn.Module):
    """Judges pictures by a frozen DINO's features: patches after two of its blocks, and the class token at the end.

    Only the heads learn: per level spectrally normalised convolutions 768 → 128 → 1, and two linear layers for the class token.

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
        self.heads.append(nn.Sequential(nn.Linear(spec.width, spec.hidden), nn.LeakyReLU(0.2), nn.Linear(spec.hidden, 1)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Pictures (B, 3, H, W) in [0, 1] → scores of each head, (B, n) each, as logits: larger for real."""
        side = self.spec.image_side
        mean, std = (x.new_tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, IMAGENET_STD))  # as its origin mixes them
        pixels = (F.interpolate(x, (side, side), mode="area") - mean) / std
        seen = self.backbone(pixels, output_hidden_states=True)
        across = side // self.spec.patch
        # hidden_states starts with the embeddings, so a block's output stands one further
        maps = [seen.hidden_states[level + 1][:, 1:].mT.unflatten(2, (across, across)) for level in self.spec.levels]
        judged = [*maps, seen.last_hidden_state[:, 0]]
        return [head(features).flatten(1).float() for head, features in zip(self.heads, judged, strict=True)]


def _patch_head(spec: DinoSpec) -> nn.Sequential:
    wide = spectral_norm(nn.Conv2d(spec.width, spec.hidden, 3, stride=2, padding=1))
    return nn.Sequential(wide, nn.LeakyReLU(0.2), spectral_norm(nn.Conv2d(spec.hidden, 1, 1)))


_PUBLISHED = {
    r"^vit\.": "",
    r"^encoder\.layer\.": "layers.",
    r"\.attention\.attention\.(q|k|v)(uery|ey|alue)\.": r".attention.\1_proj.",
    r"\.attention\.output\.dense\.": ".attention.o_proj.",
    r"\.intermediate\.dense\.": ".mlp.fc1.",
    r"\.output\.dense\.": ".mlp.fc2.",
}
"""Names of the published file → names in recent versions of transformers, in this order."""


def backbone_names(keys: set[str], expected: set[str]) -> dict[str, str]:
    """Each key of a published DINO file → its name in this version's backbone; the pooler is left out."""
    names = {key: key for key in keys if not key.startswith("pooler.")}
    if set(names.values()) == expected:
        return names
    for old, new in _PUBLISHED.items():
        names = {key: re.sub(old, new, name) for key, name in names.items()}
    return names
