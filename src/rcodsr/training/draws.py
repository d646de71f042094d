"""Randomness of a training step. Each sample draws from its own seed, regardless of batch, process or machine."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rcodsr.diffusion.grouping import regularizer_timestep
from rcodsr.models.grain import SIDE

_PURPOSES = ("timestep", "anywhere", "fidelity", "t_r", "eps_r", "t_diff", "eps_diff", "drop", "augment", "row", "column")
_STREAMS = {name: number for number, name in enumerate(_PURPOSES)}


@dataclass(frozen=True)
class Draws:
    """Random numbers for a batch, by purpose. Drawn on the CPU, so that CPU and GPU runs draw the same.

    Args:
        seed: the run's seed.
        samples: index of each sample within the whole run.
    """

    seed: int
    samples: tuple[int, ...]

    def uniform(self, purpose: str) -> Tensor:
        """One number in [0, 1) per sample: shape (B,)."""
        return self._each(purpose, lambda generator: torch.rand((), generator=generator))

    def uniforms(self, purpose: str, count: int) -> Tensor:
        """Several numbers in [0, 1) per sample: shape (B, count)."""
        return self._each(purpose, lambda generator: torch.rand(count, generator=generator))

    def integers(self, purpose: str, low: int, high: int) -> Tensor:
        """One integer in [low, high], both ends included, per sample: shape (B,), int64."""
        return self._each(purpose, lambda generator: torch.randint(low, high + 1, (), generator=generator))

    def normal(self, purpose: str, like: Tensor) -> Tensor:
        """Standard normal noise with the shape (B, …) and device of `like`, float32."""
        shape = like.shape[1:]
        return self._each(purpose, lambda generator: torch.randn(shape, generator=generator)).to(like.device)

    def near(self, purpose: str, t: Tensor, k: int) -> Tensor:
        """Degradation-aware sampling, Eq. (7), around each sample's t: shape (B,), int64, on the device of t."""
        here = t.cpu()
        rows = (regularizer_timestep(here[i : i + 1], k, self._generator(purpose, i)) for i in range(len(self.samples)))
        return torch.cat(list(rows)).to(t.device)

    def origins(self) -> Tensor:
        """Position of each crop in the noise field that grain is drawn from: shape (B, 2), int64."""
        return torch.stack([self.integers(axis, 0, SIDE - 1) for axis in ("row", "column")], 1)

    def _each(self, purpose: str, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(self._generator(purpose, i)) for i in range(len(self.samples))])

    def _generator(self, purpose: str, index: int) -> torch.Generator:
        entropy = (self.seed, self.samples[index], _STREAMS[purpose])
        return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))
