"""Our checkpoint directory: reader and writer side by side.

    config.json               format version, layout, variant spec, base, training summary

    merged layout             everything that is needed, float16
      unet.safetensors        the U-Net
      vae.safetensors         the autoencoder
      vision.safetensors      the vision tower
      vpim.safetensors        VPIM's linear layer  (or prompt.safetensors: a fixed text prompt's embedding)
      metric_estimator.safetensors    only with `--adaptive`

    adapter layout            what training changed, float32; the rest comes from the bases that config.json names
      unet_lora.safetensors   LoRA of the U-Net, and its conv_in
      vae_lora.safetensors    LoRA of the autoencoder's encoder
      vpim.safetensors, metric_estimator.safetensors
      modulation.safetensors, degradation_estimator.safetensors    where the LoRA follows the picture's degradation

    README.md                 model card (not read)

A LoRA that follows the picture cannot be merged; such variants are always adapters.

Safetensors only, strict keys, shapes and finiteness. Weights are computed as float32 unless the runtime says otherwise.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rcodsr.checkpoints.bases import load_bases
from rcodsr.checkpoints.resolve import ResolvedWeights
from rcodsr.checkpoints.staging import staged
from rcodsr.checkpoints.tensors import REMEDY, check_fit, load_strictly, read_tensors
from rcodsr.errors import UsageError, WeightsError
from rcodsr.models.build import build_model
from rcodsr.models.one_step import OneStepSR
from rcodsr.variants import LoraSpec, VariantSpec

FORMAT_VERSION = 2


@dataclass(frozen=True)
class CheckpointConfig:
    """The contents of `config.json`."""

    spec: VariantSpec
    layout: str = "merged"
    """merged, or adapter."""
    bases: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of an adapter: for each base by name, sha256 of each of its files."""
    training: dict[str, Any] = field(default_factory=dict)


def parts(model: OneStepSR) -> dict[str, nn.Module]:
    """The model's modules by the name of the file that stores each."""
    return {"unet": model.unet, "vae": model.autoencoder, **model.prompt.parts(), **_estimator(model)}


def _estimator(model: OneStepSR) -> dict[str, nn.Module]:
    return {} if model.metric_estimator is None else {"metric_estimator": model.metric_estimator}


def save_model(directory: Path, model: OneStepSR, training: dict[str, Any] | None = None, card: str = "") -> None:
    """Write a merged checkpoint; an old directory of the same name is replaced as a whole.

    Args:
        directory: where it goes; parents are created.
        model: what to store, without LoRA layers.
        training: summary kept in `config.json` for the reader of the checkpoint.
        card: contents of README.md.

    Raises:
        UsageError: when the variant's LoRA cannot be merged.
        WeightsError: when a value is not finite or does not fit into float16.
    """
    _require_mergeable(model.spec)
    tensors = {name: _for_disk(module.state_dict(), torch.float16) for name, module in parts(model).items()}
    _write(directory, tensors, CheckpointConfig(model.spec, "merged", {}, training or {}), card)


def save_adapter(
    directory: Path,
    model: OneStepSR,
    bases: Mapping[str, ResolvedWeights],
    training: dict[str, Any] | None = None,
    card: str = "",
) -> None:
    """Write an adapter checkpoint: what training changed, over the bases it was trained on.

    Args:
        directory: where it goes; an old one of the same name is replaced as a whole.
        model: with the LoRA layers of `models.lora.add_lora`.
        bases: the bases by name, for their hashes.
        training: summary kept in `config.json`.
        card: contents of README.md.

    Raises:
        WeightsError: when a value is not finite.
    """
    states = _lora_parts(model) | {name: dict(module.state_dict()) for name, module in _small_parts(model).items()}
    tensors = {name: _for_disk(state, torch.float32) for name, state in states.items()}
    hashes = {name: base.hashes for name, base in bases.items()}
    _write(directory, tensors, CheckpointConfig(model.spec, "adapter", hashes, training or {}), card)


def load_model(directory: Path, bases: Mapping[str, ResolvedWeights] | None = None, merge: bool | None = None) -> OneStepSR:
    """Read a checkpoint into a model on the CPU, float32, in evaluation mode.

    Args:
        directory: the checkpoint.
        bases: of an adapter, what `read_config(directory).bases` names.
        merge: fold the LoRA into the weights; False keeps the layers, for training; None merges where that is possible.

    Raises:
        UsageError: when merging is asked for and the variant's LoRA cannot be merged.
        WeightsError: when a file is missing or damaged, a key or shape does not fit, a value is not finite, or a base is not
            the one the adapter was trained on.
    """
    config = read_config(directory)
    if merge:
        _require_mergeable(config.spec)
    merge = config.spec.mergeable if merge is None else merge
    model = _build(directory, config)
    if config.layout == "adapter":
        _load_adapter(model, directory, config, bases or {}, merge)
    else:
        for name, module in parts(model).items():
            load_strictly(module, directory / f"{name}.safetensors")
    return model.eval().requires_grad_(False)


