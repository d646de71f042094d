"""The network of `rcod-small`: residual-in-residual dense blocks (Wang et al. 2018, ESRGAN) instead of a U-Net.

Trunk and head are those of Real-ESRGAN's generator, under its published names, so that its weights can be loaded
(`models.real_esrgan`). New are both ends (latents in, latents out), the timestep at every block, and the visual tokens at one
point. New parts start as the identity. No layer normalises over space: see `models.tiny_unet`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcodsr.models.autoencoder import WaveletAutoencoder
from rcodsr.models.tiny_unet import TimestepEmbedding, VisualAttention
from rcodsr.parts import ResidualDenseSpec, WaveletSpec

_SLOPE = 0.2
"""Slope of the leaky ReLU."""
_SHARE = 0.2
"""Factor on a block's output before it is added to the input."""


def conv3x3(wide_in: int, wide_out: int) -> nn.Conv2d:
    """A 3×3 convolution that keeps the size."""
    return nn.Conv2d(wide_in, wide_out, 3, padding=1)


class DenseBlock(nn.Module):
    """Five densely connected convolutions: (B, width, h, w) → the same."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(width, growth)
        self.conv2 = conv3x3(width + growth, growth)
        self.conv3 = conv3x3(width + 2 * growth, growth)
        self.conv4 = conv3x3(width + 3 * growth, growth)
        self.conv5 = conv3x3(width + 4 * growth, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input plus 0.2 times the output of the convolutions: (B, width, h, w) → the same."""
        seen = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat((seen, F.leaky_relu(conv(seen), _SLOPE, inplace=True)), 1)
        return torch.add(x, self.conv5(seen), alpha=_SHARE)


class ResidualDenseBlock(nn.Module):
    """Three dense blocks; Real-ESRGAN's RRDB."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(width, growth)
        self.rdb2 = DenseBlock(width, growth)
        self.rdb3 = DenseBlock(width, growth)

    def residual(self, x: Tensor) -> Tensor:
        """Output of the dense blocks, (B, width, h, w), before scaling."""
        out: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Return the input plus 0.2 times the residual: (B, width, h, w) → the same."""
        return torch.add(x, self.residual(x), alpha=_SHARE)


class ModulatedBlock(ResidualDenseBlock):
    """x + 0.2 (1 + scale(t)) · residual + shift(t); scale and shift start at zero."""

    def __init__(self, width: int, growth: int, embedding: int) -> None:
        super().__init__(width, growth)
        self.film = nn.Linear(embedding, 2 * width)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        """Shapes (B, width, h, w) and (B, E) → (B, width, h, w)."""
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, 1)
        return torch.addcmul(x + shift, self.residual(x), _SHARE * (1 + scale))


class Upsampling(nn.Module):
    """Real-ESRGAN's head without its last layer: (B, width, h, w) → (B, width, 4h, 4w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_up1 = conv3x3(width, width)
        self.conv_up2 = conv3x3(width, width)
        self.conv_hr = conv3x3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Double the size twice by nearest-neighbour upsampling and a convolution: (B, width, h, w) → (B, width, 4h, 4w)."""
        for conv in (self.conv_up1, self.conv_up2):
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2.0)), _SLOPE, inplace=True)
        return F.leaky_relu(self.conv_hr(x), _SLOPE, inplace=True)


class PictureOutput(nn.Conv2d):
    """The last layer, features (B, width, H, W) → a picture (B, 3, H, W), in float32 regardless of the network's dtype.

    In bfloat16 a picture has steps of up to 2/255.
    """

    keeps_float32 = True

    def __init__(self, width: int) -> None:
        super().__init__(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, width, H, W) of any dtype → a picture (B, 3, H, W), float32."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class LatentOutput(nn.Module):
    """The last layer and the wavelet transform of its picture: (B, width, 4h, 4w) → (B, C, h, w), float32."""

    keeps_float32 = True

    def __init__(self, width: int, latents: WaveletSpec) -> None:
        super().__init__()
        self.conv_last = PictureOutput(width)
        self.latents = WaveletAutoencoder(latents)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, width, 4h, 4w) → standardised latents (B, C, h, w), float32."""
        return self.latents.standardise(self.conv_last(x))


class ResidualDenseNet(nn.Module):
    """Latents (B, C, h, w) → clean latents ẑ_H (B, C, h, w), float32; any h and w.

    Args:
        latents: the variant's latents, with four pixels per side.
        context: width of the visual tokens.
        spec: widths, depth, embedding, heads.
    """

    def __init__(self, latents: WaveletSpec, context: int, spec: ResidualDenseSpec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.width
        self.time = TimestepEmbedding(spec.embedding)
        self.conv_first = conv3x3(latents.channels, width)
        self.body = nn.ModuleList(ModulatedBlock(width, spec.growth, spec.embedding) for _ in range(spec.blocks))
        self.attention = VisualAttention(width, context, spec.heads)
        self.conv_body = conv3x3(width, width)
        self.head = Upsampling(width)
        self.output = LatentOutput(width, latents)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype to which the caller must cast inputs."""
        return self.conv_body.weight.dtype

    def features(self, z: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Features of the trunk: (B, width, h, w). Arguments as in `forward`."""
        embedding = self.time(t)
        first = x = self.conv_first(z)
        half = len(self.body) // 2
        for block in self.body[:half]:
            x = block(x, embedding)
        x = self.attention(x, tokens)
        for block in self.body[half:]:
            x = block(x, embedding)
        out: Tensor = first + self.conv_body(x)
        return out

    def forward(self, z: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Run the network.

        Args:
            z: latents, shape (B, C, h, w).
            t: timesteps, shape (B,), int64.
            tokens: visual tokens, shape (B, N, D).

        Returns:
            ẑ_H, same shape as z, float32.
        """
        out: Tensor = self.output(self.head(self.features(z, t, tokens)))
        return out
