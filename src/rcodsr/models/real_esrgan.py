"""Real-ESRGAN's generator (Wang et al. 2021): a teacher for training, and the source of `rcod-small`'s trunk.

Its weights, RealESRGAN_x4plus, are BSD-3-Clause, © 2021 Xintao Wang.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcodsr.images.resize import upsample
from rcodsr.models.autoencoder import WaveletAutoencoder
from rcodsr.models.residual_dense import PictureOutput, ResidualDenseBlock, ResidualDenseNet, Upsampling, conv3x3

_WIDTH, _GROWTH, _BLOCKS = 64, 32, 23
_SCALE = 4


class RealEsrgan(nn.Module):
    """The generator as published: (B, 3, h, w) → (B, 3, 4h, 4w), both RGB in [0, 1]; the output is not clamped.

    Args:
        width: channels of the trunk.
        growth: channels that each convolution of a dense block adds.
        blocks: residual-in-residual dense blocks.
    """

    def __init__(self, width: int = _WIDTH, growth: int = _GROWTH, blocks: int = _BLOCKS) -> None:
        super().__init__()
        self.conv_first = conv3x3(3, width)
        self.body = nn.ModuleList(ResidualDenseBlock(width, growth) for _ in range(blocks))
        self.conv_body = conv3x3(width, width)
        self.head = Upsampling(width)
        self.conv_last = PictureOutput(width)

    @staticmethod
    def module_name(published: str) -> str:
        """Map the name of a published parameter to ours."""
        return f"head.{published}" if published.startswith(("conv_up", "conv_hr")) else published

    def features(self, x: Tensor) -> Tensor:
        """Features of the trunk: (B, 3, h, w) in [0, 1] → (B, width, h, w)."""
        first = x = self.conv_first(x)
        for block in self.body:
            x = block(x)
        out: Tensor = first + self.conv_body(x)
        return out

    def decode(self, features: Tensor) -> Tensor:
        """Features of the trunk → the enlarged picture, (B, 3, 4h, 4w), float32, nominally in [0, 1]."""
        out: Tensor = self.conv_last(self.head(features))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge pictures four times: (B, 3, h, w) in [0, 1] → (B, 3, 4h, 4w), float32, not clamped."""
        return self.decode(self.features(x))


@torch.no_grad()
def take_over(net: ResidualDenseNet, generator: RealEsrgan, latents: WaveletAutoencoder) -> float:
    """Copy a generator's weights into a network, skipping blocks at regular intervals; parameters that only ours has are kept.

    The input layer reads latents of the enlarged picture instead of the picture, so it is fitted by least squares on noise.

    Args:
        net: has the generator's width and growth, and at most as many blocks.
        generator: as published.
        latents: the autoencoder of `net`, with its statistics.

    Returns:
        Error of the input layer relative to the generator's: root mean square error over root mean square, borders included.
    """
    kept = _kept(len(generator.body), len(net.body))
    for own, block in zip(net.body, (generator.body[i] for i in kept), strict=True):
        own.load_state_dict(block.state_dict(), strict=False)
    net.conv_body.load_state_dict(generator.conv_body.state_dict())
    net.head.load_state_dict(generator.head.state_dict())
    net.output.latents.load_state_dict(latents.state_dict(), strict=False)
    last = generator.conv_last.state_dict()  # ours outputs pixels in [-1, 1]
    net.output.conv_last.load_state_dict({"weight": 2 * last["weight"], "bias": 2 * last["bias"] - 1})
    return _solve_first(net.conv_first, generator.conv_first, latents)


def _kept(there: int, here: int) -> list[int]:
    """Indices of the blocks to keep: evenly spread, including the first and the last."""
    return [round(i * (there - 1) / max(1, here - 1)) for i in range(here)]


def _solve_first(ours: nn.Conv2d, theirs: nn.Conv2d, latents: WaveletAutoencoder) -> float:
    """Regularised least squares: some sub-bands of enlarged pictures hardly vary and would get huge weights."""
    x = _clouds(60, 24)
    z, wanted = latents.encode(upsample(x, _SCALE)), theirs(x)
    seen = F.unfold(z, 3, padding=1).transpose(1, 2).flatten(0, 1)
    seen = torch.cat((seen, seen.new_ones(len(seen), 1)), 1).double()
    target = wanted.flatten(2).transpose(1, 2).flatten(0, 1).double()
    covariance = seen.T @ seen + 1e-4 * len(seen) * torch.eye(seen.shape[1], dtype=seen.dtype)
    solution = torch.linalg.solve(covariance, seen.T @ target).float()
    ours.weight.copy_(solution[:-1].T.reshape(ours.weight.shape))
    ours.bias.copy_(solution[-1])  # type: ignore[union-attr]
    return float((ours(z) - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())


def _clouds(count: int, side: int) -> Tensor:
    """Coloured noise at several scales, (count, 3, side, side) in [0, 1]: covers all frequencies, like photos."""
    generator = torch.Generator().manual_seed(0)

    def noise(channels: int, coarse: int) -> Tensor:
        drawn = torch.rand(count, channels, coarse, coarse, generator=generator)
        return F.interpolate(drawn, (side, side), mode="bicubic") - 0.5

    fine = 0.3 * torch.rand(count, 1, 1, 1, generator=generator) * noise(3, side)
    return (0.5 + noise(1, 3) + 0.5 * noise(3, 6) + 0.5 * noise(3, 12) + fine).clamp(0, 1)
