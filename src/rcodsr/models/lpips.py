"""LPIPS v0.1: learned perceptual distances on SqueezeNet, AlexNet and VGG16, with weights from the user's files."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcodsr.models.pixels import signed

# ImageNet's mean and standard deviation, for pixels in [-1, 1], as defined by LPIPS
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
# torchvision's indices of the fire modules (squeeze, expand) in squeezenet1_1.features, with channels in and out
_FIRES = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128)}
_FIRES |= {9: (256, 48, 192), 10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256)}
_FIRE_LEVELS = ((), (3, 4), (6, 7), (9,), (10,), (11,), (12,))
# channels in and out, kernel, stride and padding of AlexNet's convolutions
_ALEX = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
# numbers of VGG16's convolutions in each block, and the channels of the block
_VGG_LEVELS = ((0, 1), (2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12))
_VGG_WIDTHS = (64, 128, 256, 512, 512)


def normalised(x: Tensor) -> Tensor:
    """Normalise a picture (B, 3, H, W) in [0, 1] to ImageNet's statistics: mean 0 and deviation 1."""
    return (signed(x) - x.new_tensor(_SHIFT).view(1, 3, 1, 1)) / x.new_tensor(_SCALE).view(1, 3, 1, 1)


def max_pool(x: Tensor) -> Tensor:
    """2×2 max pooling: (B, C, H, W) → (B, C, ⌊H/2⌋, ⌊W/2⌋)."""
    return F.max_pool2d(x, 2)


class Lpips(nn.Module, ABC):
    """Learned perceptual distance v0.1 (Zhang et al. 2018, The unreasonable effectiveness of deep features).

    Frozen; gradients flow only to the pictures. `lin0.weight` and so on weight the channels of each level.

    Args:
        layers: the network's layers by name.
    """

    WIDTHS: ClassVar[tuple[int, ...]]
    """Channels of the feature maps."""
    SMALLEST: ClassVar[int]
    """Minimum side of a picture, in pixels."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        heads = {f"lin{i}": nn.Conv2d(width, 1, 1, bias=False) for i, width in enumerate(self.WIDTHS)}
        for name, layer in {**layers, **heads}.items():
            self.add_module(name, layer)
        self.eval().requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of two pictures.

        Args:
            a: shape (B, 3, H, W) in [0, 1], sides of at least `SMALLEST`.
            b: same shape.

        Returns:
            Shape (B,), float32: 0 for equal pictures, larger for more different ones.
        """
        total = torch.zeros(len(a), device=a.device)
        for i, (f, g) in enumerate(zip(self.maps(a), self.maps(b), strict=True)):
            difference = (_unit(f) - _unit(g)).square().mean((2, 3))
            total = total + (difference * self.get_parameter(f"lin{i}.weight").flatten()).sum(1)
        return total

    def maps(self, x: Tensor, count: int | None = None) -> list[Tensor]:
        """Return the network's feature maps of a picture.

        Args:
            x: shape (B, 3, H, W) in [0, 1].
            count: number of maps; all by default.

        Returns:
            Maps from fine to coarse, with `WIDTHS` channels.
        """
        maps: list[Tensor] = []
        x = normalised(x)
        for i in range(len(self.WIDTHS) if count is None else count):
            x = self.level(i, x)
            maps.append(x)
        return maps

    @abstractmethod
    def level(self, i: int, x: Tensor) -> Tensor:
        """Compute map i from map i − 1 (B, C, H, W), or map 0 from a normalised picture (B, 3, H, W)."""


class LpipsSqueeze(Lpips):
    """LPIPS on SqueezeNet 1.1. State-dict keys are torchvision's `features.*` and `lin0..6.weight`."""

    WIDTHS = (64, 128, 256, 384, 384, 512, 512)
    SMALLEST = 17

    def __init__(self) -> None:
        features = nn.ModuleDict({"0": nn.Conv2d(3, 64, 3, stride=2)})
        features.update({str(i): _Fire(*shape) for i, shape in _FIRES.items()})
        super().__init__({"features": features})

    def level(self, i: int, x: Tensor) -> Tensor:
        """See `Lpips.level`."""
        if i == 0:
            return F.relu(self.get_submodule("features.0")(x))
        if i in (1, 2, 3):
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for fire in _FIRE_LEVELS[i]:
            x = self.get_submodule(f"features.{fire}")(x)
        return x


class LpipsAlex(Lpips):
    """LPIPS on AlexNet, used in the papers' tables. State-dict keys are `conv0..4.weight`, `.bias` and `lin0..4.weight`."""

    WIDTHS = (64, 192, 384, 256, 256)
    SMALLEST = 31

    def __init__(self) -> None:
        super().__init__({f"conv{i}": nn.Conv2d(*shape) for i, shape in enumerate(_ALEX)})

    def level(self, i: int, x: Tensor) -> Tensor:
        """See `Lpips.level`."""
        if i in (1, 2):
            x = F.max_pool2d(x, 3, 2)
        return F.relu(self.get_submodule(f"conv{i}")(x))


class LpipsVgg(Lpips):
    """LPIPS on VGG16, used as a loss. State-dict keys are `conv0..12.weight`, `.bias` and `lin0..4.weight`."""

    WIDTHS = _VGG_WIDTHS
    SMALLEST = 16

    def __init__(self) -> None:
        layers: dict[str, nn.Module] = {}
        channels = 3
        for numbers, width in zip(_VGG_LEVELS, _VGG_WIDTHS, strict=True):
            for number in numbers:
                layers[f"conv{number}"] = nn.Conv2d(channels, width, 3, padding=1)
                channels = width
        super().__init__(layers)

    def level(self, i: int, x: Tensor, pool: Callable[[Tensor], Tensor] = max_pool) -> Tensor:
        """Compute map i from map i − 1, or map 0 from a normalised picture.

        Args:
            i: index of the block, from 0.
            x: input of the block, (B, C, H, W).
            pool: halves the sides before every block except the first.
        """
        if i:
            x = pool(x)
        for number in _VGG_LEVELS[i]:
            x = F.relu(self.get_submodule(f"conv{number}")(x))
        return x


class _Fire(nn.Module):
    def __init__(self, wide_in: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(wide_in, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat((F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))), 1)


def _unit(f: Tensor) -> Tensor:
    # the small number under the root keeps the gradient finite where all channels are zero; it vanishes in float16
    f = f.float()
    return f / (f.square().sum(1, keepdim=True) + 1e-12).sqrt().add(1e-10)
