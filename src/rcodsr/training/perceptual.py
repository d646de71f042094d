"""Choosing the perceptual distance of a recipe."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from rcodsr.checkpoints.tensors import load_strictly
from rcodsr.models.perceptual import LpipsSqueeze, LpipsVgg
from rcodsr.training.losses import wavelet_distance
from rcodsr.training.recipe import Perceptual

Distance = Callable[[Tensor, Tensor], Tensor]
"""Pictures (B, 3, H, W) in [-1, 1] twice → (B,)."""


def build_perceptual(kind: Perceptual, weights: Path | None, device: torch.device) -> Distance | None:
    """The distance a recipe names.

    Raises:
        WeightsError: when the weights cannot be read.
    """
    if kind == "wavelet":
        return wavelet_distance
    if kind != "none" and weights is not None:
        lpips = LpipsVgg() if kind == "lpips-vgg" else LpipsSqueeze()
        load_strictly(lpips, weights)
        placed: nn.Module = lpips.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return placed
    return None
