"""From what a user calls weights to a model: resolve, read, and for adapters find the bases."""

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from rcodsr.checkpoints.config import REMEDY, CheckpointConfig, read_config
from rcodsr.checkpoints.format import load_model
from rcodsr.checkpoints.named import find
from rcodsr.checkpoints.resolve import Log, ResolvedWeights, resolve_base, silent
from rcodsr.errors import UsageError, WeightsError
from rcodsr.models.build import random_model
from rcodsr.models.one_step import OneStepSR
from rcodsr.models.passes import Guidance, SemanticShare
from rcodsr.models.prompts import FixedPrompt
from rcodsr.parts import TextSpec
from rcodsr.variants import VARIANTS, VariantSpec

_SEMANTIC = "sem"


@dataclass(frozen=True)
class LoadRequest:
    """Which weights, where they may come from, and what is settled for all pictures when they are loaded."""

    weights: str
    base_model: str | None = None
    """Directory or repository that stands in for the diffusion base of an adapter."""
    revision: str | None = None
    offline: bool = False
    prompt: str | None = None
    """In the place of a fixed text prompt."""
    guidance: float | None = None
    """Scale of S3Diff's guidance, a second U-Net pass."""
    realism: float | None = None
    """A realism that was asked for; PiSA-SR's weights turn it into a second U-Net pass, others leave it to each picture."""
    adaptive: bool = False
    """The degradation is to decide: refused here, before bases are fetched, where it cannot."""
    drawn_on: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where random weights are drawn and stay."""


@dataclass(frozen=True)
class LoadedWeights:
    """A model on the CPU (random weights: where they were drawn), float32, and what to call it."""

    model: OneStepSR
    id: str
    """Name, abbreviated digest, and what was settled at loading, as records and reports show it."""
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
    resolved = find(request.weights, request.revision, request.offline, log)
    config = read_config(resolved.directory)
    _check(request, config)
    bases: dict[str, ResolvedWeights] = {}
    for name in config.bases if config.layout == "adapter" else ():
        override = request.base_model if name == config.spec.base else None
        bases[name] = resolve_base(name, override, request.offline, log)
    weighed = request.realism is not None and _weighable(config)
    model = load_model(resolved.directory, bases, keep=_SEMANTIC if weighed else "")
    _tell(model, config, request, log)
    return LoadedWeights(model, _named(resolved.id, request, weighed), resolved.directory)


def _weighable(config: CheckpointConfig) -> bool:
    return config.layout == "adapter" and config.spec.weighable


def _check(request: LoadRequest, config: CheckpointConfig) -> None:
    """Refuse what these weights cannot do, before gigabytes are fetched."""
    spec = config.spec
    spec.check_steering(request.realism is not None, request.adaptive, _weighable(config))
    if request.base_model is not None and (config.layout != "adapter" or spec.base is None):
        raise UsageError("--base-model", f"{request.weights} needs no base", "leave it out")
    _check_words(request, spec)


def _check_words(request: LoadRequest, spec: VariantSpec) -> None:
    prompt = spec.prompt
    if request.prompt is not None and (not isinstance(prompt, TextSpec) or spec.base is None):
        raise UsageError("--prompt", f"{spec.name} looks at the picture instead of a text", "leave it out")
    if request.guidance is not None and not (isinstance(prompt, TextSpec) and prompt.negative is not None):
        raise UsageError("--guidance", f"{spec.name} was not made to be guided", "leave it out; it is for s3diff")


def _tell(model: OneStepSR, config: CheckpointConfig, request: LoadRequest, log: Log) -> None:
    """Give the model its texts, and a second pass where one is opted into."""
    spec, prompt = model.spec, model.spec.prompt
    if not isinstance(prompt, TextSpec) or not isinstance(model.prompt, FixedPrompt):
        return
    text = prompt.text if request.prompt is None else request.prompt
    from rcodsr.checkpoints.text import prompt_embedding

    def embed(words: str) -> Tensor:
        assert spec.base is not None
        embedding = prompt_embedding(spec.base, words, request.base_model, request.offline, log)
        if embedding.shape != (1, prompt.tokens, prompt.context):
            wanted = (1, prompt.tokens, prompt.context)
            cause = f"its text encoder gives {tuple(embedding.shape)}, {spec.name} wants {wanted}"
            raise WeightsError(spec.base, cause, REMEDY)
        return embedding

    if text is not None and (request.prompt is not None or config.layout == "adapter"):
        model.prompt.embedding = embed(text)
    if request.guidance is not None and prompt.negative is not None:
        model.passes = Guidance(request.guidance, embed(prompt.negative))
    if request.realism is not None and _weighable(config):
        _weigh(model, request.realism)


def _weigh(model: OneStepSR, realism: float) -> None:
    from rcodsr.models.lora import halves

    model.passes = SemanticShare(halves(model.unet, _SEMANTIC), realism)


def _named(id: str, request: LoadRequest, weighed: bool) -> str:
    """The id with what else decides every pixel: records compare it."""
    settled = {"semantic": f"{request.realism:g}"} if weighed else {}
    settled |= {} if request.guidance is None else {"guidance": f"{request.guidance:g}"}
    settled |= {} if request.prompt is None else {"prompt": sha256(request.prompt.encode()).hexdigest()[:8]}
    return "+".join([id, *(f"{name}={value}" for name, value in settled.items())])


def _random(request: LoadRequest) -> LoadedWeights:
    _, _, rest = request.weights.partition(":")
    variant, _, seed = rest.partition(":")
    if variant not in VARIANTS or not (seed or "0").isdecimal():
        known = ", ".join(VARIANTS)
        raise UsageError("--weights", f"'{request.weights}' is not random:VARIANT[:SEED]", f"variants are {known}")
    if request.base_model is not None or request.revision is not None:
        raise UsageError("--weights", "random weights have no base and no revision", "leave --base-model and --revision out")
    spec = VARIANTS[variant]
    spec.check_steering(request.realism is not None, request.adaptive, spec.weighable)
    _check_words(request, spec)
    name = f"random:{variant}:{int(seed or 0)}"
    model = random_model(spec, int(seed or 0), request.drawn_on)
    weighed = request.realism is not None and spec.weighable
    with torch.random.fork_rng(devices=[request.drawn_on] if request.drawn_on.type == "cuda" else []), request.drawn_on:
        torch.manual_seed(int(seed or 0))
        if weighed or not spec.mergeable:
            _add_lora(model)
        if isinstance(model.prompt, FixedPrompt):
            model.prompt.embedding.normal_()
            if request.guidance is not None:
                model.passes = Guidance(request.guidance, torch.randn_like(model.prompt.embedding))
    if weighed and request.realism is not None:
        _weigh(model, request.realism)
    return LoadedWeights(model, _named(f"{name}@{sha256(name.encode()).hexdigest()[:12]}", request, weighed))


def _add_lora(model: OneStepSR) -> None:
    """LoRA is part of what runs where it is never merged."""
    from rcodsr.models.lora import add_lora

    assert model.spec.lora is not None
    add_lora(model, model.spec.lora)
    model.requires_grad_(False)
