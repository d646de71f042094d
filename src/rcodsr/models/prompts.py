"""Visual prompt injection (VPIM): the picture itself is the prompt of the U-Net's cross-attention."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcodsr.config import PromptSpec


class TinyVisionTower(nn.Module):
    """The small vision tower of `rcod-tiny`, in the place of CLIP: (B, 3, s, s) in [0, 1] → (B, 1 + N, C) tokens.

    The first token is the mean of the others, the counterpart of a class token.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        stages = zip((3, *channels), channels, strict=False)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in stages)
        self.norm = nn.LayerNorm(channels[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of pictures that are already squashed to the tower's side."""
        x = (2 * x - 1).to(self.norm.weight.dtype)
        for stage in self.stages:
            x = F.leaky_relu(stage(x), 0.1)
        patches = x.flatten(2).transpose(1, 2)
        out: Tensor = self.norm(torch.cat((patches.mean(1, keepdim=True), patches), 1))
        return out


class VisualPrompt(nn.Module):
    """VPIM: vision tower and one trainable linear layer, c_y = MLP(Y(x_L)).

    The paper's Algorithm 1 writes Y(MLP(z_L)); its text and parameter counts mean this order.

    Args:
        spec: side the picture is squashed to, tower, width of the tokens.
    """

    def __init__(self, spec: PromptSpec) -> None:
        super().__init__()
        self.side = spec.image_side
        self.tower = TinyVisionTower(spec.tower_channels)
        self.linear = nn.Linear(spec.tower_channels[-1], spec.context)

    def forward(self, x_l: Tensor) -> Tensor:
        """Visual tokens of the whole picture.

        Args:
            x_l: enlarged low-resolution pictures, shape (B, 3, H, W) in [0, 1], any size.

        Returns:
            Shape (B, 1 + N, D).
        """
        squashed = F.interpolate(x_l, (self.side, self.side), mode="bilinear", antialias=True)
        out: Tensor = self.linear(self.tower(squashed))
        return out
