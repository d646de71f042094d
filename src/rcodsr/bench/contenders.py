"""Contenders of `rcodsr bench`: our path, and the same weights in plain modules, both from bytes to bytes on the device."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from rcodsr.engine.runner import Runner
from rcodsr.engine.runtime import Runtime
from rcodsr.engine.upscaler import Upscaler
from rcodsr.images.resize import pad_to_multiple, upsample
from rcodsr.models.one_step import OneStepSR
from rcodsr.options import UpscaleOptions


class Contender:
    """A model and a way to run it: low-resolution bytes → enlarged bytes, on the device.

    A single tile goes through the stages as in the engine, padded to the networks' multiple instead of the prior's minimum; a
    larger picture goes through the engine in tiles.

    Args:
        runner: the model and how to run it.
        tiled: whether pictures beyond one tile are tiled.
    """

    def __init__(self, runner: Runner, tiled: bool) -> None:
        self.runner, self.model, self.runtime, self.tiled = runner, runner.model, runner.runtime, tiled
        self.upscaler = Upscaler(runner.model, runner.runtime, "bench", runner=runner)

    def tiles(self, side: int) -> int:
        """Number of tiles of a picture with this enlarged side."""
        if not self.tiled or side <= self.model.spec.tile * self.model.spec.scale:
            return 1
        return len(self.upscaler.tiled.plan(torch.Size((side, side)), UpscaleOptions()))

    def __call__(self, lr: Tensor, realism: float) -> Tensor:
        """Enlarge (B, 3, h, w) uint8 → (B, 3, H, W) uint8; batches only if the picture fits in one tile."""
        pictures = lr.float() / 255
        with torch.no_grad():
            if len(lr) == 1 and self.tiles(lr.shape[-1] * self.model.spec.scale) > 1:
                restored = self.upscaler.restore(pictures[0], UpscaleOptions(default_realism=realism))[0][None]
            else:
                restored = self._at_once(pictures, realism)
            return restored.mul_(255).round_().to(torch.uint8)

    def network(self, lr: Tensor, realism: float) -> Tensor:
        """Output of the networks before the colour fix: (B, 3, h, w) uint8 → (B, 3, H, W), nominally in [0, 1]."""
        with torch.no_grad():
            return self._network(upsample(lr.float() / 255, self.model.spec.scale), lr.float() / 255, realism)

    def _at_once(self, pictures: Tensor, realism: float) -> Tensor:
        spec = self.model.spec
        enlarged = upsample(pictures, spec.scale)
        restored = self._network(enlarged, pictures, realism)[..., : enlarged.shape[2], : enlarged.shape[3]]
        finish = self.runner.finish
        return torch.stack([finish(*each, spec.color_fix) for each in zip(restored, enlarged, pictures, strict=True)])

    def _network(self, enlarged: Tensor, pictures: Tensor, realism: float) -> Tensor:
        spec = self.model.spec
        t = torch.full((len(pictures),), spec.grouping.realism_timestep(realism), device=pictures.device)
        condition = replace(self.runner.condition(enlarged, pictures), timestep=t)
        return self.runner.forward(pad_to_multiple(enlarged, spec.multiple), condition)


def plain_copy(model: OneStepSR) -> OneStepSR:
    """Copy a model's kernels, whose layout will change; all other weights are shared."""
    shared = [p for p in model.parameters() if p.dim() != 4] + list(model.buffers())
    return copy.deepcopy(model, {id(each): each for each in shared})


def plain_runner(model: OneStepSR, runtime: Runtime) -> Runner:
    """The usual way: unmodified modules of diffusers and transformers, NCHW, LoRA merged if ours is, no speedups."""
    return Runner(runtime.place(model, runtime.dtype, torch.contiguous_format), runtime)


def agreement(found: Tensor, expected: Tensor) -> tuple[float, float, float]:
    """PSNR in dB relative to the range of `expected` (0 for NaN, at most 200), relative L2 error, largest absolute error.

    Both tensors have the same shape, of any rank.
    """
    if not torch.isfinite(found).all():
        return 0.0, 1.0, float(expected.abs().max())
    error = (found.float() - expected.float()).double()
    span = float(expected.max() - expected.min())
    psnr = 20 * torch.log10(span / error.square().mean().sqrt().clamp(min=span * 1e-10))
    return float(psnr), float(error.norm() / expected.double().norm()), float(error.abs().max())
