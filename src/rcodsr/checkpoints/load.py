"""From what a user calls weights to a model: resolve, read, and for adapters find the bases."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch

from rcodsr.checkpoints.format import load_model, read_config
from rcodsr.checkpoints.resolve import Log, ResolvedWeights, resolve, resolve_base, silent
from rcodsr.errors import UsageError
from rcodsr.models.build import random_model
from rcodsr.models.one_step import OneStepSR
from rcodsr.variants import VARIANTS


@dataclass(frozen=True)
class LoadRequest:
    """Which weights, and where they may come from. As `--weights --base-model --revision --offline`."""

    weights: str
    base_model: str | None = None
    """Directory or repository that stands in for the diffusion base of an adapter."""
    revision: str | None = None
    offline: bool = False


@dataclass(frozen=True)
class LoadedWeights:
    """A model on the CPU, float32, and what to call it."""

    model: OneStepSR
    id: str
    """Name and abbreviated digest, as records and reports show it."""
    directory: Path | None = None
    """The checkpoint; None where the weights are random."""


def load_weights(request: LoadRequest, log: Log = silent) -> LoadedWeights:
    """Load weights by name, path, organisation/repository, or `random:VARIANT[:SEED]`.

    Raises:
        UsageError: when the request contradicts itself.
        WeightsError: when weights or bases are unknown, unavailable or damaged.
    """
    if request.weights.startswith("random:"):
        return _random(request)
    resolved = resolve(request.weights, request.revision, request.offline, log)
    config = read_config(resolved.directory)
    if request.base_model is not None and (config.layout != "adapter" or config.spec.base is None):
        raise UsageError("--base-model", f"{request.weights} needs no base", "leave it out")
    bases: dict[str, ResolvedWeights] = {}
    for name in config.bases:
        override = request.base_model if name == config.spec.base else None
        bases[name] = resolve_base(name, override, request.offline, log)
    return LoadedWeights(load_model(resolved.directory, bases), resolved.id, resolved.directory)


def _random(request: LoadRequest) -> LoadedWeights:
    _, _, rest = request.weights.partition(":")
    variant, _, seed = rest.partition(":")
    if variant not in VARIANTS or not (seed or "0").isdecimal():
        known = ", ".join(VARIANTS)
        raise UsageError("--weights", f"'{request.weights}' is not random:VARIANT[:SEED]", f"variants are {known}")
    if request.base_model is not None or request.revision is not None:
        raise UsageError("--weights", "random weights have no base and no revision", "leave --base-model and --revision out")
    name = f"random:{variant}:{int(seed or 0)}"
    model = random_model(VARIANTS[variant], int(seed or 0))
    if not model.spec.mergeable:
        _add_random_lora(model, int(seed or 0))
    return LoadedWeights(model, f"{name}@{sha256(name.encode()).hexdigest()[:12]}")


def _add_random_lora(model: OneStepSR, seed: int) -> None:
    """LoRA is part of what runs where it is never merged."""
    from rcodsr.models.lora import add_lora

    assert model.spec.lora is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        add_lora(model, model.spec.lora)
    model.requires_grad_(False)
