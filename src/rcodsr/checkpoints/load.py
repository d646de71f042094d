"""Load a model from a user's name for weights: resolve, read, and find the bases of adapters."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rcodsr.checkpoints.config import REMEDY, CheckpointConfig
from rcodsr.checkpoints.format import load_model
from rcodsr.checkpoints.identity import Identity, identify, read_random
from rcodsr.checkpoints.resolve import ResolvedWeights, resolve_base
from rcodsr.errors import WeightsError
from rcodsr.messages import Log, silent
from rcodsr.models.build import random_model
from rcodsr.models.one_step import OneStepSR
from rcodsr.models.passes import Guidance, SemanticShare
from rcodsr.models.prompts import FixedPrompt
from rcodsr.options import UpscaleOptions, WeightsRequest, prompt_digest
from rcodsr.parts import TextSpec
from rcodsr.variants import VariantSpec

_SEMANTIC = "sem"
_CPU = torch.device("cpu")
_NOTHING = UpscaleOptions()


@dataclass(frozen=True)
class LoadedWeights:
    """A model in float32 on the CPU (random weights: on the device where they were generated), with its id."""

    model: OneStepSR
    id: str
    """Name, abbreviated digest, and settings fixed at loading, as shown in records and reports."""
    directory: Path | None = None
    """Checkpoint directory. None for random weights."""


def load_weights(
    request: WeightsRequest, options: UpscaleOptions = _NOTHING, drawn_on: torch.device = _CPU, log: Log = silent
) -> LoadedWeights:
    """Load weights by name, path, organisation/repository, or `random:VARIANT[:SEED]`.

    Args:
        request: which weights.
        options: options of the pictures. Unsupported ones are refused before bases are fetched. For PiSA-SR, a level
            sets the weights of its two U-Net passes.
        drawn_on: device where random weights are generated and stay.
        log: receives a line when something is fetched.

    Raises:
        UsageError: when the request contradicts itself or the weights.
        WeightsError: when weights or bases are unknown, unavailable or damaged.
    """
    found = identify(request, options, log)
    if found.resolved is None or found.config is None:
        return _random(found, request, drawn_on)
    resolved, config, share = found.resolved, found.config, found.share
    bases: dict[str, ResolvedWeights] = {}
    for name in config.bases if config.layout == "adapter" else ():
        override = request.base_model if name == config.spec.base else None
        bases[name] = resolve_base(name, override, request.offline, log)
    model = load_model(resolved.directory, bases, keep="" if share is None else _SEMANTIC)
    _tell(model, config, request, log)
    if share is not None:
        _weigh(model, share)
    return LoadedWeights(model, found.id, resolved.directory)


def _tell(model: OneStepSR, config: CheckpointConfig, request: WeightsRequest, log: Log) -> None:
    """Set the model's prompts, and its second pass if requested."""
    spec, prompt = model.spec, model.spec.prompt
    if not isinstance(prompt, TextSpec) or not isinstance(model.prompt, FixedPrompt):
        return
    text = prompt.text if request.prompt is None else request.prompt
    from rcodsr.checkpoints.text_encoder import prompt_embedding, prompt_encoder

    def embed(words: str) -> Tensor:
        assert spec.base is not None
        return fitting(prompt_embedding(spec.base, words, request.base_model, request.offline, log))

    def fitting(embedding: Tensor) -> Tensor:
        if embedding.shape != (1, prompt.tokens, prompt.context):
            wanted = (1, prompt.tokens, prompt.context)
            cause = f"its text encoder returns {tuple(embedding.shape)}, {spec.name} needs {wanted}"
            raise WeightsError(spec.base, cause, REMEDY)
        return embedding

    if spec.base is not None:
        encoder = prompt_encoder(spec.base, request.base_model, request.offline, log)
        model.prompt.encode = lambda words: fitting(encoder(words))
    if text is not None and (request.prompt is not None or config.layout == "adapter"):
        model.prompt.embedding = embed(text)
    guidance = _guidance(request, spec)
    if guidance is not None and prompt.negative is not None:
        model.passes = Guidance(guidance, embed(prompt.negative))


def _guidance(request: WeightsRequest, spec: VariantSpec) -> float | None:
    return spec.script.guidance if request.as_published and spec.script is not None else request.guidance


def _weigh(model: OneStepSR, share: float) -> None:
    from rcodsr.models.lora import halves

    model.passes = SemanticShare(halves(model.unet, _SEMANTIC), share)


def _random(found: Identity, request: WeightsRequest, drawn_on: torch.device) -> LoadedWeights:
    spec, seed = read_random(request.name)
    model = random_model(spec, seed, drawn_on)
    with torch.random.fork_rng(devices=[drawn_on] if drawn_on.type == "cuda" else []), drawn_on:
        torch.manual_seed(seed)
        if found.share is not None or not spec.mergeable:
            _add_lora(model)
        if isinstance(model.prompt, FixedPrompt):
            model.prompt.embedding.normal_()
            model.prompt.encode = partial(_drawn, model.prompt.embedding.shape)
            if (guidance := _guidance(request, spec)) is not None:
                model.passes = Guidance(guidance, torch.randn_like(model.prompt.embedding))
    if found.share is not None:
        _weigh(model, found.share)
    return LoadedWeights(model, found.id)


def _drawn(shape: torch.Size, text: str) -> Tensor:
    """A random embedding that depends on the text."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(int(prompt_digest(text), 16)))


def _add_lora(model: OneStepSR) -> None:
    """Add LoRA layers, for variants that never merge them."""
    from rcodsr.models.lora import add_lora

    assert model.spec.lora is not None
    add_lora(model, model.spec.lora)
    model.requires_grad_(False)
