"""Modulation of the generator by the picture's degradation. RCOD_O and `rcod-tiny` have none: the null object."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Modulation:
    """What a modulator measured; empty where nothing is modulated."""

    matrices: tuple[Tensor, ...] = ()
    """Per block, shape (B, r, r)."""

    def __getitem__(self, index: slice) -> "Modulation":
        return Modulation(tuple(m[index] for m in self.matrices))

    def expand(self, count: int) -> "Modulation":
        """Repeat a single picture's modulation for `count` tiles."""
        return Modulation(tuple(m.expand(count, *m.shape[1:]) for m in self.matrices))


class Modulator(Protocol):
    """Measures a picture once and applies the result around every network call."""

    def measure(self, x_l: Tensor) -> Modulation:
        """Modulation of enlarged low-resolution pictures (B, 3, H, W) in [0, 1]."""
        ...

    @contextmanager
    def using(self, modulation: Modulation) -> Iterator[None]:
        """Apply the modulation to network calls made inside the `with` block, `backward` included."""
        ...


class NoModulation:
    """The null object: measures nothing, changes nothing."""

    def measure(self, x_l: Tensor) -> Modulation:
        """An empty modulation."""
        return Modulation()

    @contextmanager
    def using(self, modulation: Modulation) -> Iterator[None]:
        """Do nothing."""
        yield
