"""In which order a network wants its pixels: channels_last where its convolutions are laid out like that."""

import torch
from torch import Tensor, nn


def like_weights(x: Tensor, network: nn.Module) -> Tensor:
    """`x` (B, C, h, w) in the layout of a network's kernels."""
    kernel = next((p for p in network.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1), None)
    if kernel is not None and kernel.is_contiguous(memory_format=torch.channels_last):
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()
