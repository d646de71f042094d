"""Others' checkpoints in their published layouts: converted whole, run through the one engine, refused when they lie."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor

import rcodsr
from rcodsr.checkpoints import published as reader
from rcodsr.checkpoints.config import read_config
from rcodsr.checkpoints.export import export
from rcodsr.checkpoints.format import load_model
from rcodsr.checkpoints.load import load_weights
from rcodsr.checkpoints.published import read_published
from rcodsr.checkpoints.resolve import ResolvedWeights
from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import UsageError, WeightsError
from rcodsr.images.picture import Picture
from rcodsr.models.one_step import OneStepSR
from rcodsr.options import Adaptive, Control, Level, UpscaleOptions, WeightsRequest
from rcodsr.parts import TextSpec
from rcodsr.variants import OSEDIFF, PISA_SR, S3DIFF, VariantSpec
from tests import published
from tests.text_base import write_text_encoder

Bases = dict[str, ResolvedWeights]
WRITERS: dict[str, Callable[[VariantSpec], dict[str, Any]]] = {
    "osediff": published.osediff,
    "s3diff": published.s3diff,
    "pisa-sr": published.pisa_sr,
}


@pytest.fixture
def specs(small_sd_spec: VariantSpec, small_s_spec: VariantSpec, monkeypatch: pytest.MonkeyPatch) -> dict[str, VariantSpec]:
    """The three variants over the small base."""
    small = {name: getattr(small_sd_spec, name) for name in ("autoencoder", "unet", "least_side", "tile")}
    found = {}
    for name, spec in (("OSEDIFF", OSEDIFF), ("S3DIFF", S3DIFF), ("PISA_SR", PISA_SR)):
        assert isinstance(spec.prompt, TextSpec)
        spec = replace(spec, prompt=replace(spec.prompt, tokens=12, context=24), **small)
        if spec.modulation is not None:
            spec = replace(spec, lora=small_s_spec.lora, modulation=small_s_spec.modulation)
        monkeypatch.setattr(reader, name, spec)
        found[spec.name] = spec
    return found


@pytest.fixture
def base(bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small base as a directory, its text encoder included."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    directory = bases["sd21-base"].directory
    write_text_encoder(directory, width=24)
    return directory


def _published(name: str, specs: dict[str, VariantSpec], folder: Path, **changes: Any) -> Path:
    path = published.save(folder / f"{name}.pkl", WRITERS[name](specs[name]) | changes)
    if name == "s3diff":
        published.save(folder / "de_net.pth", published.de_net(specs[name]))
    return path


@pytest.fixture(params=WRITERS)
def converted(request: pytest.FixtureRequest, specs: dict[str, VariantSpec], tmp_path: Path) -> Path:
    read_published([_published(request.param, specs, tmp_path)]).write(tmp_path / request.param)
    return tmp_path / str(request.param)


def _run(upscaler: Upscaler, options: UpscaleOptions | None = None) -> Tensor:
    picture = Picture(torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(1)))
    return upscaler.run(picture, options or UpscaleOptions()).picture.rgb


def _load(directory: Path, base: Path, **asked: Any) -> Upscaler:
    return rcodsr.load(str(directory), "cpu", "fp32", base_model=str(base), **asked)


# ---- whole, and running


def test_it_runs_with_one_pass_at_its_own_timestep(converted: Path, base: Path) -> None:
    config = read_config(converted)
    assert sorted(path.name for path in converted.iterdir()) == sorted([*config.files, "README.md"])
    upscaler = _load(converted, base)
    done = upscaler.run(Picture(torch.rand(3, 8, 12)), UpscaleOptions())
    assert (done.timestep, done.unet_passes) == ({"pisa-sr": 1}.get(converted.name, 999), 1)
    assert (done.realism, done.level) == (None, None)
    assert done.picture.rgb.shape == (3, 32, 48)
    calls: list[Tensor] = []
    upscaler.model.unet.register_forward_hook(lambda module, inputs, out: calls.append(inputs[1]))
    _run(upscaler)
    assert [int(t) for t in calls] == [done.timestep]


def test_every_tensor_of_the_file_is_in_the_directory(converted: Path, tmp_path: Path) -> None:
    state = torch.load(tmp_path / f"{converted.name}.pkl", weights_only=True)
    values = [t for part in read_config(converted).parts for t in load_file(converted / f"{part}.safetensors").values()]
    kept = sorted(float(t.double().sum()) for t in values)

    def sums(value: Any) -> list[float]:
        if isinstance(value, Tensor):
            return [float(value.double().sum())]
        return [x for item in value.values() for x in sums(item)] if isinstance(value, dict) else []

    ours = sums(torch.load(tmp_path / "de_net.pth", weights_only=True)) if converted.name == "s3diff" else []
    assert kept == sorted(sums(state) + ours)


@pytest.mark.parametrize("converted", ["osediff", "pisa-sr"], indirect=True)
def test_merged_computes_what_the_layers_compute(converted: Path, base: Path, bases: Bases) -> None:
    layers, merged = (load_model(converted, {"sd21-base": bases["sd21-base"]}, merge=merge) for merge in (False, True))
    x_l = torch.rand(1, 3, 32, 48)
    words = torch.randn(1, 12, 24)
    out = []
    for model in (layers, merged):
        model.prompt.embedding = words
        with torch.no_grad():
            z_l = model.encode(x_l)
            out.append(model.restore(z_l, model.condition(x_l, torch.tensor([model.spec.grouping.k]))))
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert (out[0] - out[1]).abs().max() < 1e-5 * out[0].abs().max()


@pytest.mark.parametrize("converted", ["osediff", "pisa-sr"], indirect=True)
def test_a_merged_export_needs_neither_base_nor_text_encoder(converted: Path, base: Path, tmp_path: Path) -> None:
    request = WeightsRequest(str(converted), base_model=str(base))
    export(request, tmp_path / "merged", merged=True)
    a, b = _run(_load(converted, base)), _run(rcodsr.load(str(tmp_path / "merged"), "cpu", "fp32"))
    assert (a - b).abs().max() < 0.05  # float16
    with pytest.raises(UsageError, match="one fixed timestep"):
        rcodsr.load(str(tmp_path / "merged"), "cpu", "fp32", realism=0.5)


# ---- steering


def test_steering_is_refused_with_a_remedy(converted: Path, base: Path) -> None:
    request = WeightsRequest(str(converted), base_model=str(base), device="cpu", dtype="fp32")
    controls: list[Control] = [Adaptive(), *([Level(0.5)] if converted.name != "pisa-sr" else [])]
    for control in controls:
        with pytest.raises(UsageError, match="one fixed timestep, .*; omit the option, or choose weights with a knob"):
            Upscaler.load(request, UpscaleOptions(control))
    with pytest.raises(UsageError, match="one fixed timestep"):
        _load(converted, base).upscale(Path("photo.png"), realism=0.5)
    if converted.name != "s3diff":
        with pytest.raises(UsageError, match="does not support guidance"):
            _load(converted, base, guidance=1.07)


def test_the_pair_of_pisa_sr(specs: dict[str, VariantSpec], base: Path, tmp_path: Path) -> None:
    read_published([_published("pisa-sr", specs, tmp_path)]).write(tmp_path / "p")
    one = _load(tmp_path / "p", base)
    upscalers = {r: _load(tmp_path / "p", base, realism=r) for r in (0.0, 0.5, 1.0)}
    done = upscalers[0.5].run(Picture(torch.rand(3, 8, 12)), UpscaleOptions(Level(0.5)))
    assert (done.unet_passes, done.realism, done.timestep) == (2, 0.5, 1)
    assert upscalers[0.5].weights_id == one.weights_id + "+semantic=0.5"
    pixels, half, both = (_latent(upscalers[r].model) for r in (0.0, 0.5, 1.0))
    scale = both.abs().max()
    assert (both - _latent(one.model)).abs().max() < 1e-5 * scale
    assert (half - (pixels + both) / 2).abs().max() < 1e-5 * scale
    assert (pixels - both).abs().max() > 1e-3 * scale

    lora = load_file(tmp_path / "p" / "unet_lora.safetensors")  # the pixel half alone, another way
    silenced = {k: torch.zeros_like(v) if k.endswith("_sem.weight") else v for k, v in lora.items()}
    save_file(silenced, tmp_path / "p" / "unet_lora.safetensors")
    assert (pixels - _latent(_load(tmp_path / "p", base).model)).abs().max() < 1e-5 * scale


def test_pisa_sr_takes_the_answer_from_the_latents(specs: dict[str, VariantSpec], base: Path, tmp_path: Path) -> None:
    read_published([_published("pisa-sr", specs, tmp_path)]).write(tmp_path / "p")
    model = _load(tmp_path / "p", base).model
    z_l, t = torch.randn(1, 4, 8, 12), torch.tensor([1])
    with torch.no_grad():
        condition = model.condition(torch.rand(1, 3, 32, 48), t)
        difference = z_l - model.unet(z_l, t, condition.tokens)
        assert (model.restore(z_l, condition) - difference).abs().max() < 1e-5


def _latent(model: OneStepSR) -> Tensor:
    x_l = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        z_l = model.encode(x_l)
        return model.restore(z_l, model.condition(x_l, torch.tensor([model.spec.grouping.k])))


def test_the_guidance_of_s3diff(specs: dict[str, VariantSpec], base: Path, tmp_path: Path) -> None:
    read_published([_published("s3diff", specs, tmp_path)]).write(tmp_path / "s")
    plain, one, guided = (_load(tmp_path / "s", base, **asked) for asked in ({}, {"guidance": 1.0}, {"guidance": 1.5}))
    assert guided.run(Picture(torch.rand(3, 8, 12)), UpscaleOptions()).unet_passes == 2
    assert guided.weights_id == plain.weights_id + "+guidance=1.5"
    spec = specs["s3diff"].prompt
    assert isinstance(spec, TextSpec) and spec.negative is not None
    negative = _load(tmp_path / "s", base, prompt=spec.negative)
    a, b, away = _latent(plain.model), _latent(guided.model), _latent(negative.model)
    assert (_latent(one.model) - a).abs().max() < 1e-4 * a.abs().max()
    assert (b - (away + 1.5 * (a - away))).abs().max() < 1e-4 * a.abs().max()
    assert (b - a).abs().max() > 1e-6


def test_a_prompt_may_be_given_and_is_part_of_the_id(specs: dict[str, VariantSpec], base: Path, tmp_path: Path) -> None:
    read_published([_published("osediff", specs, tmp_path)]).write(tmp_path / "o")
    own, other = _load(tmp_path / "o", base), _load(tmp_path / "o", base, prompt="a cat")
    assert not torch.equal(own.model.prompt.embedding, other.model.prompt.embedding)  # type: ignore[arg-type]
    assert other.weights_id.startswith(own.weights_id + "+prompt=")
    (base / "text_encoder" / "model.safetensors").unlink()  # the embedding is remembered by the files it came from
    with pytest.raises(WeightsError, match="text_encoder"):
        _load(tmp_path / "o", base, prompt="a dog")


def test_a_text_encoder_with_a_missing_key_is_refused(specs: dict[str, VariantSpec], base: Path, tmp_path: Path) -> None:
    read_published([_published("osediff", specs, tmp_path)]).write(tmp_path / "o")
    file = base / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    del tensors[sorted(tensors)[-1]]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="no usable text encoder"):
        _load(tmp_path / "o", base)


# ---- what does not fit is named


def _damaged(state: dict[str, Any], how: str) -> tuple[dict[str, Any], str]:
    tensors = state["state_dict_unet"]
    key = sorted(tensors)[3]
    if how == "missing":
        del tensors[key]
    elif how == "extra":
        key = "surprise.lora_A.default.weight"
        tensors[key] = torch.zeros(2)
    elif how == "misshapen":
        tensors[key] = tensors[key][..., None]
    elif how == "nan":
        tensors[key] = tensors[key] * float("nan")
    elif how == "integers":
        tensors[key] = tensors[key].long()
    elif how == "no table":
        state["state_dict_unet"], key = [1, 2], "state_dict_unet"
    elif how == "table missing":
        key = "state_dict_unet"
        del state[key]
    elif how == "table unexpected":
        key = "optimizer"
        state[key] = {}
    elif how == "modules":
        key = next(name for name in state if "modules" in name and "unet" in name)
        state[key] = state[key][1:]
    elif how == "rank":
        key = next(name for name in state if "rank" in name)
        state[key] = "4"
    return state, key


DAMAGES = [
    *("missing", "extra", "misshapen", "nan", "integers", "modules", "rank"),
    *("no table", "table missing", "table unexpected"),
]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", WRITERS)
def test_what_does_not_fit_is_named(name: str, how: str, specs: dict[str, VariantSpec], tmp_path: Path) -> None:
    state, key = _damaged(WRITERS[name](specs[name]), how)
    path = published.save(tmp_path / f"{name}.pkl", state)
    published.save(tmp_path / "de_net.pth", published.de_net(specs["s3diff"]))
    with pytest.raises(WeightsError) as caught:
        read_published([path])
    told = str(caught.value).replace(".default_all.", ".default.")  # our name of S3Diff's adapter
    assert key in told and str(path) in told, told


def test_the_estimator_is_needed_and_read_strictly(specs: dict[str, VariantSpec], tmp_path: Path) -> None:
    path = published.save(tmp_path / "s3diff.pkl", published.s3diff(specs["s3diff"]))
    with pytest.raises(WeightsError, match=r"also needs its degradation estimator; pass de_net\.pth"):
        read_published([path])
    tensors = published.de_net(specs["s3diff"])
    published.save(tmp_path / "de_net.pth", {"params": tensors})
    assert "degradation_estimator" in read_published([path]).tables
    key = sorted(tensors)[0]
    del tensors[key]
    published.save(tmp_path / "de_net.pth", tensors)
    with pytest.raises(WeightsError, match=f"de_net.pth: keys do not fit: missing {key}"):
        read_published([path])
    other = published.save(tmp_path / "osediff.pkl", published.osediff(specs["osediff"]))
    with pytest.raises(WeightsError, match="not a single checkpoint"):
        read_published([path, other])


def test_the_base_it_was_converted_for_is_compared(specs: dict[str, VariantSpec], base: Path, tmp_path: Path) -> None:
    path = _published("osediff", specs, tmp_path)
    from rcodsr.checkpoints.export import convert as write

    write([path], tmp_path / "o", str(base))
    assert _run(_load(tmp_path / "o", base)).isfinite().all()
    file = base / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_out.bias"] += 1
    save_file(tensors, file)
    with pytest.raises(WeightsError, match="trained on another sd21-base"):
        load_weights(WeightsRequest(str(tmp_path / "o"), base_model=str(base)))
