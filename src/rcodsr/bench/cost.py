"""What a variant costs whatever the machine: operations, bytes of weights, trainable parameters. Counted, not measured."""

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
"""Seconds for 512×512 on one A100, as the paper says of its own implementation (Table 2); not measured here."""


def flops(spec: VariantSpec, side: int, batch: int) -> dict[str, int]:
    """FLOP (two per multiply-add) of convolutions, matrix products and attention by stage, on torch's meta device.

    Args:
        spec: the variant; LoRA counts only where it cannot be merged.
        side: of the enlarged picture, a multiple of what the variant needs.
        batch: pictures.
    """
    return flops_of(_shape(spec), side, batch)


def flops_of(model: OneStepSR, side: int, batch: int) -> dict[str, int]:
    """The same of a model that is on the meta device already, rewritten for instance."""
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
    """What training changes, by kind, and their sum as `total`. The regulariser's LoRA, which inference drops, is left out."""
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
    """Bytes of everything that one pass reads of the weights."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _modulation(model: OneStepSR, lr: Tensor) -> Modulation:
    """As the modulator measures it, but for its guard against autocast, which the meta device does not know."""
    if not isinstance(model.modulator, DegradationModulation):
        return Modulation()
    scores, features = model.modulator.estimator(lr)
    return Modulation(model.modulator.steering(scores), (features,))


def weightless(spec: VariantSpec) -> OneStepSR:
    """The networks on the meta device, as they are at inference."""
    model = build_model(spec, weightless=True).eval()
    if not spec.mergeable and spec.lora is not None:
        from rcodsr.models.lora import add_lora

        with torch.device("meta"):
            add_lora(model, spec.lora)
    return model.to("meta")  # what are numbers, not weights, was made in memory
