"""LPIPS with SqueezeNet 1.1: a perceptual loss and score whose weights are 1.5 MB and come from a file the user gives."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
# torchvision's indices of the fire modules (squeeze, expand) in squeezenet1_1.features, with channels in and out
_FIRES = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128)}
_FIRES |= {9: (256, 48, 192), 10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256)}
_LEVELS: tuple[tuple[bool, tuple[int, ...]], ...] = (
    (True, (3, 4)),
    (True, (6, 7)),
    (True, (9,)),
    (False, (10,)),
    (False, (11,)),
    (False, (12,)),
)


class _Fire(nn.Module):
    def __init__(self, wide_in: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(wide_in, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat((F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))), 1)


class LpipsSqueeze(nn.Module):
    """Learned perceptual distance v0.1 on SqueezeNet 1.1 features (Zhang et al. 2018, The unreasonable effectiveness…).

    State-dict keys are torchvision's `features.*` and `lin0..6.weight`. Frozen; gradients flow to the pictures only.
    """

    WIDTHS = (64, 128, 256, 384, 384, 512, 512)
    """Channels of the maps."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict({"0": nn.Conv2d(3, 64, 3, stride=2)})
        self.features.update({str(i): _Fire(*shape) for i, shape in _FIRES.items()})
        for i, width in enumerate(self.WIDTHS):
            self.add_module(f"lin{i}", nn.Conv2d(width, 1, 1, bias=False))
        self.eval().requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of two pictures.

        Args:
            a: shape (B, 3, H, W) in [-1, 1], sides of at least 17.
            b: same shape.

        Returns:
            Shape (B,), 0 for equal pictures, larger for more different ones.
        """
        total = a.new_zeros(len(a))
        for i, (f, g) in enumerate(zip(self.maps(a), self.maps(b), strict=True)):
            difference = (_unit(f) - _unit(g)).square()
            total = total + self.get_submodule(f"lin{i}")(difference).mean((1, 2, 3))
        return total

    def maps(self, x: Tensor, count: int = len(WIDTHS)) -> list[Tensor]:
        """The network's features of a picture, (B, 3, H, W) in [-1, 1]: maps from fine to coarse, of `WIDTHS` channels."""
        x = (x - x.new_tensor(_SHIFT).view(1, 3, 1, 1)) / x.new_tensor(_SCALE).view(1, 3, 1, 1)
        maps = [F.relu(self.features["0"](x))]
        for pooled, fires in _LEVELS[: count - 1]:
            x = F.max_pool2d(maps[-1], 3, 2, ceil_mode=True) if pooled else maps[-1]
            for i in fires:
                x = self.features[str(i)](x)
            maps.append(x)
        return maps


def _unit(f: Tensor) -> Tensor:
    # the small number under the root keeps the gradient finite where all channels are zero
    return f / (f.square().sum(1, keepdim=True) + 1e-12).sqrt().add(1e-10)
