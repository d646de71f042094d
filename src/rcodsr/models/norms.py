"""Group normalisation and SiLU in one module that keeps channels_last.

torch's GroupNorm on CUDA returns contiguous tensors for channels_last inputs, which costs a copy before and after each of a
hundred normalisations (pytorch issue 111824). Where Triton is available, `norm_kernel` computes both in the input's layout.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FusedNorm(nn.Module):
    """GroupNorm, optionally followed by SiLU.

    Args:
        norm: the layer whose parameters are used.
        silu: apply SiLU.
    """

    def __init__(self, norm: nn.GroupNorm, silu: bool) -> None:
        super().__init__()
        self.groups, self.eps, self.silu = norm.num_groups, norm.eps, silu
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → the same shape and layout; statistics in float32."""
        if x.is_cuda and kernel_works(x.device):
            from rcodsr.models.norm_kernel import group_norm_nhwc

            return group_norm_nhwc(x, self.weight, self.bias, self.groups, self.eps, self.silu)
        out = F.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        return F.silu(out, inplace=not out.requires_grad) if self.silu else out


_works: dict[torch.device, bool] = {}


def kernel_works(device: torch.device) -> bool:
    """Whether the Triton kernel compiles on a device and agrees with torch; tested once per process."""
    if device not in _works:
        try:
            _works[device] = _agrees(device)
        except Exception:  # after any error of a compiler or driver, use torch's own operation
            _works[device] = False
    return _works[device]


def _agrees(device: torch.device) -> bool:
    from rcodsr.models.norm_kernel import group_norm_nhwc

    x = torch.linspace(-3, 5, 2 * 96 * 9 * 7, device=device).view(2, 96, 9, 7).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.linspace(0.5, 2, 96, device=device), torch.linspace(-1, 1, 96, device=device)
    found = group_norm_nhwc(x, weight, bias, 32, 1e-6, silu=True)
    return torch.allclose(found, F.silu(F.group_norm(x, 32, weight, bias, 1e-6)), atol=1e-4)
