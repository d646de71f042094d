"""RCOD_S on disk: always an adapter."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rcodsr.checkpoints.bases import load_bases
from rcodsr.checkpoints.config import read_config
from rcodsr.checkpoints.format import load_model, save_adapter, save_model
from rcodsr.checkpoints.load import load_weights
from rcodsr.checkpoints.resolve import ResolvedWeights
from rcodsr.errors import UsageError, WeightsError
from rcodsr.models.build import build_model
from rcodsr.models.lora import add_lora
from rcodsr.models.one_step import OneStepSR
from rcodsr.options import WeightsRequest
from rcodsr.variants import VARIANTS, VariantSpec
from tests.conftest import shake

Bases = dict[str, ResolvedWeights]


@pytest.fixture
def turbo(bases: Bases) -> Bases:
    """The same small base under the other variant's name."""
    return {"sd-turbo": bases["sd21-base"], "clip-vit-l14": bases["clip-vit-l14"]}


@pytest.fixture
def checkpoint(small_s_spec: VariantSpec, turbo: Bases, tmp_path: Path) -> Path:
    model = build_model(small_s_spec)
    load_bases(model, turbo)
    assert small_s_spec.lora is not None
    add_lora(model, small_s_spec.lora)
    shake(model.parameters(), by=0.05)
    save_adapter(tmp_path / "s", model, turbo)
    return tmp_path / "s"


def _run(model: OneStepSR, lr: Tensor) -> Tensor:
    x_l = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out: Tensor = model(x_l, model.condition(x_l, torch.tensor([500]), lr))
    return out


def test_the_round_trip_is_bit_identical(checkpoint: Path, turbo: Bases, tmp_path: Path) -> None:
    save_adapter(tmp_path / "again", load_model(checkpoint, turbo), turbo)
    files = sorted(path.name for path in checkpoint.iterdir())
    small = ["modulation.safetensors", "unet_lora.safetensors", "vae_lora.safetensors", "vpim.safetensors"]
    assert files == ["config.json", "degradation_estimator.safetensors", *small]
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (checkpoint / name).read_bytes(), name
    assert read_config(checkpoint).spec.modulation is not None
    assert {"conv_in.weight", "conv_in.bias"} <= load_file(checkpoint / "unet_lora.safetensors").keys()


def test_loaded_lora_stays_and_follows_the_picture(checkpoint: Path, turbo: Bases) -> None:
    model = load_model(checkpoint, turbo)
    assert any(".lora_A." in name for name, _ in model.named_parameters())
    assert not any(p.requires_grad for p in model.parameters())
    dark, light = (_run(model, torch.full((1, 3, 8, 12), value)) for value in (0.0, 1.0))
    assert (dark - light).abs().max() > 1e-5


def test_merging_is_refused_with_the_reason(checkpoint: Path, turbo: Bases, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its LoRA depends on the picture's degradation; keep it as an adapter"):
        load_model(checkpoint, turbo, merge=True)
    with pytest.raises(UsageError, match="cannot be merged"):
        save_model(tmp_path / "merged", load_model(checkpoint, turbo))
    assert not (tmp_path / "merged").exists()
    config = checkpoint / "config.json"
    config.write_text(config.read_text().replace('"adapter"', '"merged"'))
    with pytest.raises(WeightsError, match="cannot be merged: its LoRA depends"):
        load_model(checkpoint, turbo)


@pytest.mark.parametrize("file", ["modulation.safetensors", "degradation_estimator.safetensors"])
def test_its_files_are_read_strictly(checkpoint: Path, turbo: Bases, file: str) -> None:
    tensors = load_file(checkpoint / file)
    key = sorted(tensors)[0]
    del tensors[key]
    save_file(tensors, checkpoint / file)
    with pytest.raises(WeightsError, match=f"missing {key}"):
        load_model(checkpoint, turbo)


def test_random_weights_keep_their_lora(small_s_spec: VariantSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "rcod-s", small_s_spec)
    first, second = (load_weights(WeightsRequest("random:rcod-s:3")).model for _ in range(2))
    assert any(".lora_A." in name for name, _ in first.named_parameters())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.isfinite(_run(first, torch.rand(1, 3, 8, 12))).all()
