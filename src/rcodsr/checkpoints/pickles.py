"""The only module that opens pickles: others' checkpoints before conversion to safetensors. No code in them is ever run.

A usual checkpoint is a zip archive of torch's: a pickle that names tensors, with their bytes beside it. Before torch 1.6 it was
several pickles in a row with the bytes after them. Before torch opens either (`weights_only=True`), it is read here by a
pure-Python reader that builds only lists, dictionaries and stand-ins for tensors. So the names it calls and the sizes its
tensors claim are known before anything is allocated. A plain pickle may contain numpy's arrays. It is read in the same
way, without numpy.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from rcodsr.errors import WeightsError
from rcodsr.messages import first_line, size_text

LARGEST = 2 << 30
"""Maximum bytes of a file. The largest known one has 138 million."""
_LARGEST_PICKLE = 16 << 20
_LARGEST_ARRAYS = 64 << 20
"""Maximum bytes of a plain pickle, which contains its arrays."""
_MOST_ENTRIES = 20_000
_REMEDY = "download it again from its authors"
_STORAGES = {
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "DoubleStorage": 8,
    "LongStorage": 8,
    "IntStorage": 4,
}
"""Bytes per value, by torch's names of storages."""
_ARCHIVE, _OLD = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""Signatures of torch's files, since 1.6 and before."""
_WRAPPERS = ("params_ema", "params", "state_dict")
"""Keys under which training programs wrap a network's tensors, in order of preference."""
_NUMBERS = {"f2": torch.float16, "f4": torch.float32, "f8": torch.float64}


def open_pickle(path: Path) -> dict[str, Any]:
    """Read a checkpoint saved by torch, or a pickle of arrays: plain values and tensors, on the CPU.

    Raises:
        WeightsError: when the file is missing, damaged, too large, of another kind, or names anything that is not a tensor.
    """
    if not path.is_file():
        raise WeightsError(path, "not a file" if path.exists() else "missing", "pass the published file")
    if path.stat().st_size > LARGEST:
        raise WeightsError(path, f"{size_text(path.stat().st_size)} is too large for a checkpoint", _REMEDY)
    try:
        contents = _read(path)
    except WeightsError:
        raise
    except Exception as error:  # a hostile file may break a reader in any way
        raise WeightsError(path, f"damaged ({first_line(error)})", _REMEDY) from error
    if not isinstance(contents, dict):
        raise WeightsError(path, f"holds a {type(contents).__name__}, not a table", "pass the published file")
    return contents


def _read(path: Path) -> Any:
    """Read a file that names only tensors or arrays.

    Raises:
        WeightsError: when it is of another kind.
        Exception: when it is damaged.
    """
    with path.open("rb") as handle:
        start = handle.read(len(_OLD))
    if start.startswith(_ARCHIVE) and zipfile.is_zipfile(path):  # torch checks the start, zipfile the end
        _inspect(path)
    elif start == _OLD:
        _inspect_old(path)
    elif start.startswith(b"\x80"):
        return _arrays(path)
    else:
        raise WeightsError(path, "neither a torch checkpoint nor a pickle of arrays", "pass the published file")
    return torch.load(path, map_location="cpu", weights_only=True)


def _inspect(path: Path) -> None:
    """Read an archive without building its contents.

    Raises:
        WeightsError: when torch should not open it.
    """
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry.file_size for entry in _checked(path, archive)}
        (name,) = [name for name in entries if name.endswith("/data.pkl")] or [""]
        if not name or entries[name] > _LARGEST_PICKLE:
            raise WeightsError(path, "contains no table of tensors, or one of absurd size", _REMEDY)
        reader = _Reader(io.BytesIO(archive.read(name)))
        reader.load()
    for storage in reader.storages:
        size = entries.get(f"{name.removesuffix('data.pkl')}data/{storage.key}")
        if size != storage.bytes:
            raise WeightsError(path, f"a tensor claims {storage.bytes} bytes and has {size or 'none'}", _REMEDY)


def _inspect_old(path: Path) -> None:
    """Read a file from before torch 1.6 without building its contents: five pickles, then length and values of each storage.

    Raises:
        WeightsError: when torch should not open it.
    """
    with path.open("rb") as handle:
        start = io.BytesIO(handle.read(_LARGEST_PICKLE))
    readers = [_Reader(start) for _ in ("sign", "protocol", "machine", "contents", "names of storages")]
    *_, names = [reader.load() for reader in readers]
    storages = {storage.key: storage for reader in readers for storage in reader.storages}
    claimed = start.tell() + sum(8 + storage.bytes for storage in storages.values())
    one_size = len(set(readers[3].storages)) == len(storages)
    if sorted(names) != sorted(storages) or not one_size or claimed != path.stat().st_size:
        cause = f"its tensors claim {claimed} bytes of {path.stat().st_size}, or some that are not there"
        raise WeightsError(path, cause, _REMEDY)


