"""Pickles that want to run something, or to be larger than they are: refused, and nothing of them runs."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rcodsr.checkpoints import pickles
from rcodsr.checkpoints.published import read_published
from rcodsr.errors import RcodsrError, WeightsError
from tests import published


class _Runs:
    """Unpickling this writes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (_touch, (str(self.canary), "run"))


def _touch(path: str, text: str) -> None:
    Path(path).write_text(text)


def _archive(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def _claiming(numel: int, shape: tuple[int, ...], strides: tuple[int, ...], stored: int) -> dict[str, bytes]:
    """A torch archive whose only tensor claims what it likes."""

    class Pickler(pickle._Pickler):
        def persistent_id(self, value: Any) -> Any:
            return value.pid if isinstance(value, _Stored) else None

    buffer = io.BytesIO()
    pickler = Pickler(buffer, protocol=2)
    pickler.dump({"x": _Tensor(numel, shape, strides)})
    return {"a/data.pkl": buffer.getvalue(), "a/version": b"3\n", "a/data/0": b"\0" * stored}


class _Stored:
    def __init__(self, numel: int) -> None:
        self.pid = ("storage", torch.FloatStorage, "0", "cpu", numel)


class _Tensor:
    def __init__(self, numel: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.arguments: tuple[Any, ...] = (_Stored(numel), 0, shape, strides, False, {})

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (torch._utils._rebuild_tensor_v2, self.arguments)


def _hostile(kind: str, path: Path, canary: Path) -> Path:
    if kind == "pickle with code":
        path.write_bytes(pickle.dumps({"state_dict_unet": _Runs(canary)}))
    elif kind == "torch archive with code":
        torch.save({"state_dict_unet": _Runs(canary)}, path)
    elif kind == "old torch file":
        torch.save({"x": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    elif kind == "old torch file with code":
        torch.save({"x": torch.zeros(2), "y": _Runs(canary)}, path, _use_new_zipfile_serialization=False)
    elif kind == "old torch file cut short":
        torch.save({"x": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:-700])
    elif kind == "old torch file that claims a terabyte":
        torch.save({"x": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
        honest = b"M" + (1000).to_bytes(2, "little") + b"N"  # the number of values, and that it is no view
        whole = path.read_bytes()
        assert whole.count(honest) == 1
        path.write_bytes(whole.replace(honest, b"\x8a\x05" + (1 << 38).to_bytes(5, "little") + b"N"))
    elif kind == "array with code":
        path.write_bytes(pickle.dumps({"x": np.zeros(2, np.float32), "y": _Runs(canary)}, 3))
    elif kind == "array of objects":
        path.write_bytes(pickle.dumps({"x": np.array([_Runs(canary)])}, 3))
    elif kind == "array larger than its bytes":
        path.write_bytes(pickle.dumps({"x": np.zeros(200, np.float32)}, 3).replace(b"K\xc8\x85", b"K\xc9\x85"))
    elif kind == "array of another machine":
        path.write_bytes(pickle.dumps({"x": np.zeros(2, ">f4")}, 3))
    elif kind == "terabyte by opcode":
        path.write_bytes(b"\x80\x05}\x96" + (1 << 40).to_bytes(8, "little") + b".")
    elif kind == "zip bomb":
        _archive(path, {"a/data.pkl": pickle.dumps({}, 2), "a/data/0": b"\0" * 50_000_000}, zipfile.ZIP_DEFLATED)
    elif kind == "no table":
        _archive(path, {"a/readme": b"x"})
    elif kind == "storage larger than its bytes":
        _archive(path, _claiming(1 << 28, (1 << 28,), (1,), 4))
    elif kind == "view larger than its storage":
        _archive(path, _claiming(1, (1 << 20, 1 << 20), (0, 0), 4))
    elif kind == "view beyond its storage":
        _archive(path, _claiming(4, (4,), (1000,), 16))
    elif kind == "bytearray of a terabyte":
        body = b"\x80\x02c__builtin__\nbytearray\nL1000000000000L\n\x85R."
        _archive(path, {"a/data.pkl": body, "a/version": b"3\n"})
    elif kind == "memo of gigabytes":
        _archive(path, {"a/data.pkl": b"\x80\x02}r\xff\xff\xff\xff.", "a/version": b"3\n"})
    elif kind == "a list":
        torch.save([1, 2, 3], path)
    elif kind == "another network":
        torch.save({"conv.weight": torch.zeros(1), "conv.bias": torch.zeros(1)}, path)
    elif kind == "cut short":
        torch.save({"x": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:-700])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "web page":
        path.write_bytes(b"<!doctype html>")
    elif kind == "directory":
        path.mkdir()
    elif kind == "safetensors":
        save_file({"x": torch.zeros(2)}, path)
    return path


KINDS = [
    *("pickle with code", "torch archive with code", "old torch file", "zip bomb", "no table", "a list", "another network"),
    *("storage larger than its bytes", "view larger than its storage", "view beyond its storage", "bytearray of a terabyte"),
    *("old torch file with code", "old torch file cut short", "old torch file that claims a terabyte", "terabyte by opcode"),
    *("array with code", "array of objects", "array larger than its bytes", "array of another machine"),
    *("memo of gigabytes", "cut short", "empty", "web page", "directory", "safetensors", "missing"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_files_are_refused_and_nothing_of_them_runs(kind: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = _hostile(kind, tmp_path / "osediff.pkl", canary)
    with pytest.raises(RcodsrError) as caught:
        read_published([path])
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value) and "; " in str(caught.value) and "\n" not in str(caught.value)
    assert not canary.exists()


def test_a_file_beyond_the_limit_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "LARGEST", 1000)
    path = published.save(tmp_path / "x.pkl", {"x": torch.zeros(1000)})
    with pytest.raises(WeightsError, match="too large for a checkpoint"):
        read_published([path])


def test_a_safetensors_file_is_named_as_one(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file({"lora_down.weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"lora\.safetensors: a safetensors file, .*; pass OSEDiff's"):
        pickles.open_pickle(path)
