"""Checkpoint directories that somebody meant ill, or that broke: exit code 3, one line that names the file."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rcodsr.checkpoints.config import read_config
from rcodsr.checkpoints.load import load_weights
from rcodsr.checkpoints.resolve import ResolvedWeights, resolve, resolve_base
from rcodsr.errors import WeightsError
from rcodsr.options import WeightsRequest

UNET = "unet.safetensors"


def _raw(header: dict[str, Any] | bytes, body: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def _rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The file with another header."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    return _raw(header, data[8 + length :])


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return damage


def _bytes(make: Callable[[Path], bytes]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(make(path))

    return damage


def _sparse(path: Path) -> None:
    """A file that claims a terabyte and has it, as a hole."""
    header = _raw({"conv_in.bias": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}, b"")
    path.write_bytes(header)
    os.truncate(path, len(header) + (1 << 40))


def _instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def _overlap(header: dict[str, Any]) -> None:
    first, second = sorted((key for key in header if key != "__metadata__"), key=lambda key: header[key]["data_offsets"])[:2]
    header[second]["data_offsets"] = header[first]["data_offsets"]


def _gap(header: dict[str, Any]) -> None:
    last = max((key for key in header if key != "__metadata__"), key=lambda key: header[key]["data_offsets"])
    header[last]["data_offsets"] = [offset + 4 for offset in header[last]["data_offsets"]]


def _lie(key: str, field: str, value: object) -> Callable[[Path], None]:
    return _bytes(lambda path: _rewritten(path, lambda header: header[key].update({field: value})))


def _gigabyte(path: Path) -> None:
    path.write_bytes(_raw({}, b"", 1 << 30))
    os.truncate(path, 1 << 31)


FILES: dict[str, Callable[[Path], None]] = {
    "NaN": _tensors(lambda t: t["conv_in.bias"].fill_(float("nan"))),
    "infinity": _tensors(lambda t: t["conv_in.bias"][0].fill_(float("inf"))),
    "integers": _tensors(lambda t: t.update({"conv_in.bias": t["conv_in.bias"].long()})),
    "8-bit floats": _tensors(lambda t: t.update({"conv_in.bias": t["conv_in.bias"].to(torch.float8_e4m3fn)})),
    "missing key": _tensors(lambda t: t.pop("conv_in.bias")),
    "extra key": _tensors(lambda t: t.update({"surprise": torch.zeros(1)})),
    "other shape": _tensors(lambda t: t.update({"conv_in.bias": torch.zeros(3)})),
    "transposed": _tensors(lambda t: t.update({"conv_in.weight": t["conv_in.weight"].transpose(0, 1).contiguous()})),
    "nothing": _tensors(lambda t: t.clear()),
    "cut short": _bytes(lambda path: path.read_bytes()[:-50]),
    "cut in the header": _bytes(lambda path: path.read_bytes()[:50]),
    "trailing bytes": _bytes(lambda path: path.read_bytes() + b"more"),
    "empty": _bytes(lambda path: b""),
    "zeros": _bytes(lambda path: b"\0" * 4096),
    "html": _bytes(lambda path: b"<!doctype html><title>Log in</title>"),
    "lfs pointer": _bytes(lambda path: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"),
    "pickle": _bytes(lambda path: b"\x80\x04\x95" + b"\x00" * 5 + b"c" * 40),
    "torch archive": _instead(lambda path: torch.save({"x": torch.zeros(2)}, path)),
    "header of terabytes": _bytes(lambda path: _raw({}, b"", 1 << 40)),
    "header of a gigabyte": _instead(_gigabyte),
    "header is no JSON": _bytes(lambda path: _raw(b"{" * 4000, b"")),
    "header is nested deep": _bytes(lambda path: _raw(b"[" * 100_000, b"")),
    "header is a list": _bytes(lambda path: _raw(b"[1, 2]", b"")),
    "same name twice": _bytes(
        lambda path: _raw(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],'
                          b'"data_offsets":[4,8]}}', b"\0" * 8)
    ),
    "overlap": _bytes(lambda path: _rewritten(path, _overlap)),
    "gap": _bytes(lambda path: _rewritten(path, _gap)),
    "negative shape": _lie("conv_in.bias", "shape", [-1]),
    "offsets as text": _lie("conv_in.bias", "data_offsets", ["0", "4"]),
    "offsets beyond the end": _lie("conv_in.bias", "data_offsets", [0, 1 << 50]),
    "unknown dtype": _lie("conv_in.bias", "dtype", "F31"),
    "a terabyte": _sparse,
    "directory": _instead(Path.mkdir),
    "missing": _instead(lambda path: None),
    "link to nothing": _instead(lambda path: path.symlink_to("nowhere")),
    "link to itself": _instead(lambda path: path.symlink_to(path)),
    "link to a device": _instead(lambda path: path.symlink_to("/dev/zero")),
    "pipe": _instead(lambda path: os.mkfifo(path)),
}  # fmt: skip


def _refused(directory: Path, name: str, **request: Any) -> str:
    """What is said of weights: that the file `name` is at fault."""
    with pytest.raises(WeightsError) as caught:
        load_weights(WeightsRequest(str(directory), **request))
    told = str(caught.value)
    assert name in told and "; " in told and "\n" not in told and len(told) < 1000, told
    return told


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_a_merged_checkpoint(small_checkpoint: Path, kind: str) -> None:
    FILES[kind](small_checkpoint / UNET)
    _refused(small_checkpoint, UNET)


@pytest.mark.parametrize("kind", ["NaN", "missing key", "extra key", "other shape", "integers", "a terabyte", "cut short"])
@pytest.mark.parametrize("where", ["unet", "vae"])
def test_a_file_of_a_base(adapter_checkpoint: Path, bases: dict[str, ResolvedWeights], kind: str, where: str) -> None:
    """An adapter that does not say which base it is for stands on whatever fits; what does not fit is named."""
    base = bases["sd21-base"].directory
    config = adapter_checkpoint / "config.json"
    values = json.loads(config.read_text())
    values["bases"] = {name: {} for name in values["bases"]}
    config.write_text(json.dumps(values))
    path = base / where / "diffusion_pytorch_model.safetensors"
    if where == "vae" and kind in {"NaN", "missing key", "other shape", "integers"}:
        tensors = load_file(path)
        tensors["conv_in.bias"] = tensors.pop("quant_conv.bias")
        save_file(tensors, path)
    FILES[kind](path)
    from rcodsr.checkpoints.format import load_model

    with pytest.raises(WeightsError, match=f"{where}/diffusion_pytorch_model"):
        load_model(adapter_checkpoint, bases | {"sd21-base": resolve_base("sd21-base", str(base))})


def test_pickles_are_pointed_to_the_converter(small_checkpoint: Path, tmp_path: Path) -> None:
    for kind in ("pickle", "torch archive"):
        FILES[kind](small_checkpoint / UNET)
        assert "pickles are never loaded, see `rcodsr weights convert`" in _refused(small_checkpoint, UNET)
    (tmp_path / "osediff.pkl").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"run `rcodsr weights convert .*osediff\.pkl`"):
        resolve(str(tmp_path / "osediff.pkl"))


# ---- config.json


def _at(values: Any, path: str, value: object) -> None:
    *above, last = path.split(".")
    for step in above:
        values = values[step]
    values[last] = value


CONFIGS: dict[str, tuple[str, object]] = {
    "a width of billions": ("variant.unet.channels", [10**10, 10**10]),
    "a million levels": ("variant.unet.channels", [8] * 1_000_000),
    "a million blocks": ("variant.unet.blocks", [10**6, 1]),
    "no levels": ("variant.unet.channels", []),
    "no heads": ("variant.unet.heads", 0),
    "negative width": ("variant.unet.channels", [-8, 12]),
    "width as text": ("variant.unet.channels", "8, 12"),
    "width as fraction": ("variant.unet.channels", [8.5, 12]),
    "number as text": ("variant.scale", "4"),
    "absurd scale": ("variant.scale", 10**9),
    "zero scale": ("variant.scale", 0),
    "truth for a number": ("variant.scale", True),
    "endless wavelet": ("variant.autoencoder.levels", 10**6),
    "absurd padding": ("variant.least_side", 10**9),
    "absurd tile": ("variant.tile", 10**9),
    "absurd image": ("variant.prompt.image_side", 10**6),
    "NaN bound": ("variant.grouping.metric_min", float("nan")),
    "infinite bound": ("variant.grouping.metric_max", float("inf")),
    "n of zero": ("variant.grouping.n", 0),
    "unknown kind": ("variant.unet.kind", "os.system"),
    "kind is a list": ("variant.unet.kind", []),
    "unet is a number": ("variant.unet", 5),
    "variant is a list": ("variant", []),
    "variant is nothing": ("variant", None),
    "unknown key": ("variant.auto_map", {"AutoModel": "evil.py"}),
    "unknown colour fix": ("variant.color_fix", "magic"),
    "traversal as name": ("variant.name", "../../evil"),
    "name of a megabyte": ("variant.name", "x" * 500_000),
    "unknown layout": ("layout", "pickle"),
    "layout is a table": ("layout", {}),
    "format of tomorrow": ("format_version", 99),
    "format is a table": ("format_version", {}),
    "training is text": ("training", "yes"),
    "bases are a list": ("bases", [1]),
    "timestep beyond": ("variant.embedded_timestep", 5000),
    "adapter without LoRA": ("layout", "adapter"),
    "wavelet with other channels": ("variant.prompt.context", 13),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_of_a_merged_checkpoint(small_checkpoint: Path, kind: str) -> None:
    path = small_checkpoint / "config.json"
    values = json.loads(path.read_text())
    _at(values, *CONFIGS[kind])
    path.write_text(json.dumps(values))
    _refused(small_checkpoint, str(small_checkpoint))


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "5", '"text"', "{}", "[" * 100_000, '{"a": ' * 50_000, "1" * 10_000, "\ufeff{}", "\x00" * 100],
    ids=["empty", "null", "list", "number", "text", "table", "deep list", "deep table", "long number", "BOM", "zeros"],
)
def test_a_config_that_is_none(small_checkpoint: Path, text: str) -> None:
    (small_checkpoint / "config.json").write_text(text, encoding="utf-8")
    _refused(small_checkpoint, "config.json")


@pytest.mark.parametrize("kind", ["directory", "link to nothing", "link to itself", "link to a device", "pipe", "a terabyte"])
def test_a_config_that_is_no_file(small_checkpoint: Path, kind: str) -> None:
    FILES[kind](small_checkpoint / "config.json")
    _refused(small_checkpoint, str(small_checkpoint))


def _renamed_base(values: dict[str, Any], name: str) -> None:
    values["variant"]["base"] = name
    values["bases"][name] = values["bases"].pop("sd21-base")


def _sd_config(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v["bases"].pop("sd21-base"), "needs clip-vit-l14, sd21-base, but names clip-vit-l14"),
        (lambda v: v["bases"].update({"evil": {}}), "names clip-vit-l14, evil, sd21-base"),
        (lambda v: v["bases"]["sd21-base"].update({"../../x": "0" * 64}), "../../x should have sha256 000000000000"),
        (lambda v: v["bases"]["sd21-base"].update({"vae/diffusion_pytorch_model.safetensors": "1" * 64}), "another sd21-base"),
        (lambda v: v["bases"]["sd21-base"].update({"x": "../evil"}), "is not a sha256"),
        (lambda v: v["variant"].update(base="rcod-tiny"), "names clip-vit-l14, sd21-base"),
        (lambda v: _renamed_base(v, "rcod-o"), "unknown base"),
        (lambda v: v["variant"].update(lora=None), "without a LoRA specification"),
        (lambda v: v["variant"]["lora"].update(unet_rank=10**6), "unet_rank"),
        (lambda v: v["variant"]["lora"].update(alpha=float("nan")), "alpha"),
        (lambda v: v["variant"]["lora"].update(placement="everywhere"), "placement"),
        (lambda v: v["variant"]["unet"].update(norm_groups=0), "norm_groups: 0 is not possible"),
        (lambda v: v["variant"]["unet"].update(heads=[2]), "does not describe a network"),
        (lambda v: v["variant"].update(scale=2), "variant.scale: 2 is not possible; use 4"),
        (lambda v: v["variant"]["prompt"].update(layers=10**7), "layers"),
        (lambda v: v["variant"]["autoencoder"].update(scaling=0), "scaling"),
    ],
)  # fmt: skip
def test_a_config_of_an_adapter(
    adapter_checkpoint: Path,
    bases: dict[str, ResolvedWeights],
    change: Callable[[dict[str, Any]], object],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from huggingface_hub import constants

    from rcodsr.checkpoints.format import load_model

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    _sd_config(adapter_checkpoint / "config.json", change)
    with pytest.raises(WeightsError) as caught:
        config = read_config(adapter_checkpoint)
        load_model(
            adapter_checkpoint,
            {name: bases[name] if name in bases else resolve_base(name, None, True) for name in config.bases},
        )
    assert words in str(caught.value), caught.value
