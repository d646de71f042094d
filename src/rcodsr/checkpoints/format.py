"""Our checkpoint directory: reader and writer side by side.

    config.json               format version, variant spec, training summary
    unet.safetensors          the U-Net
    vae.safetensors           the autoencoder
    vision.safetensors        the vision tower
    vpim.safetensors          VPIM's linear layer
    README.md                 model card (not read)

Safetensors only, strict keys, shapes and finiteness. Weights are stored as float16 and computed as float32.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rcodsr.config import VariantSpec
from rcodsr.errors import UsageError, WeightsError
from rcodsr.models.one_step import OneStepSR, build_model

FORMAT_VERSION = 1
_REMEDY = "delete it and fetch or export the checkpoint again"


def parts(model: OneStepSR) -> dict[str, nn.Module]:
    """The model's modules by the file each is stored in."""
    return {
        "unet.safetensors": model.unet,
        "vae.safetensors": model.autoencoder,
        "vision.safetensors": model.prompt.tower,
        "vpim.safetensors": model.prompt.linear,
    }


def save_model(directory: Path, model: OneStepSR, training: dict[str, Any] | None = None) -> None:
    """Write a checkpoint directory; an old one of the same name is replaced as a whole.

    Args:
        directory: where it goes; parents are created.
        model: what to store.
        training: summary kept in `config.json` for the reader of the checkpoint.
    """
    staged, old = (directory.with_name(f".{directory.name}.{word}") for word in ("new", "old"))
    for leftover in (staged, old):
        shutil.rmtree(leftover, ignore_errors=True)
    staged.mkdir(parents=True)
    for name, module in parts(model).items():
        tensors = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in module.state_dict().items()}
        save_file(tensors, staged / name, metadata={"format": "pt"})
    config = {"format_version": FORMAT_VERSION, "variant": model.spec.to_dict(), "training": training or {}}
    (staged / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if directory.exists():
        directory.rename(old)
    staged.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def load_model(directory: Path) -> OneStepSR:
    """Read a checkpoint directory into a model on the CPU, float32, in evaluation mode.

    Raises:
        WeightsError: when a file is missing or damaged, a key or shape does not fit, or a value is not finite.
    """
    spec = read_spec(directory)
    try:
        model = build_model(spec)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise WeightsError(directory / "config.json", f"describes no network ({error})", _REMEDY) from error
    for name, module in parts(model).items():
        load_strictly(module, directory / name)
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def read_spec(directory: Path) -> VariantSpec:
    """The variant spec of a checkpoint directory.

    Raises:
        WeightsError: when `config.json` is missing, damaged, or of a newer format.
    """
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        version = config["format_version"]
        if version != FORMAT_VERSION:
            raise WeightsError(path, f"checkpoint format {version}, this version reads {FORMAT_VERSION}", "update rcodsr")
        return VariantSpec.from_dict(config["variant"])
    except FileNotFoundError:
        raise WeightsError(directory, "not a checkpoint directory (no config.json)", "point --weights to one") from None
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        raise WeightsError(path, f"damaged ({error})", _REMEDY) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, as float32.

    Raises:
        WeightsError: when the file is missing, damaged, or holds values that are not finite.
    """
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise WeightsError(path, "missing", _REMEDY) from None
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(path, f"damaged ({error})", _REMEDY) from error
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise WeightsError(path, f"{key} holds NaN or infinity", _REMEDY)
    return {key: value.float() for key, value in tensors.items()}


def load_strictly(module: nn.Module, path: Path) -> None:
    """Load a safetensors file into a module: exactly its keys and shapes, finite values.

    Raises:
        WeightsError: naming the first thing that does not fit.
    """
    tensors, expected = read_tensors(path), module.state_dict()
    missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or extra:
        raise WeightsError(path, f"keys do not fit: missing {missing}, unexpected {extra}", _REMEDY)
    for key, value in tensors.items():
        if value.shape != expected[key].shape:
            shapes = f"{tuple(value.shape)}, expected {tuple(expected[key].shape)}"
            raise WeightsError(path, f"{key} has shape {shapes}", _REMEDY)
    module.load_state_dict(tensors)
