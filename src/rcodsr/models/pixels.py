"""The two pixel ranges: pictures are in [0, 1]; networks trained on [-1, 1] convert internally."""

from torch import Tensor


def signed(x: Tensor) -> Tensor:
    """Pixels in [0, 1] → [-1, 1]. Any shape and floating dtype."""
    return 2 * x - 1


def unsigned(x: Tensor) -> Tensor:
    """Inverse of `signed`: [-1, 1] → [0, 1]. Any shape and floating dtype."""
    return (x + 1) * 0.5
