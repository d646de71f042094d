"""Read safetensors files strictly: exactly the expected keys and shapes, floating point, finite values.

Names, dtypes and shapes are compared before any value is read, so that a file cannot cause unexpected allocations. Values are
read one tensor at a time, so that there are never two copies of all of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rcodsr.checkpoints.config import REMEDY
from rcodsr.errors import WeightsError
from rcodsr.messages import first_line

__all__ = ["REMEDY", "check_fit", "load_strictly", "read_into", "read_names", "read_tensors"]

_FLOATS = {"F64", "F32", "F16", "BF16"}
_STRANGERS = {
    b"version https://git-lfs": "a git-lfs pointer, not the file itself",
    b"PK\x03\x04": "a zip file or pickle, not safetensors; pickles are never loaded, see `rcodsr weights convert`",
    b"\x80": "a pickle, not safetensors; pickles are never loaded, see `rcodsr weights convert`",
    b"<": "a web page, not safetensors",
}


def read_tensors(path: Path, expected: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file, as float32.

    Args:
        path: the file.
        expected: exactly these names and shapes are accepted. None accepts any.

    Raises:
        WeightsError: when the file is missing, damaged, does not fit, or contains values that are not finite.
    """
    found: dict[str, Tensor] = {}
    read_into(path, found.__setitem__, expected)
    return found


def read_names(path: Path) -> set[str]:
    """Names of all tensors in a safetensors file.

    Raises:
        WeightsError: when the file is missing or damaged.
    """
    with _opened(path) as file:
        return set(file.keys())


def load_strictly(module: nn.Module, path: Path, rename: Callable[[str], str | None] = str) -> None:
    """Load a safetensors file into a module, with exactly its keys and shapes, and finite values.

    Args:
        module: the module to fill. May have been built weightless.
        path: the file.
        rename: maps a key of the file to the module's name, or to None to skip it.

    Raises:
        WeightsError: naming the first mismatch.
    """
    tensors: dict[str, Tensor] = {}
    read_into(path, tensors.__setitem__, module.state_dict(), rename)
    module.load_state_dict(tensors, assign=True)


def read_into(
    path: Path,
    take: Callable[[str, Tensor], object],
    expected: Mapping[str, Tensor] | None = None,
    rename: Callable[[str], str | None] = str,
) -> None:
    """Pass the tensors of a safetensors file to `take` one by one, as float32.

    Raises:
        WeightsError: see `read_tensors`. All names and shapes are compared before the first tensor is passed.
    """
    with _opened(path) as file:
        names = {key: name for key in file.offset_keys() if (name := rename(key)) is not None}
        stored = {key: file.get_slice(key) for key in names}
        wanted = {} if expected is None else expected
        shapes = {name: _shape(tuple(stored[key].get_shape()), wanted.get(name)) for key, name in names.items()}
        if len(shapes) < len(names):
            raise WeightsError(path, "contains a tensor under two names", REMEDY)
        if expected is not None:
            check_fit(path, shapes, {name: tuple(value.shape) for name, value in expected.items()})
        for key, tensor in stored.items():
            if (dtype := tensor.get_dtype()) not in _FLOATS:
                raise WeightsError(path, f"{key} has dtype {dtype}, not floating point", REMEDY)
        for key, name in names.items():
            value = file.get_tensor(key)
            if not torch.isfinite(value).all():
                raise WeightsError(path, f"{key} holds NaN or infinity", REMEDY)
            # a copy, because mapped memory would change with the file
            take(name, value.to(torch.float32, copy=True).reshape(shapes[name]))


def check_fit(path: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the keys and shapes of a file with those of a module.

    Raises:
        WeightsError: naming what does not fit.
    """
    missing, extra = (_some(a - b) for a, b in ((expected.keys(), found.keys()), (found.keys(), expected.keys())))
    if missing or extra:
        raise WeightsError(path, f"keys do not fit: missing {missing or 'none'}, unexpected {extra or 'none'}", REMEDY)
    for key, shape in found.items():
        if shape != expected[key]:
            raise WeightsError(path, f"{key} has shape {shape}, expected {expected[key]}", REMEDY)


def _shape(shape: tuple[int, ...], expected: Tensor | None) -> tuple[int, ...]:
    """The stored shape, except that a 1×1 convolution of old attention layers becomes a linear layer."""
    linear = expected is not None and expected.dim() == 2 and len(shape) == 4 and shape[2:] == (1, 1)
    return shape[:2] if linear else shape


def _some(keys: Iterable[str], most: int = 5) -> str:
    names = sorted(keys)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    """Open a file whose header safetensors accepts: no gap, no overlap, nothing beyond the end.

    Raises:
        WeightsError: when the file is missing or damaged.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("not a file")
        with safe_open(path, "pt") as file:
            yield file
    except FileNotFoundError:
        raise WeightsError(path, "missing", REMEDY) from None
    except (OSError, SafetensorError) as error:
        told = first_line(error).removeprefix("Error while deserializing header: ")
        raise WeightsError(path, f"damaged ({_diagnosis(path) or told})", REMEDY) from error


def _diagnosis(path: Path) -> str:
    """Recognise by its first bytes a file that is not a safetensors file."""
    try:
        with path.open("rb") as handle:
            start = handle.read(32)
    except OSError:
        return ""
    if not start:
        return "empty"
    if not any(start):
        return "only zeros"
    # the header's length may begin with any byte, but a brace follows its eight bytes
    told = (what for sign, what in _STRANGERS.items() if start.startswith(sign) and (len(sign) > 1 or start[8:9] != b"{"))
    return next(told, "")
