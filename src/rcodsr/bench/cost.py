"""Machine-independent costs of a variant: operations, bytes of weights, trainable parameters. Counted, not measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rcodsr.models.build import build_model
from rcodsr.models.modulation import DegradationModulation, Modulation
from rcodsr.models.one_step import Condition, OneStepSR
from rcodsr.variants import VariantSpec

PUBLISHED = {"rcod-o": 0.09, "rcod-s": 0.28}
"""Seconds for 512×512 on one A100, as reported in the paper (Table 2) for its own implementation; not measured here."""


def flops(spec: VariantSpec, side: int, batch: int) -> dict[str, int]:
    """FLOP (two per multiply-add) of convolutions, matrix products and attention by stage, on torch's meta device.

    Args:
        spec: the variant; LoRA counts only if it cannot be merged.
        side: side of the enlarged picture, a multiple of the variant's.
        batch: number of pictures.
    """
    return flops_of(_shape(spec), side, batch)


def flops_of(model: OneStepSR, side: int, batch: int) -> dict[str, int]:
    """Same as `flops`, for a model already on the meta device, such as a rewritten one."""
    x, lr = (torch.rand(batch, 3, n, n, device="meta") for n in (side, side // model.spec.scale))
    t = torch.zeros(batch, dtype=torch.int64, device="meta")
    counted = {}
    with torch.no_grad():
        z, tokens, modulation = model.encode(x), model.context(model.prompt(x)), _modulation(model, lr)
        stages: dict[str, Callable[[], object]] = {
            "condition": lambda: (model.context(model.prompt(x)), _modulation(model, lr)),
            "encode": lambda: model.encode(x),
            "unet": lambda: model.restore(z, Condition(t, tokens, modulation)),
            "decode": lambda: model.decode(z),
        }
        with model.modulator.using(modulation):
            for name, stage in stages.items():
                with FlopCounterMode(display=False) as counter:
                    stage()
                counted[name] = int(counter.get_total_flops())
    return counted


def trainable_parameters(spec: VariantSpec) -> dict[str, int]:
    """Trainable parameters by kind, and their sum as `total`. Excludes the regulariser's LoRA, which inference drops."""
    model = build_model(spec, weightless=True)
    if spec.lora is None:
        counts = {"all": sum(p.numel() for p in model.parameters())}
    else:
        from rcodsr.models.lora import add_lora, parameter_counts

        with torch.device("meta"):
            add_lora(model, spec.lora)
        counts = parameter_counts(model)
    return {**counts, "total": sum(counts.values())}


@cache
def _shape(spec: VariantSpec) -> OneStepSR:
    return weightless(spec)


def weight_bytes(model: OneStepSR) -> int:
    """Bytes of all weights that one pass reads."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _modulation(model: OneStepSR, lr: Tensor) -> Modulation:
    """Same as the modulator's `measure`, without its autocast guard, which the meta device does not support."""
    if not isinstance(model.modulator, DegradationModulation):
        return Modulation()
    scores, features = model.modulator.estimator(lr)
    return Modulation(model.modulator.steering(scores), (features,))


def weightless(spec: VariantSpec) -> OneStepSR:
    """Build the networks on the meta device in their inference form."""
    model = build_model(spec, weightless=True).eval()
    if not spec.mergeable and spec.lora is not None:
        from rcodsr.models.lora import add_lora

        with torch.device("meta"):
            add_lora(model, spec.lora)
    return model.to("meta")  # constants were created in memory
