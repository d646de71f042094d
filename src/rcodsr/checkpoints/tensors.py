"""Safetensors files, read strictly: exactly the expected keys and shapes, floating point, finite values.

Names, dtypes and shapes are compared before any value is read, so that a file cannot make us allocate what nobody expects.
Values are read one tensor at a time: at no moment are there two copies of everything.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rcodsr.checkpoints.config import REMEDY
from rcodsr.errors import WeightsError
from rcodsr.messages import first_line

__all__ = ["REMEDY", "check_fit", "load_strictly", "read_into", "read_names", "read_tensors"]

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_LARGEST_HEADER = 8 << 20
"""Bytes; that of Stable Diffusion's U-Net has a hundredth."""
_STRANGERS = {
    b"version https://git-lfs": "a pointer of git-lfs, not the file itself",
    b"PK\x03\x04": "a zip file or pickle, not safetensors; pickles are never loaded, see `rcodsr weights convert`",
    b"\x80": "a pickle, not safetensors; pickles are never loaded, see `rcodsr weights convert`",
    b"<": "a web page, not safetensors",
}


@dataclass(frozen=True)
class Stored:
    """A tensor as the header of its file describes it."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""


def read_tensors(path: Path, expected: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """All tensors of a safetensors file, as float32.

    Args:
        path: the file.
        expected: exactly these names and shapes are accepted; None accepts any.

    Raises:
        WeightsError: when the file is missing, damaged, does not fit, or holds values that are not finite.
    """
    found: dict[str, Tensor] = {}
    read_into(path, found.__setitem__, expected)
    return found


def read_names(path: Path) -> set[str]:
    """Names of all tensors of a safetensors file.

    Raises:
        WeightsError: when the file is missing or damaged.
    """
    with _opened(path) as (_, header):
        return set(header)


def load_strictly(module: nn.Module, path: Path, rename: Callable[[str], str | None] = str) -> None:
    """Load a safetensors file into a module: exactly its keys and shapes, finite values.

    Args:
        module: what to fill; may have been built weightless.
        path: the file.
        rename: the module's name of a key of the file; None for keys that are not wanted.

    Raises:
        WeightsError: naming the first thing that does not fit.
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
    """Hand the tensors of a safetensors file over one by one, as float32.

    Raises:
        WeightsError: as `read_tensors`; all names and shapes are compared before the first is handed over.
    """
    with _opened(path) as (handle, header):
        names = {key: name for key in header if (name := rename(key)) is not None}
        wanted = {} if expected is None else expected
        shapes = {name: _shape(header[key].shape, wanted.get(name)) for key, name in names.items()}
        if len(shapes) < len(names):
            raise WeightsError(path, "holds a tensor under two names", REMEDY)
        if expected is not None:
            check_fit(path, shapes, {name: tuple(value.shape) for name, value in expected.items()})
        if bad := [key for key in names if header[key].dtype not in _DTYPES]:
            raise WeightsError(path, f"{bad[0]} holds {header[bad[0]].dtype}, not floating point numbers", REMEDY)
        for key, name in names.items():
            value = _read(handle, header[key])
            if not torch.isfinite(value).all():
                raise WeightsError(path, f"{key} holds NaN or infinity", REMEDY)
            take(name, value.float().reshape(shapes[name]))


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
    """As stored; but a 1×1 convolution of old attention layers is a linear layer now."""
    linear = expected is not None and expected.dim() == 2 and len(shape) == 4 and shape[2:] == (1, 1)
    return shape[:2] if linear else shape


def _some(keys: Iterable[str], most: int = 5) -> str:
    names = sorted(keys)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, dict[str, Stored]]]:
    """An open file and its header, which safetensors itself has accepted: no gap, no overlap, nothing beyond the end.

    Raises:
        WeightsError: when it is missing or damaged.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("not a file")
        with path.open("rb") as handle:
            header = _header(handle, path.stat().st_size)
            with safe_open(path, "pt"):
                pass
            yield handle, header
    except FileNotFoundError:
        raise WeightsError(path, "missing", REMEDY) from None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(path, f"damaged ({_diagnosis(path) or first_line(error)})", REMEDY) from error


def _header(handle: BinaryIO, size: int) -> dict[str, Stored]:
    length = int.from_bytes(handle.read(8), "little")
    if size < 8 or length > min(size - 8, _LARGEST_HEADER):
        raise ValueError("cut short, or not safetensors")
    entries: dict[str, Any] = json.loads(handle.read(length), object_pairs_hook=_without_duplicates)
    entries.pop("__metadata__", None)
    header = {}
    for key, entry in entries.items():
        start, end = entry["data_offsets"]
        if 8 + length + end > size:
            raise ValueError(f"cut short: {size} of at least {8 + length + end} bytes")
        header[key] = Stored(entry["dtype"], tuple(entry["shape"]), 8 + length + start)
    return header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("the same name twice")
    return values


def _diagnosis(path: Path) -> str:
    """What a file is that is no safetensors file, where its first bytes tell."""
    try:
        with path.open("rb") as handle:
            start = handle.read(32)
    except OSError:
        return ""
    if not start:
        return "empty"
    if not any(start):
        return "nothing but zeros"
    # a length of header may begin with any byte, but a brace follows its eight
    told = (what for sign, what in _STRANGERS.items() if start.startswith(sign) and (len(sign) > 1 or start[8:9] != b"{"))
    return next(told, "")


def _read(handle: BinaryIO, stored: Stored) -> Tensor:
    value = torch.empty(stored.shape, dtype=_DTYPES[stored.dtype])
    handle.seek(stored.start)
    if value.numel() and handle.readinto(value.reshape(-1).view(torch.uint8).numpy()) != value.nbytes:  # type: ignore[attr-defined]
        raise ValueError("cut short while it was read")
    return value
