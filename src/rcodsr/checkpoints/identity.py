"""Identify weights and check their capabilities, before torch is loaded and anything is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from rcodsr.checkpoints.config import CheckpointConfig, read_config
from rcodsr.checkpoints.manifest import REPO, read_manifest
from rcodsr.checkpoints.named import find_weights, read_converted
from rcodsr.checkpoints.resolve import ResolvedWeights, resolve
from rcodsr.errors import UsageError, WeightsError
from rcodsr.messages import Log, silent
from rcodsr.options import Control, Level, UpscaleOptions, WeightsRequest, prompt_digest
from rcodsr.parts import TextSpec
from rcodsr.variants import VARIANTS, VariantSpec


@dataclass(frozen=True)
class Identity:
    """Local weights that support the requested options."""

    id: str
    """Name, abbreviated digest, and settings fixed at loading. Compared by records."""
    spec: VariantSpec
    share: float | None = None
    """Weight of PiSA-SR's semantic half, if the variant has one."""
    resolved: ResolvedWeights | None = None
    """Location. None for random weights."""
    config: CheckpointConfig | None = None
    """Configuration from their directory. None for random weights."""


def identify(request: WeightsRequest, options: UpscaleOptions, log: Log = silent) -> Identity:
    """Find weights, fetching and converting them if needed. Refuses unsupported options before bases are fetched.

    Raises:
        UsageError: when the request contradicts itself or the weights.
        WeightsError: when the weights are unknown, unavailable or damaged.
    """
    if request.name.startswith("random:"):
        return _random(request, options)
    return _found(find_weights(request.name, request.revision, request.offline, log), request, options)


def identify_here(request: WeightsRequest, options: UpscaleOptions) -> Identity | None:
    """Identify local weights without a server or conversion. None if they must be fetched or converted first.

    Raises:
        UsageError: see `identify`.
        WeightsError: see `identify`.
    """
    if request.name.startswith("random:"):
        return _random(request, options)
    entry = read_manifest().get(request.name)
    if entry is not None and entry.status in {"foreign", "manual"} and request.revision is None:
        found = read_converted(request.name)
        if found is None and entry.status == "manual":
            found = find_weights(request.name)  # which reports where to get them
        if found is None and _is_offline(request):
            resolve(request.name, offline=True)  # which reports that they are missing
        return None if found is None else _found(found, request, options)
    fetched = (entry is not None and bool(entry.sources)) or (entry is None and _is_repository(request.name))
    try:
        return _found(resolve(request.name, request.revision, fetched or request.offline), request, options)
    except WeightsError:
        if not fetched or _is_offline(request):
            raise
        return None


def read_random(name: str) -> tuple[VariantSpec, int]:
    """Parse `random:VARIANT[:SEED]`.

    Raises:
        UsageError: when the name has another form.
    """
    _, _, rest = name.partition(":")
    variant, _, seed = rest.partition(":")
    if variant not in VARIANTS or not (seed or "0").isdecimal():
        raise UsageError("--weights", f"'{name}' is not random:VARIANT[:SEED]", f"variants are {', '.join(VARIANTS)}")
    return VARIANTS[variant], int(seed or 0)


def _is_repository(name: str) -> bool:
    return not Path(name).exists() and REPO.fullmatch(name) is not None


def _is_offline(request: WeightsRequest) -> bool:
    from huggingface_hub import constants

    return request.offline or constants.is_offline_mode()


def _random(request: WeightsRequest, options: UpscaleOptions) -> Identity:
    spec, seed = read_random(request.name)
    if request.base_model is not None or request.revision is not None:
        raise UsageError("--weights", "random weights have no base and no revision", "omit --base-model and --revision")
    share = _share(options.control, spec.weighable)
    _check(request, spec, options, share)
    name = f"random:{spec.name}:{seed}"
    return Identity(_named(f"{name}@{sha256(name.encode()).hexdigest()[:12]}", request, share), spec, share)


def _found(resolved: ResolvedWeights, request: WeightsRequest, options: UpscaleOptions) -> Identity:
    config = read_config(resolved.directory)
    share = _share(options.control, config.layout == "adapter" and config.spec.weighable)
    _check(request, config.spec, options, share)
    if request.base_model is not None and (config.layout != "adapter" or config.spec.base is None):
        raise UsageError("--base-model", f"{request.name} needs no base", "omit the option")
    return Identity(_named(resolved.id, request, share), config.spec, share, resolved, config)


def _share(control: Control | None, weighable: bool) -> float | None:
    """Weight of the semantic half, for variants that have one."""
    return control.realism if weighable and isinstance(control, Level) else None


def _check(request: WeightsRequest, spec: VariantSpec, options: UpscaleOptions, share: float | None) -> None:
    """Refuse options that these weights do not support, before gigabytes are fetched."""
    if request.as_published:
        spec.check_as_published(options, request.guidance)
    spec.check(options, share)
    prompt = spec.prompt
    if request.prompt is not None and not spec.takes_prompt:
        raise UsageError("--prompt", f"{spec.name} uses the picture instead of a text", "omit the option")
    if request.guidance is not None and not (isinstance(prompt, TextSpec) and prompt.negative is not None):
        raise UsageError("--guidance", f"{spec.name} does not support guidance", "omit the option; it is for s3diff")


def _named(id: str, request: WeightsRequest, share: float | None) -> str:
    """The id extended by other settings that decide every pixel."""
    fixed = {} if share is None else {"semantic": f"{share:g}"}
    fixed |= {} if request.guidance is None else {"guidance": f"{request.guidance:g}"}
    fixed |= {} if request.prompt is None else {"prompt": prompt_digest(request.prompt)}
    way = ["as-published"] if request.as_published else []
    return "+".join([id, *way, *(f"{name}={value}" for name, value in fixed.items())])
