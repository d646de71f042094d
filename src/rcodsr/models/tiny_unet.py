"""The U-Net of `rcod-tiny`: conditioned on the timestep and on visual tokens, without statistics over the picture.

No layer normalises over space. The output at a position depends only on its neighbourhood, the timestep and the tokens, so a
picture restored in tiles equals the picture restored whole (GroupNorm would change the contrast of each tile). It also keeps
the amplitude of the latent, which carries the residual.
"""

import itertools
import math
from dataclasses import replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcodsr.parts import TinyUNetSpec


class TimestepEmbedding(nn.Module):
    """Sinusoidal features of t and two linear layers: (B,) → (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = width // 2
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return next(self.mlp.parameters()).dtype

    def forward(self, t: Tensor) -> Tensor:
        """Embed timesteps, shape (B,), in [0, 999]."""
        rates = torch.exp(-math.log(10_000.0) * torch.arange(self.frequencies, device=t.device) / self.frequencies)
        angles = t.float()[:, None] * rates
        features = torch.cat((angles.cos(), angles.sin()), 1)
        out: Tensor = self.mlp(features.to(self.dtype))
        return out


class ResidualBlock(nn.Module):
    """x + conv(act(FiLM(conv(x), t))): the timestep scales and shifts the hidden channels."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * channels)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        with torch.no_grad():  # keeps a deep unnormalised stack near the identity at first
            self.conv2.weight.mul_(0.1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Shapes (B, C, h, w) and (B, E) → (B, C, h, w)."""
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, 1)
        hidden = self.conv2(F.leaky_relu(torch.addcmul(shift, self.conv1(x), 1 + scale), 0.1, inplace=True))
        # in place, because allocating memory costs more than the addition
        return x + hidden if hidden.requires_grad else hidden.add_(x)


class VisualAttention(nn.Module):
    """Cross-attention of every position to the visual tokens; starts as the identity."""

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.to_q = nn.Linear(channels, channels)
        self.to_kv = nn.Linear(context, 2 * channels)
        self.to_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Shapes (B, C, h, w) and (B, N, D) → (B, C, h, w)."""
        flat = x.flatten(2).transpose(1, 2)
        q = self._split(self.to_q(self.norm(flat)))
        k, v = (self._split(part) for part in self.to_kv(tokens).chunk(2, -1))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.to_out(mixed).transpose(1, 2).reshape(x.shape)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class TinyUNet(nn.Module):
    """Latents (B, C, h, w) → eps (B, C, h, w); h and w must be multiples of 2^(levels − 1).

    Strided 2×2 convolutions downsample, 1×1 convolutions with pixel shuffle upsample, skips are added (as in NAFNet, Chen et
    al. 2022). The last layer starts at zero. With `spec.grain`, a second one predicts the deviation of eps.

    Args:
        latent_channels: C.
        context: width of the visual tokens.
        spec: widths, depths, embedding, heads.
    """

    def __init__(self, latent_channels: int, context: int, spec: TinyUNetSpec) -> None:
        super().__init__()
        self.spec = spec
        widths, *_, middle = spec.channels, spec.blocks[-1]
        pairs = list(itertools.pairwise(widths))

        def stage(width: int, depth: int) -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(width, spec.embedding) for _ in range(depth))

        self.time = TimestepEmbedding(spec.embedding)
        self.conv_in = nn.Conv2d(latent_channels, widths[0], 3, padding=1)
        self.encoders = nn.ModuleList(stage(w, d) for w, d in zip(widths[:-1], spec.blocks[:-1], strict=True))
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.middle = stage(widths[-1], middle)
        self.attention = VisualAttention(widths[-1], context, spec.heads)
        self.ups = nn.ModuleList(nn.Sequential(nn.Conv2d(b, 4 * a, 1), nn.PixelShuffle(2)) for a, b in pairs)
        self.decoders = nn.ModuleList(stage(w, d) for w, d in zip(widths[:-1], spec.blocks[:-1], strict=True))
        self.conv_out = _silent(widths[0], latent_channels)
        self.deviation = _silent(widths[0], latent_channels) if spec.grain else None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights; the caller must cast inputs to it."""
        return self.conv_in.weight.dtype

    @torch.no_grad()
    def grown(self, spec: TinyUNetSpec) -> Self:
        """Return a larger network that computes the same: new residual blocks start as the identity, a new deviation as zero.

        Args:
            spec: has at least as many blocks at each level, and grain if this network has it.
        """
        blocks = tuple(max(pair) for pair in zip(self.spec.blocks, spec.blocks, strict=True))
        spec = replace(self.spec, blocks=blocks, grain=self.spec.grain or spec.grain)
        grown = type(self)(self.conv_in.in_channels, self.attention.to_kv.in_features, spec)
        for stage in (*grown.encoders, grown.middle, *grown.decoders):
            for block in stage.children():
                nn.init.zeros_(block.conv2.weight)
                nn.init.zeros_(block.conv2.bias)
        half, moved = len(self.middle) // 2, len(grown.middle) // 2 - len(self.middle) // 2
        kept = {}
        for key, value in self.state_dict().items():
            part, *rest = key.split(".")
            if part == "middle" and int(rest[0]) >= half:  # blocks after the attention stay after it
                rest[0] = str(int(rest[0]) + moved)
            kept[".".join((part, *rest))] = value
        unexpected = grown.load_state_dict(kept, strict=False).unexpected_keys
        assert not unexpected, unexpected
        return grown

    def forward(self, z: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Run the network.

        Args:
            z: latents, shape (B, C, h, w).
            t: timesteps, shape (B,), int64.
            tokens: visual tokens, shape (B, N, D).

        Returns:
            Same shape as z; with grain, followed by the deviation's channels (B, 2C, h, w).
        """
        embedding = self.time(t)
        x = self.conv_in(z)
        skips = []
        for stage, down in zip(self.encoders, self.downs, strict=True):
            x = _run(stage, x, embedding)
            skips.append(x)
            x = down(x)
        half = len(self.middle) // 2
        x = _run(self.middle[:half], x, embedding)
        x = self.attention(x, tokens)
        x = _run(self.middle[half:], x, embedding)
        for stage, up in zip(reversed(self.decoders), reversed(self.ups), strict=True):
            x = _run(stage, up(x) + skips.pop(), embedding)
        out: Tensor = self.conv_out(x)
        return out if self.deviation is None else torch.cat((out, self.deviation(x)), 1)


def _silent(channels: int, latent_channels: int) -> nn.Conv2d:
    """A last layer that starts at zero."""
    layer = nn.Conv2d(channels, latent_channels, 3, padding=1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _run(stage: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
    for block in stage.children():
        x = block(x, embedding)
    return x
