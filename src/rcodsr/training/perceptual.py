"""Builds a recipe's perceptual distance."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rcodsr.checkpoints.tensors import load_strictly
from rcodsr.errors import UsageError
from rcodsr.models.lpips import LpipsSqueeze, LpipsVgg
from rcodsr.training.losses import wavelet_distance
from rcodsr.training.recipe import PerceptualSettings

Distance = Callable[[Tensor, Tensor], Tensor]
"""Two batches of pictures (B, 3, H, W) in [0, 1] → (B,)."""


def build_perceptual(settings: PerceptualSettings, device: torch.device, hollow: bool = False) -> Distance | None:
    """The distance a recipe names.

    Args:
        settings: the distance and its weights.
        device: its device.
        hollow: skip reading weights, if only shapes are needed.

    Raises:
        UsageError: when LPIPS with VGG16 is requested without weights and its package is missing.
        WeightsError: when the weights cannot be read.
    """
    kind, weights = settings.distance, settings.weights
    if kind == "wavelet":
        return wavelet_distance
    if kind != "none" and (hollow or weights is not None):
        lpips = LpipsVgg() if kind == "lpips-vgg" else LpipsSqueeze()
        if weights is not None and not hollow:
            load_strictly(lpips, weights)
        placed: nn.Module = lpips.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return placed
    return _lpips_package(device) if kind == "lpips-vgg" else None


def _lpips_package(device: torch.device) -> Distance:
    try:
        import lpips  # type: ignore[import-not-found]
    except ImportError as error:
        remedy = "add perceptual.weights=FILE.safetensors, or choose perceptual.distance=lpips-squeeze or wavelet"
        cause = f"lpips-vgg without weights needs the lpips package ({error})"
        raise UsageError("perceptual.distance", cause, remedy) from error
    net = lpips.LPIPS(net="vgg", verbose=False).to(device).eval().requires_grad_(False)
    return lambda a, b: net(a, b, normalize=True).flatten()  # from [0, 1]
