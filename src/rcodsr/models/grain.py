"""A seeded noise source beside the latents, from which fine texture can grow where the input has none."""

import numpy as np
import torch
from torch import Tensor, nn

SIDE = 64
"""Latent positions after which the field repeats: 256 pixels of the enlarged picture."""
_SEED = 0


class Grain(nn.Module):
    """Turns the U-Net's mean and deviation into a sample of eps: mean + deviation · n.

    Without noise, a network can only amplify what is in the input, even in smooth areas. Here it predicts how much noise each
    position and sub-band takes, as Improved DDPM (Nichol & Dhariwal, 2021) learns a variance beside the mean. n is a fixed
    field of standard normal numbers, so the same picture gives the same bytes, whether in tiles or whole.

    Args:
        channels: channels of the latents.
    """

    field: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        # numpy guarantees this generator's stream; a checkpoint need not store them
        numbers = np.random.RandomState(_SEED).standard_normal((channels, SIDE, SIDE)).astype(np.float32)
        self.register_buffer("field", torch.from_numpy(numbers), persistent=False)

    def forward(self, net: Tensor, origin: Tensor) -> Tensor:
        """Draw the sample.

        Args:
            net: mean and deviation, shape (B, 2C, h, w).
            origin: row and column of each tile in its picture's latents, shape (B, 2), int64.

        Returns:
            Shape (B, C, h, w), float32.
        """
        mean, deviation = net.float().chunk(2, 1)
        rows, columns = (self._places(origin[:, axis], side) for axis, side in enumerate(mean.shape[2:]))
        noise = self.field[:, rows[:, :, None], columns[:, None]].transpose(0, 1)
        return torch.addcmul(mean, deviation, noise)

    @staticmethod
    def _places(first: Tensor, length: int) -> Tensor:
        """Indices into the field of a tile's positions: (B,) → (B, length)."""
        return (first[:, None] + torch.arange(length, device=first.device)) % SIDE
