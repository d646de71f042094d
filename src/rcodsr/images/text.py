"""Placeholder."""
import torch
from torch import Tensor

def find_text(rgb: Tensor) -> Tensor:
    return torch.zeros(rgb.shape[1:], dtype=torch.bool)