def _checked(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Entries of an archive whose sizes are as stated.

    Raises:
        WeightsError: when the archive is a zip bomb: torch never compresses.
    """
    entries = archive.infolist()
    whole = sum(entry.file_size for entry in entries) <= path.stat().st_size
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not (whole and stored and len(entries) <= _MOST_ENTRIES and len({e.filename for e in entries}) == len(entries)):
        raise WeightsError(path, "not packed by torch (compressed, overlapping or too many parts)", _REMEDY)
    return entries


@dataclass(frozen=True)
class _Storage:
    """Location of a tensor's values."""

    key: str
    count: int
    width: int

    @property
    def bytes(self) -> int:
        return self.count * self.width


class _Name:
    """Stand-in for one of torch's names. Calling it returns the facts about a tensor, and runs nothing."""

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


class _Reader(pickle._Unpickler):  # in Python, because the C version allocates what a file requests
    """Reads a pickle and collects the names in it."""

    # without the opcode that allocates as much memory as a file requests
    dispatch: ClassVar = {code: read for code, read in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}

    def __init__(self, data: io.BytesIO) -> None:
        super().__init__(data)
        self.storages: list[_Storage] = []

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"}:
            return _Name(name)
        if module == "torch" and name in _STORAGES:
            return _Name(name)
        raise pickle.UnpicklingError(f"names {module}.{name}, which is not a tensor; nothing of it was run")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, _, count, *view = pid  # old files have one more, for views, which is never used
        if (
            kind != "storage"
            or any(view)
            or not isinstance(key, str)
            or not isinstance(count, int)
            or not 0 <= count <= LARGEST
        ):
            raise pickle.UnpicklingError("a tensor has no values")
        self.storages.append(_Storage(key, count, _STORAGES[storage.name]))
        return self.storages[-1]


def _arrays(path: Path) -> Any:
    """Read a pickle of numpy's arrays as tensors.

    Raises:
        WeightsError: when it is too large.
        Exception: when it contains anything else, or is damaged.
    """
    if path.stat().st_size > _LARGEST_ARRAYS:
        raise WeightsError(path, "too large for a pickle of arrays, and not a torch file", "pass the published file")
    return _with_tensors(_ArrayReader(io.BytesIO(path.read_bytes())).load())


class _ArrayReader(_Reader):
    """Reads numpy's arrays into stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        stand_ins = {"multiarray._reconstruct": _Array, "numpy.ndarray": _Array, "numpy.dtype": _Number}
        known = f"{module}.{name}".removeprefix("numpy.core.").removeprefix("numpy._core.")
        if known not in stand_ins:
            raise pickle.UnpicklingError(f"names {module}.{name}, which is not an array; nothing of it was run")
        return stand_ins[known]


class _Number:
    """A type of numbers."""

    def __init__(self, name: str, *flags: bool) -> None:
        self.dtype = _NUMBERS[name]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] != "<":
            raise pickle.UnpicklingError("an array is not little-endian")


class _Array:
    """An array, empty until its state is set."""

    def __init__(self, *arguments: Any) -> None:
        self.tensor = torch.empty(0)

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Number, bool, bytes]) -> None:
        _, shape, number, by_columns, data = state
        if by_columns:
            raise pickle.UnpicklingError("an array is stored column by column")
        self.tensor = torch.frombuffer(bytearray(data), dtype=number.dtype).reshape(shape)


def _with_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tensors(item) for key, item in value.items()}
    return value.tensor if isinstance(value, _Array) else value


def unwrapped(contents: dict[str, Any]) -> dict[str, Any]:
    """A network's tensors without a wrapping table."""
    return next((contents[name] for name in _WRAPPERS if isinstance(contents.get(name), dict)), contents)


def tensors_of(path: Path, what: str, value: Any) -> dict[str, Tensor]:
    """Check a table of tensors value by value, and convert it to float32.

    Args:
        path: the file, for messages.
        what: name of the table in it.
        value: the table.

    Raises:
        WeightsError: when it is not a table of tensors, or a value is not finite.
    """
    if not isinstance(value, dict):
        raise WeightsError(path, f"{what} is not a table of tensors", _REMEDY)
    found = {}
    for key, tensor in value.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise WeightsError(path, f"{what}: {str(key)[:80]} is not a floating-point tensor", _REMEDY)
        if not torch.isfinite(tensor).all():
            raise WeightsError(path, f"{what}: {key} holds NaN or infinity", _REMEDY)
        found[key] = tensor.detach().float().contiguous()
    return found
