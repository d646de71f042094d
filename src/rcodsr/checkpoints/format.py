"""rcodsr's checkpoint directory: reader and writer.

    config.json               format version, layout, variant spec, base, training summary

    merged layout             everything needed, float16
      unet.safetensors        the U-Net
      vae.safetensors         the autoencoder
      vision.safetensors      the vision tower
      vpim.safetensors        VPIM's linear layer  (or prompt.safetensors: a fixed text prompt's embedding)
      metric_estimator.safetensors    only with `--adaptive`

    adapter layout            what training changed, float32; the rest comes from the bases named in config.json
      unet_lora.safetensors   LoRA of the U-Net, and its conv_in
      vae_lora.safetensors    LoRA of the autoencoder's encoder
      vpim.safetensors, metric_estimator.safetensors    (a text prompt that config.json spells out is computed, not stored)
      modulation.safetensors, degradation_estimator.safetensors    if the LoRA follows the picture's degradation

    README.md                 model card (not read)

A LoRA that follows the picture cannot be merged; such variants are always adapters.

Safetensors only, with strict keys, shapes and finiteness. Weights are loaded as float32 unless the runtime sets another dtype.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rcodsr.checkpoints.bases import load_bases
from rcodsr.checkpoints.card import write_notices
from rcodsr.checkpoints.config import REMEDY, CheckpointConfig, read_config
from rcodsr.checkpoints.resolve import ResolvedWeights
from rcodsr.checkpoints.staging import staged
from rcodsr.checkpoints.tensors import load_strictly, read_into
from rcodsr.errors import UsageError, WeightsError
from rcodsr.messages import first_line
from rcodsr.models.build import build_model
from rcodsr.models.one_step import OneStepSR
from rcodsr.parts import LoraSpec
from rcodsr.variants import VariantSpec


def parts(model: OneStepSR) -> dict[str, nn.Module]:
    """The model's modules by file name."""
    return {"unet": model.unet, "vae": model.autoencoder, **model.prompt.parts(), **_estimator(model)}


def _estimator(model: OneStepSR) -> dict[str, nn.Module]:
    return {} if model.metric_estimator is None else {"metric_estimator": model.metric_estimator}


def save_model(directory: Path, model: OneStepSR, training: dict[str, Any] | None = None, card: str = "") -> None:
    """Write a merged checkpoint. An existing directory is replaced as a whole.

    Args:
        directory: output directory. Parents are created.
        model: the model, without LoRA layers.
        training: summary stored in `config.json` for readers of the checkpoint.
        card: contents of README.md.

    Raises:
        UsageError: when the variant's LoRA cannot be merged.
        WeightsError: when a value is not finite or does not fit into float16.
    """
    _require_mergeable(model.spec)
    tensors = {name: for_disk(module.state_dict(), torch.float16) for name, module in parts(model).items()}
    write(directory, tensors, CheckpointConfig(model.spec, "merged", {}, training or {}), card)


def save_adapter(
    directory: Path,
    model: OneStepSR,
    bases: Mapping[str, ResolvedWeights],
    training: dict[str, Any] | None = None,
    card: str = "",
) -> None:
    """Write an adapter checkpoint: weights that training changed, over the bases it was trained on.

    Args:
        directory: output directory. An existing one is replaced as a whole.
        model: the model, with the LoRA layers of `models.lora.add_lora`.
        bases: the bases by name, for their hashes.
        training: summary stored in `config.json`.
        card: contents of README.md.

    Raises:
        WeightsError: when a value is not finite.
    """
    states = lora_parts(model) | {name: dict(module.state_dict()) for name, module in _small_parts(model).items()}
    tensors = {name: for_disk(state, torch.float32) for name, state in states.items()}
    hashes = {name: base.hashes for name, base in bases.items()}
    write(directory, tensors, CheckpointConfig(model.spec, "adapter", hashes, training or {}), card)


def load_model(
    directory: Path, bases: Mapping[str, ResolvedWeights] | None = None, merge: bool | None = None, keep: str = ""
) -> OneStepSR:
    """Read a checkpoint into a model on the CPU, float32, in evaluation mode.

    Args:
        directory: the checkpoint.
        bases: for an adapter, the bases that `read_config(directory).bases` names.
        merge: merge the LoRA into the weights. False keeps the layers, for training. None merges if the variant allows it.
        keep: adapters whose names end in this stay layers when the others are merged.

    Raises:
        UsageError: when merging is requested but the variant's LoRA cannot be merged.
        WeightsError: when a file is missing or damaged, a key or shape does not fit, a value is not finite, or a base is not
            the one the adapter was trained on.
    """
    config = read_config(directory)
    if merge:
        _require_mergeable(config.spec)
    merge = config.spec.mergeable if merge is None else merge
    model = _build(directory, config)
    if config.layout == "adapter":
        _load_adapter(model, directory, config, bases or {})
        if merge:
            _merge(model, keep)
    else:
        for name, module in parts(model).items():
            load_strictly(module, directory / f"{name}.safetensors")
    return model.eval().requires_grad_(False)


