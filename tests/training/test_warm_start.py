"""A run that starts from weights trained by others."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rcodsr.checkpoints import published as reader
from rcodsr.checkpoints.published import read_published
from rcodsr.errors import UsageError, WeightsError
from rcodsr.parts import TextSpec
from rcodsr.training.recipe import Phase, Recipe
from rcodsr.training.setup import build_networks
from rcodsr.variants import OSEDIFF, S3DIFF, VariantSpec
from tests import published


@pytest.fixture
def recipe(small_s_spec: VariantSpec, tmp_path: Path) -> Recipe:
    phase = Phase("RCOD_S", 3, 2, 64, (1e-3, 1e-3), pixel="mse")
    return Recipe(photos=tmp_path, variant=small_s_spec, output=tmp_path / "run", base_model="random:3", phases=(phase,))


@pytest.fixture
def s3diff(small_s_spec: VariantSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published S3Diff, converted."""
    text = TextSpec(tokens=12, context=24, text="a")
    spec = replace(small_s_spec, name="s3diff", grouping=S3DIFF.grouping, prompt=text, vision=None)
    monkeypatch.setattr(reader, "S3DIFF", spec)
    published.save(tmp_path / "s3diff.pkl", published.s3diff(spec))
    published.save(tmp_path / "de_net.pth", published.de_net(spec))
    read_published([tmp_path / "s3diff.pkl"]).write(tmp_path / "s3diff")
    return tmp_path / "s3diff"


def test_a_run_begins_with_every_tensor_of_s3diff_and_its_own_vpim(recipe: Recipe, s3diff: Path) -> None:
    lines: list[str] = []
    cold = build_networks(recipe, recipe.variant, {}, lines.append)
    warm = build_networks(replace(recipe, warm_start=str(s3diff)), recipe.variant, {}, lines.append)
    assert lines[-1].startswith("warm start: LoRA of s3diff@")
    before, after = dict(cold.named_parameters()), dict(warm.named_parameters())
    trained = {name for name, parameter in after.items() if parameter.requires_grad}
    assert trained == {name for name, parameter in before.items() if parameter.requires_grad}
    same = {name for name in trained if torch.equal(before[name], after[name])}
    assert same == {"prompt.linear.weight", "prompt.linear.bias"}
    kept = {part: load_file(s3diff / f"{part}.safetensors") for part in ("unet_lora", "vae_lora", "modulation")}
    for name, value in kept["unet_lora"].items():
        assert torch.equal(warm.unet.state_dict()[name], value)
    for name, value in kept["vae_lora"].items():
        assert torch.equal(warm.autoencoder.state_dict()[name], value)
    for name, value in kept["modulation"].items():
        assert torch.equal(warm.get_submodule("modulator.steering").state_dict()[name], value)
    estimator = warm.get_submodule("modulator.estimator")
    stored = load_file(s3diff / "degradation_estimator.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in estimator.state_dict().items())
    assert not any(parameter.requires_grad for parameter in estimator.parameters())


def test_what_does_not_suit_is_refused(recipe: Recipe, s3diff: Path, small_sd_spec: VariantSpec, tmp_path: Path) -> None:
    other = replace(recipe, variant=small_sd_spec, warm_start=str(s3diff))
    with pytest.raises(UsageError, match="has no LoRA that fits small-sd; use s3diff for rcod-s"):
        build_networks(other, small_sd_spec, {}, lambda line: None)
    with pytest.raises(WeightsError, match="run `rcodsr weights convert"):
        build_networks(replace(recipe, warm_start=str(tmp_path / "s3diff.pkl")), recipe.variant, {}, lambda line: None)


def test_osediff_warms_rcod_o(
    recipe: Recipe, small_sd_spec: VariantSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TextSpec(tokens=12, context=24, text="a")
    spec = replace(small_sd_spec, name="osediff", grouping=OSEDIFF.grouping, prompt=text, vision=None)
    monkeypatch.setattr(reader, "OSEDIFF", spec)
    published.save(tmp_path / "osediff.pkl", published.osediff(spec))
    read_published([tmp_path / "osediff.pkl"]).write(tmp_path / "o")
    o_recipe = replace(recipe, variant=small_sd_spec, warm_start=str(tmp_path / "o"))
    warm = build_networks(o_recipe, small_sd_spec, {}, lambda line: None)
    stored = load_file(tmp_path / "o" / "unet_lora.safetensors")
    assert all(torch.equal(warm.unet.state_dict()[name], value) for name, value in stored.items())
