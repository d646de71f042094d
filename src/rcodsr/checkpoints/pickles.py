"""The one door for pickles: others' checkpoints on their way into safetensors. Nothing in them is ever run.

A checkpoint of the field is a zip archive of torch's: a pickle that names tensors, and their bytes beside it. Before torch
opens one (`weights_only=True`), it is read here with a reader in pure Python that builds nothing but lists, dictionaries and
stand-ins for tensors. So what it calls, and how large its tensors claim to be, is known before anything is allocated.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcodsr.checkpoints.config import first_line
from rcodsr.errors import WeightsError

LARGEST = 2 << 30
"""Bytes of a file; the largest of the field has 138 million."""
_LARGEST_PICKLE = 16 << 20
_MOST_ENTRIES = 20_000
_REMEDY = "get it again from its authors"
_STORAGES = {
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "DoubleStorage": 8,
    "LongStorage": 8,
    "IntStorage": 4,
}
"""Bytes of a value, by the names under which torch stores tensors."""


def open_pickle(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint that torch has saved: plain values and tensors, on the CPU.

    Raises:
        WeightsError: when it is missing, damaged, too large, of another kind, or names anything that is not a tensor.
    """
    if not path.is_file():
        raise WeightsError(path, "not a file" if path.exists() else "missing", "give the published file")
    if path.stat().st_size > LARGEST:
        raise WeightsError(path, f"{path.stat().st_size / 1e9:.1f} GB are too large for a checkpoint", _REMEDY)
    try:
        _inspect(path)
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # a hostile file may break a reader in any way
        raise WeightsError(path, f"damaged ({first_line(error)})", _REMEDY) from error
    if not isinstance(contents, dict):
        raise WeightsError(path, f"holds a {type(contents).__name__}, not a table", "give the published file")
    return contents


def _inspect(path: Path) -> None:
    """Read a checkpoint without building it.

    Raises:
        WeightsError: when torch should not open it.
    """
    with path.open("rb") as handle:
        start = handle.read(4)
    if start != b"PK\x03\x04" or not zipfile.is_zipfile(path):  # torch goes by the start, zipfile by the end
        cause = "not a checkpoint of torch 1.6 or newer (no zip archive); what else a pickle may hold is not opened"
        raise WeightsError(path, cause, "give the published file")
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry.file_size for entry in _checked(path, archive)}
        (name,) = [name for name in entries if name.endswith("/data.pkl")] or [""]
        if not name or entries[name] > _LARGEST_PICKLE:
            raise WeightsError(path, "holds no table of tensors, or one of absurd size", _REMEDY)
        reader = _Reader(archive.read(name))
        reader.load()
    for storage in reader.storages:
        size = entries.get(f"{name.removesuffix('data.pkl')}data/{storage.key}")
        if size != storage.bytes:
            raise WeightsError(path, f"a tensor claims {storage.bytes} bytes and has {size or 'none'}", _REMEDY)


def _checked(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Entries of an archive that is as large as it looks.

    Raises:
        WeightsError: when it is a bomb: torch never compresses.
    """
    entries = archive.infolist()
    whole = sum(entry.file_size for entry in entries) <= path.stat().st_size
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not (whole and stored and len(entries) <= _MOST_ENTRIES and len({e.filename for e in entries}) == len(entries)):
        raise WeightsError(path, "packed as torch never does (compressed, overlapping or too many parts)", _REMEDY)
    return entries


@dataclass(frozen=True)
class _Storage:
    """Where the values of a tensor lie."""

    key: str
    count: int
    width: int

    @property
    def bytes(self) -> int:
        return self.count * self.width


class _Name:
    """Stands for something of torch's; calling it gives what a table needs to know of a tensor, and nothing runs."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any) -> Any:
        if self.name == "_rebuild_parameter":
            return arguments[0]
        storage, offset, shape, strides = arguments[:4]
        last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True) if side)
        counts = [int(side) for side in shape] + [int(stride) for stride in strides]
        if min([offset, *counts], default=0) < 0 or last >= max(1, storage.count) or len(shape) > 8:
            raise pickle.UnpicklingError("a tensor reaches beyond its values")
        if _product(shape) > storage.count:
            raise pickle.UnpicklingError("a tensor is larger than its values")
        return self


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


class _Reader(pickle._Unpickler):  # in Python: the one in C allocates what a file asks for
    """Reads a pickle for what it names."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.storages: list[_Storage] = []

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in {("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")}:
            return _Name(name)
        if module == "torch" and name in _STORAGES:
            return _Name(name)
        raise pickle.UnpicklingError(f"names {module}.{name}, which is no tensor; nothing of it was run")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(key, str) or not isinstance(count, int) or not 0 <= count <= LARGEST:
            raise pickle.UnpicklingError("a tensor has no values")
        self.storages.append(_Storage(key, count, _STORAGES[storage.name]))
        return self.storages[-1]


def tensors_of(path: Path, what: str, value: Any) -> dict[str, Tensor]:
    """A table of tensors, checked value by value, as float32.

    Args:
        path: the file, for messages.
        what: the table's name in it.
        value: the table.

    Raises:
        WeightsError: when it is something else, or a value is not finite.
    """
    if not isinstance(value, dict):
        raise WeightsError(path, f"{what} is no table of tensors", _REMEDY)
    found = {}
    for key, tensor in value.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise WeightsError(path, f"{what}: {str(key)[:80]} is no tensor of floating point numbers", _REMEDY)
        if not torch.isfinite(tensor).all():
            raise WeightsError(path, f"{what}: {key} holds NaN or infinity", _REMEDY)
        found[key] = tensor.detach().float().contiguous()
    return found