def check_files(directory: Path) -> CheckpointConfig:
    """Read all files of a checkpoint as strictly as `load_model`, but none of its bases.

    Raises:
        WeightsError: see `load_model`.
    """
    config = read_config(directory)
    model = _build(directory, config)
    modules = parts(model)
    states: dict[str, dict[str, Tensor]] = {}
    if config.layout == "adapter":
        from rcodsr.models.lora import add_lora

        add_lora(model, _lora_spec(directory, config))
        modules, states = _small_parts(model), lora_parts(model)
    for name, state in (states | {name: dict(module.state_dict()) for name, module in modules.items()}).items():
        read_into(directory / f"{name}.safetensors", lambda key, value: None, state)
    return config


def _build(directory: Path, config: CheckpointConfig) -> OneStepSR:
    """Build the model that a checkpoint describes, without weights."""
    try:
        return build_model(config.spec, weightless=True)
    except Exception as error:  # a network's constructor may raise anything for invalid values
        cause = f"does not describe a network ({first_line(error)})"
        raise WeightsError(directory / "config.json", cause, REMEDY) from error


def _lora_spec(directory: Path, config: CheckpointConfig) -> LoraSpec:
    if config.spec.lora is None:
        raise WeightsError(directory / "config.json", "an adapter without a LoRA specification", REMEDY)
    return config.spec.lora


def _load_adapter(model: OneStepSR, directory: Path, config: CheckpointConfig, bases: Mapping[str, ResolvedWeights]) -> None:
    from rcodsr.models.lora import add_lora

    lora = _lora_spec(directory, config)
    for name, expected in config.bases.items():
        base = bases[name]
        for file, sha256 in expected.items():
            if base.hashes.get(file) != sha256:
                found = base.hashes.get(file, "none")
                cause = f"trained on another {name}: {file} should have sha256 {sha256[:12]}…, has {found[:12]}…"
                raise WeightsError(directory, cause, "point --base-model to the base it was trained on")
    load_bases(model, bases)
    add_lora(model, lora)
    read_adapter(model, directory)


def read_adapter(model: OneStepSR, directory: Path, parts: Collection[str] | None = None) -> None:
    """Load the files of an adapter checkpoint: LoRA, fully trained weights, the prompt layer, and modules that modulate them.

    Args:
        model: the model, with the LoRA layers of `models.lora.add_lora`.
        directory: the checkpoint.
        parts: files to read, without suffix. None reads all that the model has.

    Raises:
        WeightsError: naming the first mismatch.
    """
    modules, states = _small_parts(model), lora_parts(model)
    for name in [*modules, *states] if parts is None else parts:
        path = directory / f"{name}.safetensors"
        if name in modules:
            load_strictly(modules[name], path)
            continue
        with torch.no_grad():
            read_into(path, lambda key, value, state=states[name]: state[key].copy_(value), states[name])  # type: ignore[misc]


def _merge(model: OneStepSR, keep: str) -> None:
    from rcodsr.models.lora import merge_lora

    merge_lora(model.unet, keep)
    merge_lora(model.autoencoder, keep)


def lora_parts(model: OneStepSR) -> dict[str, dict[str, Tensor]]:
    """Weights of the bases that training changes, by file name. The tensors are the model's own."""
    from rcodsr.models.lora import trained_in_full, trained_state

    unet, vae = trained_state(model.unet, trained_in_full(model.spec.lora)), trained_state(model.autoencoder)
    return {"unet_lora": unet} | ({"vae_lora": vae} if vae else {})


def _small_parts(model: OneStepSR) -> dict[str, nn.Module]:
    """Modules that an adapter checkpoint stores whole: the prompt layer or embedding, the modulator, the estimator."""
    own = not model.spec.computes_prompt
    prompt = {name: module for name, module in model.prompt.parts().items() if own and name != "vision"}
    return prompt | model.modulator.parts() | _estimator(model)


def _require_mergeable(spec: VariantSpec) -> None:
    if not spec.mergeable:
        cause = "cannot be merged: its LoRA depends on the picture's degradation"
        raise UsageError(spec.name, cause, "keep it as an adapter")


def for_disk(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Convert tensors to their dtype in a file.

    Raises:
        WeightsError: when a value is not finite in that dtype.
    """
    stored = {key: value.detach().to("cpu", dtype).contiguous() for key, value in tensors.items()}
    for key, value in stored.items():
        if not torch.isfinite(value).all():
            raise WeightsError(key, f"not finite as {dtype}", "the training has diverged; return to an earlier state")
    return stored


def write(directory: Path, files: Mapping[str, dict[str, Tensor]], config: CheckpointConfig, card: str) -> None:
    """Write a whole checkpoint atomically.

    Args:
        directory: output directory. An existing one is replaced as a whole.
        files: tensors by file name, without suffix.
        config: contents of `config.json`.
        card: contents of README.md.
    """
    with staged(directory) as new:
        for name, tensors in files.items():
            save_file(tensors, new / f"{name}.safetensors", metadata={"format": "pt"})
        (new / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        if card:
            (new / "README.md").write_text(card, encoding="utf-8")
        write_notices(new, config.spec)
