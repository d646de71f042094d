"""Convert checkpoints to the files of peft and diffusers, and back without loss.

peft, diffusers     the LoRA as written by `peft_format`, with weights that the format cannot store beside it:
  conv_in.safetensors         weight and bias of the U-Net's first convolution, which is trained in full
  vpim.safetensors, …         the small parts of our adapters, unchanged

merged-diffusers    folders for `from_pretrained` of diffusers and transformers, float16:
  unet, vae, scheduler, image_encoder (CLIP's tower), and the small parts

rcodsr.json         in each: our config.json, and which of the three formats it is
README.md           code that loads it without rcodsr
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rcodsr.checkpoints import peft_format
from rcodsr.checkpoints.config import REMEDY, CheckpointConfig, read_config
from rcodsr.checkpoints.format import check_files, for_disk, lora_parts, parts
from rcodsr.checkpoints.interchange_card import readme
from rcodsr.checkpoints.manifest import read_manifest
from rcodsr.checkpoints.peft_format import Lora, shared_name
from rcodsr.checkpoints.tensors import read_into, read_tensors
from rcodsr.errors import UsageError, WeightsError
from rcodsr.models.build import build_model
from rcodsr.models.one_step import OneStepSR
from rcodsr.parts import ClipSpec, KlSpec, LoraSpec, SdUNetSpec
from rcodsr.variants import VariantSpec

NAME = "rcodsr.json"
LORA_FORMATS = ("peft", "diffusers")
MERGED = "merged-diffusers"
_CONV_IN = "conv_in"
_WEIGHTS = "diffusion_pytorch_model.safetensors"

Tables = dict[str, dict[str, Tensor]]
"""Tensors by rcodsr's file name, without suffix."""


def check(spec: VariantSpec, format: str) -> None:
    """Refuse a variant that a format cannot store.

    Raises:
        UsageError: when the format cannot store it.
    """
    if not isinstance(spec.unet, SdUNetSpec):
        raise UsageError(
            spec.name, f"does not use Stable Diffusion's networks, which {format} needs", "use --format rcodsr or onnx"
        )
    if not spec.mergeable:
        cause = f"its LoRA follows each picture's degradation, which {format} cannot store"
        raise UsageError(spec.name, cause, "keep it as an adapter (--format rcodsr)")


def write_adapter(source: Path, target: Path, format: str) -> list[str]:
    """Write an adapter checkpoint as files of peft or diffusers.

    Args:
        source: an adapter of rcodsr.
        target: an existing, empty directory.
        format: one of `LORA_FORMATS`.

    Returns:
        Names of further files, with weights that the format cannot store.

    Raises:
        UsageError: when the source is not an adapter, or the format cannot store it.
        WeightsError: when the source is damaged.
    """
    config = check_files(source)
    check(config.spec, format)
    if config.layout != "adapter" or config.spec.lora is None:
        raise UsageError(source, f"merged weights have no LoRA for {format}", f"use --format {MERGED}, or export the adapter")
    tables = {part: read_tensors(source / f"{part}.safetensors") for part in config.parts if part.endswith("_lora")}
    loras, others = _shared(tables, config.spec.lora)
    peft_format.write(target, format, loras, _repositories(config.spec)[0])
    beside = [f"{part}.safetensors" for part in config.parts if not part.endswith("_lora")]
    for file in beside:
        shutil.copyfile(source / file, target / file)
    if others:
        beside.insert(0, f"{_CONV_IN}.safetensors")
        save_file({key.rpartition(".")[2]: value for key, value in others.items()}, target / beside[0], {"format": "pt"})
    _describe(target, format, config, readme(config, format, list(loras), bool(others)))
    return beside


def write_merged(target: Path, model: OneStepSR, config: CheckpointConfig) -> None:
    """Write merged weights as folders for diffusers and transformers.

    Args:
        target: an existing, empty directory.
        model: the merged model, float32.
        config: configuration of its checkpoint.

    Raises:
        WeightsError: when a value does not fit into float16.
    """
    from diffusers import DDPMScheduler

    check(model.spec, MERGED)
    for name, module in parts(model).items():
        place = _PLACES.get(name)
        tensors = for_disk(module.state_dict(), torch.float16)
        file = target / (f"{name}.safetensors" if place is None else place.file)
        file.parent.mkdir(exist_ok=True)
        save_file(
            tensors if place is None else {place.theirs(key): value for key, value in tensors.items()}, file, {"format": "pt"}
        )
        if place is not None:
            text = json.dumps(place.config(model), indent=2, sort_keys=True)
            (file.parent / "config.json").write_text(text + "\n", encoding="utf-8")
    schedule: dict[str, Any] = {"beta_schedule": "scaled_linear", "clip_sample": False}
    scheduler: Any = DDPMScheduler(1000, 0.00085, 0.012, **schedule)  # type: ignore[no-untyped-call]
    scheduler.save_pretrained(target / "scheduler")
    merged = CheckpointConfig(model.spec, "merged", {}, config.training)
    _describe(target, MERGED, merged, readme(merged, MERGED, [], False))


