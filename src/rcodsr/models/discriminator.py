"""The patch discriminator that teaches `rcod-tiny` texture."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


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
