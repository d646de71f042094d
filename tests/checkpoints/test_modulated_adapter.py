"""RCOD_S on disk: always an adapter, and what S3Diff published as a start."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rcodsr.checkpoints import load
from rcodsr.checkpoints.bases import load_bases
from rcodsr.checkpoints.format import load_model, read_config, save_adapter, save_model
from rcodsr.checkpoints.load import LoadRequest, load_weights
from rcodsr.checkpoints.resolve import ResolvedWeights
from rcodsr.checkpoints.s3diff import warm_start_s3diff
from rcodsr.errors import UsageError, WeightsError
from rcodsr.models.build import build_model
from rcodsr.models.lora import TRAINED_IN_FULL, add_lora, trained_state
from rcodsr.models.one_step import OneStepSR
from rcodsr.variants import VariantSpec

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
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    save_adapter(tmp_path / "s", model, turbo)
    return tmp_path / "s"


def _run(model: OneStepSR, lr: Tensor) -> Tensor:
    x_l = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out: Tensor = model(2 * x_l - 1, model.condition(x_l, torch.tensor([500]), lr))
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
    monkeypatch.setitem(load.VARIANTS, "rcod-s", small_s_spec)
    first, second = (load_weights(LoadRequest("random:rcod-s:3")).model for _ in range(2))
    assert any(".lora_A." in name for name, _ in first.named_parameters())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.isfinite(_run(first, torch.rand(1, 3, 8, 12))).all()


def _published(model: OneStepSR) -> dict[str, Any]:
    """Tensors with values that matter under S3Diff's names."""

    def fresh(tensors: dict[str, Tensor], old: str = "", new: str = "") -> dict[str, Tensor]:
        return {key.replace(old, new): torch.randn_like(value) for key, value in tensors.items()}

    steering = model.get_submodule("modulator.steering")
    state: dict[str, Any] = {
        "rank_unet": 6,
        "rank_vae": 4,
        "unet_lora_target_modules": ["to_q"],
        "vae_lora_target_modules": "encoder.*",
        "state_dict_unet": fresh(trained_state(model.unet, TRAINED_IN_FULL), ".default_all.", ".default."),
        "state_dict_vae": fresh(trained_state(model.autoencoder), ".default_encoder.", ".vae_skip."),
        "w": torch.nn.Parameter(torch.randn(4), requires_grad=False),
        "state_embeddings": {},
    }
    for network in ("vae", "unet"):
        for kind in ("de", "block", "fuse"):
            module = steering.get_submodule(f"{network}.{kind}_mlp")
            state[f"state_dict_{network}_{kind}_mlp"] = fresh(module.state_dict())
        embedding = steering.get_submodule(f"{network}.block_embeddings")
        state["state_embeddings"][f"state_dict_{network}_block"] = fresh(embedding.state_dict())
    return state


def test_a_warm_start_takes_every_tensor(small_s_model: OneStepSR) -> None:
    state = _published(small_s_model)
    assert {"conv_in.weight", "conv_out.lora_A.default.weight"} <= state["state_dict_unet"].keys()
    assert "encoder.conv_in.lora_B.vae_skip.weight" in state["state_dict_vae"]
    assert state["state_dict_unet_fuse_mlp"]["weight"].shape == (36, 16 + 8)
    vpim = small_s_model.prompt.get_submodule("linear").weight.clone()  # type: ignore[operator]
    before = {name: p.detach().clone() for name, p in small_s_model.named_parameters() if p.requires_grad}
    warm_start_s3diff(small_s_model, state)
    after = dict(small_s_model.named_parameters())
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert same == {"prompt.linear.weight", "prompt.linear.bias"}
    assert torch.equal(small_s_model.prompt.get_submodule("linear").weight, vpim)  # type: ignore[arg-type]
    assert torch.equal(small_s_model.get_submodule("modulator.steering").w, state["w"])  # type: ignore[arg-type]
    b = "unet.conv_out.lora_B.default_all.weight"
    assert torch.equal(after[b], state["state_dict_unet"]["conv_out.lora_B.default.weight"])


def test_a_warm_start_is_strict(small_s_model: OneStepSR, small_sd_model: OneStepSR) -> None:
    state = _published(small_s_model)
    before = {name: p.detach().clone() for name, p in small_s_model.named_parameters()}
    with pytest.raises(WeightsError, match=r"not S3Diff's weights \('w'\)"):
        warm_start_s3diff(small_s_model, {key: value for key, value in state.items() if key != "w"})
    del state["state_dict_unet"]["conv_in.bias"]
    with pytest.raises(WeightsError, match=r"missing conv_in\.bias"):
        warm_start_s3diff(small_s_model, state)
    assert all(torch.equal(p, before[name]) for name, p in small_s_model.named_parameters())
    with pytest.raises(UsageError, match="use rcod-s"):
        warm_start_s3diff(small_sd_model, state)
