"""The adapter layout: LoRA over a base, and the published files of bases."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rcodsr.checkpoints.bases import load_bases
from rcodsr.checkpoints.config import read_config
from rcodsr.checkpoints.format import load_model, save_adapter, save_model
from rcodsr.checkpoints.resolve import ResolvedWeights, resolve_base
from rcodsr.errors import WeightsError
from rcodsr.models.build import build_model
from rcodsr.models.one_step import OneStepSR
from rcodsr.variants import RCOD_O, VariantSpec

Bases = dict[str, ResolvedWeights]


def _run(model: OneStepSR, t: int = 500) -> Tensor:
    x_l = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out: Tensor = model(x_l, model.condition(x_l, torch.tensor([t])))
    return out


def test_the_spec_survives_json() -> None:
    assert VariantSpec.from_dict(json.loads(json.dumps(RCOD_O.to_dict()))) == RCOD_O


def test_merged_lora_computes_what_its_layers_compute(adapter_checkpoint: Path, bases: Bases) -> None:
    layers = load_model(adapter_checkpoint, bases, merge=False)
    merged = load_model(adapter_checkpoint, bases)
    assert any(".lora_A." in name for name, _ in layers.named_parameters())
    assert not any("lora" in name or "base_layer" in name for name, _ in merged.named_parameters())
    a, b = _run(layers), _run(merged)
    assert (a - b).abs().max() < 1e-5 * a.abs().max()


def test_lora_and_conv_in_change_the_picture(adapter_checkpoint: Path, bases: Bases, small_sd_spec: VariantSpec) -> None:
    base = build_model(small_sd_spec).eval()
    load_bases(base, bases)
    changed = load_model(adapter_checkpoint, bases)
    assert not torch.equal(base.unet.get_parameter("conv_in.bias"), changed.unet.get_parameter("conv_in.bias"))
    assert (_run(base) - _run(changed)).abs().max() > 1e-3


def test_adapter_round_trip_is_bit_identical(adapter_checkpoint: Path, bases: Bases, tmp_path: Path) -> None:
    save_adapter(tmp_path / "again", load_model(adapter_checkpoint, bases, merge=False), bases)
    files = sorted(path.name for path in adapter_checkpoint.iterdir())
    assert files == ["config.json", "unet_lora.safetensors", "vae_lora.safetensors", "vpim.safetensors"]
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (adapter_checkpoint / name).read_bytes(), name


def test_a_merged_export_needs_no_base(adapter_checkpoint: Path, bases: Bases, tmp_path: Path) -> None:
    merged = load_model(adapter_checkpoint, bases)
    save_model(tmp_path / "merged", merged)
    again = load_model(tmp_path / "merged")
    assert read_config(tmp_path / "merged").layout == "merged"
    assert (_run(merged) - _run(again)).abs().max() < 0.01  # stored as float16


def test_an_adapter_refuses_another_base(adapter_checkpoint: Path, bases: Bases) -> None:
    file = bases["sd21-base"].directory / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_out.bias"] += 1
    save_file(tensors, file)
    other = {**bases, "sd21-base": resolve_base("sd21-base", str(bases["sd21-base"].directory))}
    with pytest.raises(
        WeightsError, match="trained on another sd21-base: unet/diffusion_pytorch_model.safetensors should have"
    ):
        load_model(adapter_checkpoint, other)


def test_a_base_that_does_not_predict_noise_is_refused(small_sd_model: OneStepSR, bases: Bases) -> None:
    """SD 2.1 has the shapes of SD 2.1-base; used in its place it gives mush."""
    config = bases["sd21-base"].directory / "scheduler/scheduler_config.json"
    config.write_text('{"prediction_type": "v_prediction"}')
    with pytest.raises(WeightsError, match="predicts v_prediction, not noise; use SD 2.1-base"):
        load_bases(small_sd_model, bases)


@pytest.mark.parametrize("file", ["unet_lora.safetensors", "vae_lora.safetensors", "vpim.safetensors"])
@pytest.mark.parametrize("how", ["missing", "extra", "shape", "nan"])
def test_adapter_files_are_read_strictly(adapter_checkpoint: Path, bases: Bases, file: str, how: str) -> None:
    tensors = load_file(adapter_checkpoint / file)
    key = sorted(tensors)[-1]
    value = tensors.pop(key)
    if how != "missing":
        tensors |= {
            "extra": {key: value, "surprise": torch.zeros(1)},
            "shape": {key: torch.zeros(*value.shape, 2)},
            "nan": {key: value * float("nan")},
        }[how]
    save_file(tensors, adapter_checkpoint / file)
    name = "surprise" if how == "extra" else key
    with pytest.raises(WeightsError, match=name.replace(".", r"\.")):
        load_model(adapter_checkpoint, bases)


def test_extra_keys_of_a_base_are_refused(small_sd_model: OneStepSR, bases: Bases) -> None:
    file = bases["sd21-base"].directory / "unet/diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "surprise": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match="unexpected surprise"):
        load_bases(small_sd_model, bases)


def test_weights_too_large_for_half_precision_are_not_saved(small_sd_model: OneStepSR, tmp_path: Path) -> None:
    small_sd_model.unet.get_parameter("conv_in.bias")[0] = 1e6
    with pytest.raises(WeightsError, match=r"conv_in.bias: not finite as torch.float16"):
        save_model(tmp_path / "model", small_sd_model)
    assert not (tmp_path / "model").exists()
