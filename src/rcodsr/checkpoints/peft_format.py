"""LoRA in the files of peft and diffusers, which use the same module names in different places.

    peft        NETWORK/adapter_config.json, NETWORK/adapter_model.safetensors      base_model.model.MODULE.lora_A.weight
    diffusers   pytorch_lora_weights.safetensors, the configuration in its header   NETWORK.MODULE.lora_A.weight

NETWORK is unet or vae, or unet_pix and unet_sem for PiSA-SR's pair. Our three adapters of a U-Net have one rank and no module
in common, so they form one adapter there.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rcodsr.checkpoints.tensors import REMEDY, check_fit, read_tensors
from rcodsr.errors import WeightsError

_CONFIG, _TENSORS, _ALL = "adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors"
_METADATA = "lora_adapter_metadata"
"""Key of the configurations in a file's header, as in diffusers."""
_PREFIX = "base_model.model."
_LARGEST = 1 << 20
_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])\.default_[a-z]+(?:_(?P<pair>pix|sem))?\.weight")
_PLAIN: dict[str, Any] = {"bias": "none", "fan_in_fan_out": False, "use_dora": False, "use_rslora": False, "lora_bias": False}
_PLAIN |= {"modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}}
"""Settings of a plain LoRA, the only kind supported."""


@dataclass(frozen=True)
class Lora:
    """The LoRA of one network."""

    rank: int
    alpha: float
    tensors: dict[str, Tensor]
    """Tensors by MODULE.lora_A.weight and MODULE.lora_B.weight."""


def shared_name(network: str, key: str) -> tuple[str, str] | None:
    """NETWORK and the shared name of one of our keys. None for keys that are not LoRA."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    pair = "" if match["pair"] is None else f"_{match['pair']}"
    return network + pair, f"{match['module']}.lora_{match['half']}.weight"


def write(directory: Path, format: str, loras: Mapping[str, Lora], base: str) -> None:
    """Write LoRA into an existing directory.

    Args:
        directory: output directory.
        format: peft or diffusers.
        loras: LoRA by NETWORK.
        base: repository of the base.
    """
    configs = {network: _config(lora, base) for network, lora in loras.items()}
    if format == "diffusers":
        together = {f"{network}.{key}": value for network, lora in loras.items() for key, value in lora.tensors.items()}
        header = {f"{network}.{key}": value for network, values in configs.items() for key, value in values.items()}
        save_file(together, directory / _ALL, {"format": "pt", _METADATA: json.dumps(header, indent=2, sort_keys=True)})
        return
    for network, lora in loras.items():
        (directory / network).mkdir()
        (directory / network / _CONFIG).write_text(json.dumps(configs[network], indent=2) + "\n", encoding="utf-8")
        tensors = {_PREFIX + key: value for key, value in lora.tensors.items()}
        save_file(tensors, directory / network / _TENSORS, {"format": "pt"})


def read(directory: Path, format: str, expected: Mapping[str, Lora], bases: Collection[str]) -> dict[str, dict[str, Tensor]]:
    """Read LoRA by network, strictly.

    Args:
        directory: input directory.
        format: peft or diffusers.
        expected: LoRA by NETWORK, with the expected shapes.
        bases: repositories of the base.

    Raises:
        WeightsError: when a file is missing or damaged, is for another base, or does not fit.
    """
    if format == "peft":
        found = {network: _read(directory / network / _TENSORS, _PREFIX, {"": lora}) for network, lora in expected.items()}
        for network, lora in expected.items():
            _check(directory / network / _CONFIG, _json(directory / network / _CONFIG), lora, bases)
        return {network: tensors[""] for network, tensors in found.items()}
    path = directory / _ALL
    tensors = _read(path, "", {f"{network}.": lora for network, lora in expected.items()})
    header = _header(path)
    for network, lora in expected.items():
        config = {key.removeprefix(f"{network}."): value for key, value in header.items() if key.startswith(f"{network}.")}
        _check(path, config, lora, bases)
    return {network: tensors[f"{network}."] for network in expected}


def _config(lora: Lora, base: str) -> dict[str, Any]:
    modules = sorted({key.rpartition(".lora_")[0] for key in lora.tensors})
    plain = {"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": modules, "lora_dropout": 0.0, **_PLAIN}
    return {"peft_type": "LORA", "base_model_name_or_path": base, "inference_mode": True, **plain}


def _read(path: Path, prefix: str, expected: Mapping[str, Lora]) -> dict[str, dict[str, Tensor]]:
    """The tensors of a file, by the first part of their names after `prefix`."""
    found = read_tensors(path)
    names = {f"{prefix}{start}{key}": value for start, lora in expected.items() for key, value in lora.tensors.items()}
    shapes = [{key: tuple(value.shape) for key, value in tensors.items()} for tensors in (found, names)]
    check_fit(path, *shapes)
    return {start: {key: found[f"{prefix}{start}{key}"] for key in lora.tensors} for start, lora in expected.items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("too large")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(path, "missing", REMEDY) from None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(path, f"damaged ({str(error)[:100]})", REMEDY) from error
    return values if isinstance(values, dict) else {}


def _header(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(_METADATA, "{}")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(path, f"its {_METADATA} is damaged ({str(error)[:100]})", REMEDY) from error
    return values if isinstance(values, dict) else {}


def _check(path: Path, config: Mapping[str, Any], lora: Lora, bases: Collection[str]) -> None:
    """Check that the configuration is a plain LoRA of this rank on this base. An unnamed base is accepted."""
    if config.get("peft_type") != "LORA":
        raise WeightsError(path, f"not a LoRA (peft_type {str(config.get('peft_type'))[:40]})", REMEDY)
    for key, wanted in (("r", lora.rank), ("lora_alpha", lora.alpha)):
        if config.get(key) != wanted:
            cause = f"{key} is {str(config.get(key))[:40]}, but rcodsr.json has {wanted:g}"
            raise WeightsError(path, cause, "use an adapter of that rank and alpha")
    if strange := [key for key, plain in _PLAIN.items() if (config.get(key) or plain) != plain]:
        raise WeightsError(path, f"{strange[0]} = {str(config[strange[0]])[:40]}: not a plain LoRA", "train a plain one")
    base = config.get("base_model_name_or_path")
    if base not in {None, "", *bases}:
        remedy = f"if it is the same model, set base_model_name_or_path to {next(iter(bases), 'its repository')}"
        raise WeightsError(path, f"an adapter of {str(base)[:80]}, another base", remedy)
