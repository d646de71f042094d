"""Adapters and merged weights in peft's and diffusers' files, loaded by peft and diffusers themselves, and read back."""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rcodsr.checkpoints.bases import load_bases
from rcodsr.checkpoints.export import convert, export
from rcodsr.checkpoints.format import load_model, save_adapter, save_model
from rcodsr.checkpoints.resolve import ResolvedWeights
from rcodsr.errors import UsageError, WeightsError
from rcodsr.models.build import build_model
from rcodsr.models.lora import add_lora
from rcodsr.models.one_step import OneStepSR
from rcodsr.models.stable_diffusion import kl_autoencoder, sd_unet
from rcodsr.options import WeightsRequest
from rcodsr.parts import KlSpec, LoraSpec, SdUNetSpec, TextSpec
from rcodsr.variants import VariantSpec
from tests.conftest import RunCli, shake
from tests.hub_client import contents

Bases = dict[str, ResolvedWeights]
LORA_FORMATS = ["peft", "diffusers"]
FORMATS = [*LORA_FORMATS, "merged-diffusers"]


def write_base_configs(spec: VariantSpec, base: Path) -> None:
    """What `from_pretrained` of diffusers wants beside a base's weights."""
    assert isinstance(spec.unet, SdUNetSpec) and isinstance(spec.autoencoder, KlSpec)
    with torch.device("meta"):
        unet = sd_unet(spec.unet, spec.autoencoder.channels, spec.prompt.context)
        configs = {"unet": unet.to_json_string(), "vae": kl_autoencoder(spec.autoencoder).to_json_string()}
    for name, text in configs.items():
        (base / name / "config.json").write_text(text.replace('"SdUNet"', '"UNet2DConditionModel"'))


def lines_of(readme: Path) -> str:
    """The Python lines of a README."""
    (lines,) = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    return lines


