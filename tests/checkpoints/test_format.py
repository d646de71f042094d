import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rcodsr.checkpoints.config import read_config
from rcodsr.checkpoints.format import load_model, save_model
from rcodsr.errors import UsageError, WeightsError
from rcodsr.models.one_step import OneStepSR
from rcodsr.parts import GroupingSpec
from rcodsr.variants import RCOD_TINY, VariantSpec


def test_round_trip_is_bit_identical(small_checkpoint: Path, tmp_path: Path) -> None:
    first = load_model(small_checkpoint)
    save_model(tmp_path / "again", first)
    second = load_model(tmp_path / "again")
    for (name, a), (_, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    for file in small_checkpoint.glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_loaded_weights_are_the_saved_ones_in_half_precision(small_model: OneStepSR, small_checkpoint: Path) -> None:
    loaded = load_model(small_checkpoint)
    assert not loaded.training
    for (name, saved), (_, value) in zip(small_model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, saved.half().float()), name


def test_spec_round_trip(small_checkpoint: Path, small_spec: VariantSpec) -> None:
    assert read_config(small_checkpoint).spec == small_spec
    assert VariantSpec.from_dict(json.loads(json.dumps(RCOD_TINY.to_dict()))) == RCOD_TINY


def test_spec_refuses_unknown_keys() -> None:
    with pytest.raises(UsageError, match="colour: unknown name"):
        GroupingSpec.from_dict({"n": 3, "colour": 1})


@pytest.mark.parametrize("values", [{"n": 0}, {"k": 0}, {"n": 6}, {"metric_min": 1.0}])
def test_impossible_groupings_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        GroupingSpec(**values)  # type: ignore[arg-type]


def _damage(directory: Path, how: str) -> None:
    unet = directory / "unet.safetensors"
    tensors = load_file(unet)
    if how == "cut short":
        unet.write_bytes(unet.read_bytes()[:-100])
    elif how == "not safetensors":
        unet.write_bytes(b"<html>404</html>")
    elif how == "missing file":
        unet.unlink()
    elif how == "missing key":
        tensors.pop("conv_in.weight")
    elif how == "extra key":
        tensors["surprise"] = torch.zeros(1)
    elif how == "wrong shape":
        tensors["conv_in.bias"] = torch.zeros(3)
    elif how == "nan":
        tensors["conv_in.bias"] = tensors["conv_in.bias"] * float("nan")
    elif how == "config is not JSON":
        (directory / "config.json").write_text("{")
    elif how == "config has another format":
        (directory / "config.json").write_text('{"format_version": 99}')
    elif how == "config has unknown keys":
        config = json.loads((directory / "config.json").read_text())
        config["variant"]["surprise"] = 1
        (directory / "config.json").write_text(json.dumps(config))
    elif how == "config describes nonsense":
        config = json.loads((directory / "config.json").read_text())
        config["variant"]["unet"]["channels"] = ["wide", 12]
        (directory / "config.json").write_text(json.dumps(config))
    elif how == "no config":
        (directory / "config.json").unlink()
    if how in {"missing key", "extra key", "wrong shape", "nan"}:
        save_file(tensors, unet)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut short", "unet.safetensors: damaged"),
        ("not safetensors", "unet.safetensors: damaged"),
        ("missing file", "unet.safetensors: missing"),
        ("missing key", "missing conv_in.weight"),
        ("extra key", "unexpected surprise"),
        ("wrong shape", r"conv_in.bias has shape \(3,\), expected \(8,\)"),
        ("nan", "conv_in.bias holds NaN"),
        ("config is not JSON", "config.json: damaged"),
        ("config has another format", "format 99"),
        ("config has unknown keys", "surprise"),
        ("config describes nonsense", "config.json: "),
        ("no config", "not a checkpoint directory"),
    ],
)
def test_damaged_checkpoints_are_named_and_refused(small_checkpoint: Path, how: str, message: str) -> None:
    _damage(small_checkpoint, how)
    with pytest.raises(WeightsError, match=message):
        load_model(small_checkpoint)
