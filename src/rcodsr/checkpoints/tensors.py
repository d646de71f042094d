"""Safetensors files, read strictly: exactly the expected keys and shapes, finite values."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rcodsr.errors import WeightsError

REMEDY = "delete it and fetch or export the checkpoint again"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, as float32.

    Raises:
        WeightsError: when the file is missing, damaged, or holds values that are not finite.
    """
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise WeightsError(path, "missing", REMEDY) from None
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(path, f"damaged ({error})", REMEDY) from error
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise WeightsError(path, f"{key} holds NaN or infinity", REMEDY)
    return {key: tensors.pop(key).float() for key in list(tensors)}  # one by one: never both dtypes of everything


def load_strictly(module: nn.Module, path: Path) -> None:
    """Load a safetensors file into a module: exactly its keys and shapes, finite values.

    Raises:
        WeightsError: naming the first thing that does not fit.
    """
    tensors = read_tensors(path)
    check_fit(path, tensors, module.state_dict())
    module.load_state_dict(tensors, assign=True)


def check_fit(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare the keys and shapes of a file with those of a module.

    Raises:
        WeightsError: naming the first thing that does not fit.
    """
    missing, extra = (_some(a - b) for a, b in ((expected.keys(), found.keys()), (found.keys(), expected.keys())))
    if missing or extra:
        raise WeightsError(path, f"keys do not fit: missing {missing or 'none'}, unexpected {extra or 'none'}", REMEDY)
    for key, value in found.items():
        if value.shape != expected[key].shape:
            shapes = f"{tuple(value.shape)}, expected {tuple(expected[key].shape)}"
            raise WeightsError(path, f"{key} has shape {shapes}", REMEDY)


def _some(keys: Iterable[str], most: int = 5) -> str:
    names = sorted(keys)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
