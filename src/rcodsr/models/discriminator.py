"""Discriminators for texture: two on pixels, one on features of a frozen network."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from rcodsr.models.lpips import LpipsSqueeze
from rcodsr.models.pixels import signed


class PatchDiscriminator(nn.Module):
    """Judges 30-pixel neighbourhoods of a picture and its high-pass; spectrally normalised.

    The high-pass, amplified four times, reveals fine texture that the picture's contrast would mask.

    Args:
        channels: width of the first layer.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        c = channels
        # no stride in the first layer, which grain would fool
        shapes = ((6, c, 3, 1), (c, 2 * c, 4, 2), (2 * c, 2 * c, 3, 1), (2 * c, 3 * c, 4, 2), (3 * c, 3 * c, 3, 1))
        self.body = nn.ModuleList(spectral_norm(nn.Conv2d(i, o, k, s, padding=1)) for i, o, k, s in shapes)
        self.head = spectral_norm(nn.Conv2d(3 * c, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] → scores (B, 1, H/4, W/4); larger means real."""
        x = _with_high_pass(x)
        for layer in self.body:
            x = F.leaky_relu(layer(x), 0.2)
        out: Tensor = self.head(x)
        return out


class UNetDiscriminator(nn.Module):
    """Judges every pixel in its context (Real-ESRGAN's kind of discriminator); spectrally normalised.

    Its input is the picture and its high-pass, as in `PatchDiscriminator`.

    Args:
        channels: width at full resolution; it doubles at each of three halvings.
    """

    def __init__(self, channels: int = 48) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(4)]
        pairs = list(itertools.pairwise(widths))
        self.first = nn.Conv2d(6, channels, 3, padding=1)
        self.downs = nn.ModuleList(_normalised(a, b, 4, 2) for a, b in pairs)
        self.ups = nn.ModuleList(_normalised(b, a, 3, 1) for a, b in reversed(pairs))
        self.last = nn.ModuleList(_normalised(channels, channels, 3, 1) for _ in range(2))
        self.head = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1], sides multiples of 8 → scores (B, 1, H, W); larger means real."""
        x = F.leaky_relu(self.first(_with_high_pass(x)), 0.2)
        skips = []
        for down in self.downs:
            skips.append(x)
            x = F.leaky_relu(down(x), 0.2)
        for up in self.ups:
            x = F.leaky_relu(up(F.interpolate(x, scale_factor=2.0)), 0.2) + skips.pop()
        for layer in self.last:
            x = F.leaky_relu(layer(x), 0.2)
        out: Tensor = self.head(x)
        return out


class PairDiscriminator(nn.Module):
    """Decides which of two pictures of the same scene is real, from features of a frozen network and the input.

    After the relativistic GAN (Jolicoeur-Martineau, 2018): a picture is compared with its own ground truth instead of all
    pictures, so that smooth skies are not pushed towards texture. The features are those of the perceptual distance (as in
    Projected GANs, Sauer et al. 2021). Only the heads are trained; they are spectrally normalised.

    Args:
        eyes: the frozen network.
        levels: number of feature maps to judge, finest first; their sides are 1/2, 1/4, 1/8, 1/16 of the picture's.
            Coarser maps have the largest gradients, without visible benefit.
        hidden: width of the heads.
    """

    def __init__(self, eyes: LpipsSqueeze, levels: int = 2, hidden: int = 64) -> None:
        super().__init__()
        self.eyes = eyes
        self.heads = nn.ModuleList(_pair_head(2 * width, hidden) for width in LpipsSqueeze.WIDTHS[:levels])

    def forward(self, picture: Tensor, target: Tensor, x_l: Tensor) -> list[Tensor]:
        """Return how much more real the ground truth looks, position by position.

        Args:
            picture: x̂_H, shape (B, 3, H, W) in [0, 1]; the only input that receives gradients.
            target: x_H, same shape.
            x_l: the enlarged input, same shape.

        Returns:
            For each level D(target) − D(picture), shape (B, n), float32.
        """
        count = len(self.heads)
        made = self.eyes.maps(picture, count)
        with torch.no_grad():
            real, given = self.eyes.maps(target, count), self.eyes.maps(x_l, count)
        margins = []
        for head, f, r, g in zip(self.heads, made, real, given, strict=True):
            # a common scale for all three keeps the strength of texture visible
            scale = r.square().mean((1, 2, 3), keepdim=True).add(1e-6).rsqrt()
            better = head(torch.cat((r, g), 1) * scale) - head(torch.cat((f, g), 1) * scale)
            margins.append(better.flatten(1).float())
        return margins


def _with_high_pass(x: Tensor) -> Tensor:
    """Picture in [-1, 1] and its amplified high-pass: (B, 3, H, W) in [0, 1] → (B, 6, H, W)."""
    x = signed(x)
    smooth = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), 5, 1)
    return torch.cat((x, 4 * (x - smooth)), 1)


def _normalised(wide_in: int, wide_out: int, side: int, stride: int) -> nn.Module:
    return spectral_norm(nn.Conv2d(wide_in, wide_out, side, stride, padding=1, bias=False))


def _pair_head(channels: int, hidden: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide_in, side in ((channels, 1), (hidden, 3)):
        layers += [spectral_norm(nn.Conv2d(wide_in, hidden, side, padding=side // 2)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(hidden, 1, 1)))