def check_files(directory: Path) -> CheckpointConfig:
    """Read all files of a checkpoint as strictly as `load_model` does, but none of its bases.

    Raises:
        WeightsError: as `load_model`.
    """
    config = read_config(directory)
    model = _build(directory, config)
    modules = parts(model)
    states: dict[str, dict[str, Tensor]] = {}
    if config.layout == "adapter":
        from rcodsr.models.lora import add_lora

        add_lora(model, _lora_spec(directory, config))
        modules, states = _small_parts(model), _lora_parts(model)
    for name, state in (states | {name: dict(module.state_dict()) for name, module in modules.items()}).items():
        path = directory / f"{name}.safetensors"
        check_fit(path, read_tensors(path), state)
    return config


def _build(directory: Path, config: CheckpointConfig) -> OneStepSR:
    """The model a checkpoint describes, without weights."""
    try:
        return build_model(config.spec, weightless=True)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise WeightsError(directory / "config.json", f"describes no network ({error})", REMEDY) from error


def _lora_spec(directory: Path, config: CheckpointConfig) -> LoraSpec:
    if config.spec.lora is None:
        raise WeightsError(directory / "config.json", "an adapter without a LoRA specification", REMEDY)
    return config.spec.lora


def _load_adapter(
    model: OneStepSR, directory: Path, config: CheckpointConfig, bases: Mapping[str, ResolvedWeights], merge: bool
) -> None:
    from rcodsr.models.lora import add_lora, merge_lora

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
    for name, module in _small_parts(model).items():
        load_strictly(module, directory / f"{name}.safetensors")
    for name, state in _lora_parts(model).items():
        path = directory / f"{name}.safetensors"
        tensors = read_tensors(path)
        check_fit(path, tensors, state)
        with torch.no_grad():
            for key, value in tensors.items():
                state[key].copy_(value)
    if merge:
        merge_lora(model.unet)
        merge_lora(model.autoencoder)


def _lora_parts(model: OneStepSR) -> dict[str, dict[str, Tensor]]:
    """What training changes in the bases, by the name of the file that stores it; the tensors are the model's own."""
    from rcodsr.models.lora import TRAINED_IN_FULL, trained_state

    return {"unet_lora": trained_state(model.unet, TRAINED_IN_FULL), "vae_lora": trained_state(model.autoencoder)}


def _small_parts(model: OneStepSR) -> dict[str, nn.Module]:
    """What an adapter checkpoint stores whole: the prompt's own layer or embedding, the modulator, the estimator."""
    prompt = {name: module for name, module in model.prompt.parts().items() if name != "vision"}
    return prompt | model.modulator.parts() | _estimator(model)


def _require_mergeable(spec: VariantSpec) -> None:
    if not spec.mergeable:
        cause = "cannot be merged: its LoRA depends on the picture's degradation"
        raise UsageError(spec.name, cause, "keep it as an adapter")


def read_config(directory: Path) -> CheckpointConfig:
    """The configuration of a checkpoint directory.

    Raises:
        WeightsError: when `config.json` is missing, damaged, or of another format.
    """
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        version = config["format_version"]
        if version != FORMAT_VERSION:
            raise WeightsError(path, f"checkpoint format {version}, this version reads {FORMAT_VERSION}", "update rcodsr")
        spec, layout = VariantSpec.from_dict(config["variant"]), config["layout"]
        if layout not in {"merged", "adapter"}:
            raise ValueError(f"unknown layout {layout}")
        if layout == "merged" and not spec.mergeable:
            raise ValueError(f"{spec.name} cannot be merged: its LoRA depends on the picture's degradation")
        bases = {str(name): dict(files) for name, files in config.get("bases", {}).items()}
        return CheckpointConfig(spec, layout, bases, config.get("training", {}))
    except FileNotFoundError:
        raise WeightsError(directory, "not a checkpoint directory (no config.json)", "point --weights to one") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise WeightsError(path, f"damaged ({error})", REMEDY) from error


def _for_disk(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    stored = {key: value.detach().to("cpu", dtype).contiguous() for key, value in tensors.items()}
    for key, value in stored.items():
        if not torch.isfinite(value).all():
            raise WeightsError(key, f"not finite as {dtype}", "the training has diverged; go back to an earlier state")
    return stored


def _write(directory: Path, files: Mapping[str, dict[str, Tensor]], config: CheckpointConfig, card: str) -> None:
    """Write a whole checkpoint, or nothing."""
    values = {
        "format_version": FORMAT_VERSION,
        "layout": config.layout,
        "variant": config.spec.to_dict(),
        "bases": config.bases,
        "training": config.training,
    }
    with staged(directory) as new:
        for name, tensors in files.items():
            save_file(tensors, new / f"{name}.safetensors", metadata={"format": "pt"})
        (new / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        if card:
            (new / "README.md").write_text(card, encoding="utf-8")
