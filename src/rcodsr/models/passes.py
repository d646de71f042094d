"""U-Net passes per step: one, or two if the user has opted in."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from torch import Tensor, nn

UNet = Callable[[Tensor, Tensor, Tensor], Tensor]


class Passes(Protocol):
    """Runs the U-Net and combines the outputs."""

    @property
    def count(self) -> int:
        """Passes per picture or tile."""
        ...

    @property
    def realism(self) -> float | None:
        """Realism that the combination implements; None if it does not set one."""
        ...

    def __call__(self, unet: UNet, z: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Latents (B, C, h, w), timesteps (B,), context (B, N, D) → the combined output (B, C, h, w)."""
        ...


class OnePass:
    """The plain output of one pass."""

    count = 1
    realism = None

    def __call__(self, unet: UNet, z: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Run the U-Net once; shapes as in `Passes`."""
        return unet(z, t, tokens)


class Guidance:
    """Classifier-free guidance, as in S3Diff's inference: negative + scale · (positive − negative).

    Args:
        scale: 1 returns the positive output unchanged; S3Diff uses 1.07.
        negative: embedding of the negative prompt, shape (1, N, D).
    """

    count = 2
    realism = None

    def __init__(self, scale: float, negative: Tensor) -> None:
        self.scale, self.negative = scale, negative

    def __call__(self, unet: UNet, z: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Run two passes and combine them in float32; shapes as in `Passes`."""
        negative = self.negative.to(tokens).expand(len(z), -1, -1)
        away, positive = unet(z, t, negative).float(), unet(z, t, tokens).float()
        return away + self.scale * (positive - away)


_share: ContextVar[float] = ContextVar("semantic share", default=1.0)
"""Factor on the semantic LoRA in this thread's network calls; threads share a model."""


class SemanticShare:
    """PiSA-SR's adjustable mode: P + λ · (PS − P), where P uses only the pixel LoRA and PS both. λ is the realism.

    λ = 0 is the pixel LoRA alone, λ = 1 equals the merged weights in one pass (the published λ_pix = λ_sem = 1).

    Args:
        halves: the A of every semantic LoRA layer (`lora.halves`), which is not merged.
        realism: λ, in [0, 1].
    """

    count = 2

    def __init__(self, halves: Iterable[nn.Module], realism: float) -> None:
        self.realism = realism
        for half in halves:
            half.register_forward_hook(_weigh)

    def __call__(self, unet: UNet, z: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Run two passes and combine them in float32; shapes as in `Passes`."""
        with _sharing(0.0):
            pixels = unet(z, t, tokens).float()
        return pixels + self.realism * (unet(z, t, tokens).float() - pixels)


def _weigh(module: nn.Module, inputs: object, out: Tensor) -> Tensor:
    """Forward hook of a LoRA's A."""
    return out * _share.get()


@contextmanager
def _sharing(share: float) -> Iterator[None]:
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)
