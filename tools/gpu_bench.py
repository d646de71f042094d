"""Devices, sizes and shared models of the steps in `gpu_steps.py`."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rcodsr.bench.contenders import Contender
    from rcodsr.engine.runtime import Runtime
    from rcodsr.models.one_step import OneStepSR
    from rcodsr.variants import VariantSpec

Figures = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Device, sizes and shared models of the steps."""

    out: Path
    tiny: bool
    dry: bool

    @property
    def device(self) -> str:
        """Device, as in `--device`."""
        return "cpu" if self.tiny or self.dry else "cuda"

    @property
    def side(self) -> int:
        """Side of an enlarged picture of one tile."""
        return 128 if self.tiny else 512

    @property
    def large(self) -> int:
        """Side of an enlarged picture of several tiles."""
        return 256 if self.tiny else 2048

    @cached_property
    def runtime(self) -> Runtime:
        """Device and dtype of the models."""
        from rcodsr.engine.runtime import choose_runtime

        return choose_runtime(self.device)

    def spec(self, name: str) -> VariantSpec:
        """The variant; in a rehearsal, all of its kinds of layers at a thousandth of its size."""
        from rcodsr.parts import ClipSpec, KlSpec, LoraSpec, ModulationSpec, SdUNetSpec
        from rcodsr.variants import VARIANTS

        spec = VARIANTS[name]
        if not self.tiny or not isinstance(spec.unet, SdUNetSpec):
            return spec
        modulated = spec.modulation is not None
        return replace(
            spec,
            autoencoder=KlSpec(widths=(16, 16, 32), blocks=1, norm_groups=8),
            unet=SdUNetSpec(channels=(32, 64), blocks=1, heads=(2, 4), norm_groups=8),
            prompt=ClipSpec(image_side=28, width=32, layers=2, heads=2, context=24),
            lora=LoraSpec(unet_rank=6, vae_rank=4, placement="s3diff") if modulated else LoraSpec(),
            modulation=ModulationSpec(4, 8, (8, 12), (2, 1), 8) if modulated else None,
            least_side=32,
            tile=32,
        )

    def model(self, name: str) -> OneStepSR:
        """Random weights of a variant, float32, on the device; drawn once and copied."""
        return copy.deepcopy(self._drawn(name))

    def _drawn(self, name: str) -> OneStepSR:
        import torch

        from rcodsr.models.build import random_model
        from rcodsr.models.lora import add_lora

        if name not in _drawn:
            _drawn.clear()  # one variant at a time
            model = random_model(self.spec(name), 0, self.runtime.device)
            if not model.spec.mergeable and model.spec.lora is not None:
                with self.runtime.device, torch.random.fork_rng():
                    add_lora(model, model.spec.lora)
            _drawn[name] = model.to(self.runtime.device).requires_grad_(False)
        return _drawn[name]

    @cached_property
    def fast(self) -> Contender:
        """rcod-o in our fast path."""
        return self.contender(None)

    @cached_property
    def plain(self) -> Contender:
        """rcod-o in unmodified modules of diffusers and transformers, tiled like ours."""
        from rcodsr.bench.contenders import Contender, plain_runner

        return Contender(plain_runner(self.model("rcod-o"), self.runtime), tiled=True)

    def contender(self, items: list[str] | None) -> Contender:
        """rcod-o with selected items of `engine.fast`."""
        from rcodsr.bench.contenders import Contender
        from rcodsr.engine.fast import choose
        from rcodsr.engine.runner import prepare

        chosen = choose(self.runtime.device.type, items)
        return Contender(prepare(self.model("rcod-o"), self.runtime, chosen, log), tiled=True)

    def rehearse(self, name: str, sides: tuple[int, ...], batches: tuple[int, ...], items: list[str] | None = None) -> Figures:
        """Run the real shapes through the rewritten networks on the meta device, without weights or values."""
        from rcodsr.bench.cost import flops_of, weightless
        from rcodsr.engine.fast import choose, rewrite

        spec = self.spec(name)
        model = rewrite(weightless(spec), choose("cuda", items)).to("meta")
        one_tile = [min(side, spec.tile * spec.scale) for side in sides]
        return {f"tflop_{side}_{n}": sum(flops_of(model, side, n).values()) / 1e12 for side in one_tile for n in batches}


_drawn: dict[str, OneStepSR] = {}


def log(text: str) -> None:
    """Print a progress line."""
    print(text, file=sys.stderr, flush=True)