def loaded_by_others(directory: Path, base: Path) -> dict[str, Any]:
    """The networks as the README's lines load them."""
    names: dict[str, Any] = {"here": str(directory), "base": str(base)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # of a second adapter, which is what is meant
        exec(lines_of(directory / "README.md"), names)
    return names


def differences(ours: OneStepSR, theirs: dict[str, Any], side: int = 32) -> list[float]:
    """Largest differences of the U-Net's outputs and of the encoder's, of what is largest in ours where that is above 1."""
    draw = torch.Generator().manual_seed(3)
    z, x = torch.randn(1, 4, side, side, generator=draw), torch.rand(1, 3, 2 * side, 2 * side, generator=draw)
    tokens, t = torch.randn(1, 5, ours.spec.prompt.context, generator=draw), torch.tensor([500])
    with torch.no_grad():
        pairs = [(ours.unet(z, t, tokens), theirs["unet"](z, t, tokens).sample)]
        if "vae" in theirs:
            latents = theirs["vae"].encode(2 * x - 1).latent_dist.mode() * theirs["vae"].config.scaling_factor
            pairs.append((ours.encode(x), latents))
    return [(mine - other).abs().max().item() / max(1.0, mine.abs().max().item()) for mine, other in pairs]


@pytest.fixture
def local_bases(small_sd_spec: VariantSpec, bases: Bases, monkeypatch: pytest.MonkeyPatch) -> Bases:
    """The bases of `adapter_checkpoint`, where its names lead to, and with what diffusers wants beside them."""
    write_base_configs(small_sd_spec, bases["sd21-base"].directory)
    monkeypatch.setattr("rcodsr.checkpoints.load.resolve_base", lambda name, *_: bases[name])
    return bases


@pytest.fixture
def pair(small_sd_spec: VariantSpec, local_bases: Bases, tmp_path: Path) -> Path:
    """PiSA-SR's kind of adapter: two halves on the same modules, a text prompt, nothing trained in full."""
    lora, prompt = LoraSpec(unet_rank=3, vae_rank=0, placement="pisa-sr"), TextSpec(tokens=5, context=24, text="")
    spec = replace(small_sd_spec, lora=lora, prompt=prompt, vision=None, noise_head="difference")
    model = build_model(spec)
    only = {"sd21-base": local_bases["sd21-base"]}
    load_bases(model, only)
    add_lora(model, lora)
    shake(model.parameters(), by=0.05)
    save_adapter(tmp_path / "pair", model, only)
    return tmp_path / "pair"


def _tensors(directory: Path) -> dict[str, dict[str, Tensor]]:
    return {path.name: load_file(path) for path in directory.glob("*.safetensors")}


@pytest.mark.parametrize("format", LORA_FORMATS)
@pytest.mark.parametrize("kind", ["adapter_checkpoint", "pair"])
def test_an_adapter_loaded_by_others(
    format: str, kind: str, local_bases: Bases, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source: Path = request.getfixturevalue(kind)
    told: list[str] = []
    export(WeightsRequest(str(source)), tmp_path / "out", log=told.append, format=format)
    theirs = loaded_by_others(tmp_path / "out", local_bases["sd21-base"].directory)
    ours = load_model(source, local_bases)
    base = build_model(ours.spec)
    load_bases(base, {name: local_bases[name] for name in (ours.spec.base, ours.spec.vision) if name})
    assert max(differences(ours, theirs)) <= 1e-5
    assert min(differences(base, theirs)) > 1e-3  # it is not the base that agrees
    if kind == "adapter_checkpoint":
        assert told == [
            f"{tmp_path / 'out'}: conv_in.safetensors, vpim.safetensors beside the LoRA, for weights that {format} cannot store"
        ]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["adapter_checkpoint", "pair"])
def test_back_into_ours(
    format: str, kind: str, local_bases: Bases, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    source: Path = request.getfixturevalue(kind)
    monkeypatch.setattr(
        "rcodsr.checkpoints.text_encoder.prompt_embedding",
        lambda *_: torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(1)),
    )
    export(WeightsRequest(str(source)), tmp_path / "out", format=format)
    convert([tmp_path / "out"], tmp_path / "back", None)
    expected = source
    if format == "merged-diffusers":
        expected = tmp_path / "merged"
        export(WeightsRequest(str(source)), expected, merged=True)
    ours, back = contents(expected), contents(tmp_path / "back")
    for files in (ours, back):
        files.pop("README.md", None)
    assert back == ours  # every byte of every file, config.json included


def test_one_step_with_diffusers_alone(adapter_checkpoint: Path, local_bases: Bases, tmp_path: Path) -> None:
    export(WeightsRequest(str(adapter_checkpoint)), tmp_path / "merged", merged=True)
    export(WeightsRequest(str(adapter_checkpoint)), tmp_path / "out", format="merged-diffusers")
    ours = load_model(tmp_path / "merged")
    x = torch.rand(1, 3, 64, 96)
    for t in ours.spec.grouping.timesteps:
        names = {"here": str(tmp_path / "out"), "x": x, "t": t}
        with torch.no_grad():
            exec(lines_of(tmp_path / "out" / "README.md"), names)
            expected = ours(x, ours.condition(x, torch.tensor([t])))
        assert (names["y"] - expected).abs().max() <= 1e-5


# ---- what does not fit


def _changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def _cut(path: Path) -> None:
    tensors = load_file(path)
    save_file({key: value[:2].contiguous() if ".lora_A." in key else value for key, value in tensors.items()}, path)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("base", "unet/adapter_config.json: an adapter of stabilityai/sd-turbo, another base"),
        ("rank", "unet/adapter_config.json: r is 16, but rcodsr.json has 4"),
        ("cut", r"lora_A.weight has shape \(2, "),
        ("dora", "use_dora = True: not a plain LoRA"),
        ("missing", "vae/adapter_model.safetensors: missing"),
        ("other keys", "keys do not fit"),
        ("no description", "no rcodsr.json"),
    ],
)
def test_what_does_not_fit(how: str, words: str, adapter_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(WeightsRequest(str(adapter_checkpoint)), out, format="peft")
    config, weights = out / "unet" / "adapter_config.json", out / "unet" / "adapter_model.safetensors"
    changes: dict[str, Callable[[], object]] = {
        "base": lambda: _changed(config, lambda v: v.update(base_model_name_or_path="stabilityai/sd-turbo")),
        "rank": lambda: _changed(config, lambda v: v.update(r=16)),
        "cut": lambda: _cut(weights),
        "dora": lambda: _changed(config, lambda v: v.update(use_dora=True)),
        "missing": lambda: (out / "vae" / "adapter_model.safetensors").unlink(),
        "other keys": lambda: shutil.copyfile(out / "vae" / "adapter_model.safetensors", weights),
        "no description": lambda: (out / "rcodsr.json").unlink(),
    }
    changes[how]()
    with pytest.raises(WeightsError, match=words):
        convert([out], tmp_path / "back", None)
    assert not list(tmp_path.glob("*back*"))


def test_the_command_names_the_file(adapter_checkpoint: Path, run_cli: RunCli, tmp_path: Path) -> None:
    exported = run_cli("weights", "export", adapter_checkpoint, "--format", "diffusers", "-o", "out")
    assert (exported.returncode, exported.stdout) == (0, "out\n"), exported.stderr
    assert "conv_in.safetensors, vpim.safetensors beside the LoRA" in exported.stderr
    convert([tmp_path / "out"], tmp_path / "back", None)
    _cut(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    done = run_cli("weights", "convert", "out", "-o", "back", "-y")
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (3, "") and line.startswith("rcodsr: out/pytorch_lora_weights.safetensors: "), line
    assert (tmp_path / "back" / "unet_lora.safetensors").is_file()


def test_a_file_of_diffusers_says_its_rank(adapter_checkpoint: Path, tmp_path: Path) -> None:
    export(WeightsRequest(str(adapter_checkpoint)), tmp_path / "out", format="diffusers")
    file = tmp_path / "out" / "pytorch_lora_weights.safetensors"
    save_file(load_file(file), file)  # without its header
    with pytest.raises(WeightsError, match="not a LoRA"):
        convert([tmp_path / "out"], tmp_path / "back", None)


@pytest.mark.parametrize("format", FORMATS)
def test_what_a_format_cannot_hold(
    format: str, small_s_model: OneStepSR, small_checkpoint: Path, small_sd_model: OneStepSR, tmp_path: Path
) -> None:
    bases = {name: ResolvedWeights(name, tmp_path, {}, "test") for name in ("sd-turbo", "clip-vit-l14")}
    save_adapter(tmp_path / "s", small_s_model, bases)
    with pytest.raises(UsageError, match=f"its LoRA follows each picture's degradation, which {format} cannot store"):
        export(WeightsRequest(str(tmp_path / "s")), tmp_path / "out", format=format)
    with pytest.raises(UsageError, match="does not use Stable Diffusion's networks"):
        export(WeightsRequest(str(small_checkpoint)), tmp_path / "out", format=format)
    if format in LORA_FORMATS:
        save_model(tmp_path / "merged", small_sd_model)
        with pytest.raises(UsageError, match="merged weights have no LoRA"):
            export(WeightsRequest(str(tmp_path / "merged")), tmp_path / "out", format=format)
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "random:rcod-o", "--format", "peft", "-o", "out"), "random weights have no files to copy"),
        (("export", "rcod-tiny", "--format", "gguf", "-o", "out"), "--format: 'gguf' is not known; use rcodsr, peft"),
        (("export", "random:rcod-s", "--format", "merged-diffusers", "-o", "out"), "its LoRA follows each picture"),
        (
            (
                "convert",
                ".",
            ),
            "needs an output directory; use -o DIRECTORY",
        ),
    ],
)
def test_refusals(arguments: tuple[str, ...], words: str, run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("weights", *arguments)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and words in line, line
    assert not list(tmp_path.iterdir())