def read(directory: Path) -> tuple[CheckpointConfig, Tables]:
    """Read what `write_adapter` or `write_merged` has written: the tensors of our files, bit for bit.

    Raises:
        WeightsError: when a file is missing or damaged, an adapter is for another base or of another rank, or a tensor does
            not fit.
    """
    config = read_config(directory, NAME)
    format = json.loads((directory / NAME).read_text(encoding="utf-8")).get("format")
    if format == MERGED and config.layout == "merged":
        return config, _read_merged(directory, config.spec)
    if format not in LORA_FORMATS or config.layout != "adapter" or config.spec.lora is None:
        raise WeightsError(directory / NAME, f"format {str(format)[:20]} is not known", REMEDY)
    return config, _read_adapter(directory, format, config, config.spec.lora)


def _read_adapter(directory: Path, format: str, config: CheckpointConfig, lora: LoraSpec) -> Tables:
    from rcodsr.models.lora import add_lora

    model = build_model(config.spec, weightless=True)
    add_lora(model, lora)
    expected = lora_parts(model)
    loras, others = _shared(expected, lora)
    found = peft_format.read(directory, format, loras, _repositories(config.spec))
    shapes = {key.rpartition(".")[2]: value for key, value in others.items()}
    trained = read_tensors(directory / f"{_CONV_IN}.safetensors", shapes) if others else {}
    tables: Tables = {}
    for part, keys in expected.items():
        names = {key: shared_name(part.removesuffix("_lora"), key) for key in keys}
        tables[part] = {
            key: trained[key.rpartition(".")[2]] if name is None else found[name[0]][name[1]] for key, name in names.items()
        }
    for part in config.parts:
        if part not in tables:
            tables[part] = read_tensors(directory / f"{part}.safetensors")
    return tables


def _read_merged(directory: Path, spec: VariantSpec) -> Tables:
    tables: Tables = {}
    for name, module in parts(build_model(spec, weightless=True)).items():
        place = _PLACES.get(name)
        file, ours = (f"{name}.safetensors", str) if place is None else (place.file, place.ours)
        table: dict[str, Tensor] = {}
        read_into(directory / file, table.__setitem__, module.state_dict(), ours)
        tables[name] = for_disk(table, torch.float16)
    return tables


def _shared(tables: Mapping[str, Mapping[str, Tensor]], spec: LoraSpec) -> tuple[dict[str, Lora], dict[str, Tensor]]:
    """Convert our tables to LoRA by NETWORK, and fully trained weights."""
    ranks = {"unet": spec.unet_rank, "vae": spec.vae_rank}
    loras: dict[str, Lora] = {}
    others: dict[str, Tensor] = {}
    for part, table in tables.items():
        network = part.removesuffix("_lora")
        for key, value in table.items():
            name = shared_name(network, key)
            if name is None:
                others[key] = value
            else:
                loras.setdefault(name[0], Lora(ranks[network], spec.alpha, {})).tensors[name[1]] = value
    return loras, others


def _repositories(spec: VariantSpec) -> list[str]:
    """Repositories of the base, and its own name."""
    base = spec.base or ""
    entry = read_manifest().get(base)
    return [*(source.repo for source in entry.sources), base] if entry is not None else [base]


def _describe(target: Path, format: str, config: CheckpointConfig, card: str) -> None:
    values = json.dumps({"format": format, **config.to_dict()}, indent=2)
    (target / NAME).write_text(values + "\n", encoding="utf-8")
    (target / "README.md").write_text(card, encoding="utf-8")


# ---- file layout of merged weights in diffusers and transformers


@dataclass(frozen=True)
class _Place:
    """A file, the names of its keys, and its configuration file."""

    file: str
    config: Callable[[OneStepSR], dict[str, Any]]
    theirs: Callable[[str], str] = str
    ours: Callable[[str], str] = str


def _unet_config(model: OneStepSR) -> dict[str, Any]:
    return {**json.loads(model.unet.to_json_string()), "_class_name": "UNet2DConditionModel"}  # type: ignore[operator]


def _vae_config(model: OneStepSR) -> dict[str, Any]:
    from rcodsr.models.stable_diffusion import kl_autoencoder

    assert isinstance(model.spec.autoencoder, KlSpec)
    with torch.device("meta"):
        return dict(json.loads(kl_autoencoder(model.spec.autoencoder).to_json_string()))


def _vision_config(model: OneStepSR) -> dict[str, Any]:
    assert isinstance(model.spec.prompt, ClipSpec)
    config = model.prompt.get_submodule("tower.vision").config
    return {**json.loads(config.to_json_string()), "architectures": ["CLIPVisionModel"]}  # type: ignore[union-attr, operator]


_PLACES = {
    "unet": _Place(f"unet/{_WEIGHTS}", _unet_config),
    "vae": _Place(f"vae/{_WEIGHTS}", _vae_config),
    "vision": _Place(
        "image_encoder/model.safetensors",
        _vision_config,
        lambda key: f"vision_model.{key.removeprefix('vision.')}",
        lambda key: f"vision.{key.removeprefix('vision_model.')}",
    ),
}
