"""Context of the U-Net's cross-attention: the picture itself (VPIM), or a fixed text."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcodsr.models.pixels import signed
from rcodsr.parts import TextSpec


class TinyVisionTower(nn.Module):
    """The small vision tower of `rcod-tiny`, which replaces CLIP: (B, 3, s, s) in [0, 1] → (B, 1 + N, C) tokens.

    The first token is the mean of the others, the counterpart of a class token.
    """

    resample = "bilinear"
    keeps_float32 = True  # too small to benefit from lower precision

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        stages = zip((3, *channels), channels, strict=False)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in stages)
        self.norm = nn.LayerNorm(channels[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of pictures already resized to the tower's side: (B, 3, s, s) in [0, 1] → (B, 1 + N, C)."""
        x = signed(x).to(self.norm.weight.dtype)
        for stage in self.stages:
            x = F.leaky_relu(stage(x), 0.1)
        patches = x.flatten(2).transpose(1, 2)
        out: Tensor = self.norm(torch.cat((patches.mean(1, keepdim=True), patches), 1))
        return out


class VisualPrompt(nn.Module):
    """VPIM: frozen vision tower and one trainable linear layer, c_y = MLP(Y(x_L)).

    The paper's Algorithm 1 writes Y(MLP(z_L)), but its text and parameter counts imply this order.

    Args:
        tower: (B, 3, side, side) in [0, 1] → tokens (B, 1 + N, width).
        side: whole pictures are resized to this side, ignoring their aspect ratio.
        width: width of the tower's tokens.
        context: width of the tokens the U-Net attends to.
    """

    def __init__(self, tower: nn.Module, side: int, width: int, context: int) -> None:
        super().__init__()
        self.side = side
        self.tower = tower
        self.linear = nn.Linear(width, context)

    @property
    def keeps_float32(self) -> bool:
        """Same as the tower's."""
        return bool(self.tower.keeps_float32)

    def forward(self, x_l: Tensor) -> Tensor:
        """Compute visual tokens of whole pictures.

        Args:
            x_l: enlarged low-resolution pictures, shape (B, 3, H, W) in [0, 1], any size.

        Returns:
            Shape (B, 1 + N, D).
        """
        return self.read(self.squash(x_l))

    def look(self, x_l: Tensor) -> Tensor:
        """The tower's class token, an input of the metric estimator: (B, 3, H, W) in [0, 1] → (B, width)."""
        out: Tensor = self.tower(self.squash(x_l))
        return out[:, 0]

    def squash(self, x_l: Tensor) -> Tensor:
        """Resize whole pictures to the tower's side: (B, 3, H, W) → (B, 3, side, side), both in [0, 1]."""
        return F.interpolate(x_l, (self.side, self.side), mode=str(self.tower.resample), antialias=True).clamp(0, 1)

    def read(self, squashed: Tensor) -> Tensor:
        """Visual tokens of squashed pictures: (B, 3, side, side) in [0, 1] → (B, 1 + N, D)."""
        out: Tensor = self.linear(self.tower(squashed))
        return out

    def parts(self) -> dict[str, nn.Module]:
        """Return modules by the name of the file that stores them."""
        return {"vision": self.tower, "vpim": self.linear}


class FixedPrompt(nn.Module):
    """One text embedding for every picture, computed once by the base's text encoder (`checkpoints.text_encoder`) and stored.

    Args:
        spec: number of tokens and their width.

    Attributes:
        encode: returns the embedding (1, N, D) of a picture's own text; None if no text encoder is available.
    """

    keeps_float32 = False
    embedding: Tensor

    def __init__(self, spec: TextSpec) -> None:
        super().__init__()
        self.register_buffer("embedding", torch.zeros(1, spec.tokens, spec.context))
        self.encode: Callable[[str], Tensor] | None = None

    def speak(self, text: str) -> Tensor:
        """Return the embedding of a picture's own text, (1, N, D), in the dtype of the fixed one."""
        assert self.encode is not None  # if None, `VariantSpec.check` has rejected the text
        return self.encode(text).to(self.embedding)

    def forward(self, x_l: Tensor) -> Tensor:
        """Return the embedding once per picture of `x_l` (B, 3, H, W): shape (B, N, D)."""
        return self.embedding.expand(len(x_l), -1, -1)

    def look(self, x_l: Tensor) -> Tensor:
        """Return no features: shape (B, 0)."""
        return x_l.new_zeros(len(x_l), 0)

    def parts(self) -> dict[str, nn.Module]:
        """Return modules by the name of the file that stores them."""
        return {"prompt": self}
