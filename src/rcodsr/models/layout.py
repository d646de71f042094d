"""Dtype and memory format of networks and their inputs."""

import torch
from torch import Tensor, nn


def cast(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast a network in place, except for the parts marked `keeps_float32`."""
    if getattr(network, "keeps_float32", False):
        return
    for child in network.children():
        cast(child, dtype)
    network._apply(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, recurse=False)


def like_weights(x: Tensor, network: nn.Module) -> Tensor:
    """Return `x` (B, C, h, w) in the memory format of a network's kernels."""
    kernel = next((p for p in network.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1), None)
    if kernel is not None and kernel.is_contiguous(memory_format=torch.channels_last):
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()
