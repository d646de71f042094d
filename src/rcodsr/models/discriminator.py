"""The discriminators that teach `rcod-tiny` texture: one that sees pixels, one that sees through a trained network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from rcodsr.models.perceptual import LpipsSqueeze


class PatchDiscriminator(nn.Module):
    """Judges 30-pixel neighbourhoods of a picture and its high-pass; spectrally normalised.

    The high-pass, four times amplified, shows fine texture that the picture's own contrast would drown.

    Args:
        channels: width of the first layer.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        c = channels
        # the first layer looks at every pixel: one that strides is fooled by grain
        shapes = ((6, c, 3, 1), (c, 2 * c, 4, 2), (2 * c, 2 * c, 3, 1), (2 * c, 3 * c, 4, 2), (3 * c, 3 * c, 3, 1))
        self.body = nn.ModuleList(spectral_norm(nn.Conv2d(i, o, k, s, padding=1)) for i, o, k, s in shapes)
        self.head = spectral_norm(nn.Conv2d(3 * c, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] → scores (B, 1, H/4, W/4), larger for real."""
        smooth = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), 5, 1)
        x = torch.cat((x, 4 * (x - smooth)), 1)
        for layer in self.body:
            x = F.leaky_relu(layer(x), 0.2)
        out: Tensor = self.head(x)
        return out


class PairDiscriminator(nn.Module):
    """Tells which of two pictures of the same scene is the real one, by a frozen network's features, knowing the input.

    After the relativistic GAN (Jolicoeur-Martineau, 2018): a picture is measured against its own ground truth, not against
    all pictures, so that a smooth sky asks for no texture. The features are those of the perceptual distance (as in
    Projected GANs, Sauer et al. 2021); only the heads learn, spectrally normalised.

    Args:
        eyes: the frozen network.
        levels: how many of its maps are judged, the finest first; their sides are 1/2, 1/4, 1/8, 1/16 of the picture's.
            Coarser ones pull hardest, and at nothing that is seen.
        hidden: width of the heads.
    """

    def __init__(self, eyes: LpipsSqueeze, levels: int = 2, hidden: int = 64) -> None:
        super().__init__()
        self.eyes = eyes
        self.heads = nn.ModuleList(_pair_head(2 * width, hidden) for width in LpipsSqueeze.WIDTHS[:levels])

    def forward(self, picture: Tensor, target: Tensor, x_l: Tensor) -> list[Tensor]:
        """By how much the ground truth looks more real, place by place.

        Args:
            picture: x̂_H, shape (B, 3, H, W) in [-1, 1]; the only one that gradients flow to.
            target: x_H, same shape.
            x_l: the enlarged input, same shape, in [-1, 1].

        Returns:
            For each level D(target) − D(picture), shape (B, n), float32.
        """
        count = len(self.heads)
        made = self.eyes.maps(picture, count)
        with torch.no_grad():
            real, given = self.eyes.maps(target, count), self.eyes.maps(x_l, count)
        margins = []
        for head, f, r, g in zip(self.heads, made, real, given, strict=True):
            # one scale for all three: how strong texture is must still be seen
            scale = r.square().mean((1, 2, 3), keepdim=True).add(1e-6).rsqrt()
            better = head(torch.cat((r, g), 1) * scale) - head(torch.cat((f, g), 1) * scale)
            margins.append(better.flatten(1).float())
        return margins


def _pair_head(channels: int, hidden: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide_in, side in ((channels, 1), (hidden, 3)):
        layers += [spectral_norm(nn.Conv2d(wide_in, hidden, side, padding=side // 2)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(hidden, 1, 1)))
