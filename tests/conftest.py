"""Fixtures: seeded randomness, real photos, tiny real models, and the command line as a subprocess."""

import os

# one thread, here and in subprocesses: the models of the tests are small, and a busy machine punishes idle threads
os.environ.setdefault("OMP_NUM_THREADS", "1")
# the fast weights, here and in subprocesses, unless a test asks for `packaged_default`; a developer's settings do not matter
for name in [name for name in os.environ if name.startswith("RCODSR_")]:
    del os.environ[name]
os.environ["RCODSR_WEIGHTS"] = "rcod-tiny"

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

import rcodsr
from rcodsr.checkpoints.bases import load_bases
from rcodsr.checkpoints.format import save_adapter, save_model
from rcodsr.checkpoints.resolve import ResolvedWeights, resolve_base
from rcodsr.engine.runtime import choose_runtime
from rcodsr.engine.upscaler import Upscaler
from rcodsr.models.build import build_model
from rcodsr.models.lora import add_lora
from rcodsr.models.lpips import LpipsSqueeze
from rcodsr.models.one_step import OneStepSR
from rcodsr.parts import ClipSpec, KlSpec, LoraSpec, ModulationSpec, SdUNetSpec, TinyUNetSpec, TowerSpec, WaveletSpec
from rcodsr.variants import VariantSpec


def shake(parameters: Iterable[nn.Parameter], by: float) -> None:
    """Give what is trained values that matter: LoRA alone starts without effect."""
    with torch.no_grad():
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=by)


RunCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 means it on a GPU too, whose convolutions keep 10 bits of their input by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A public-domain photo, 512×512."""
    return Image.fromarray(skimage.data.astronaut())


@pytest.fixture(scope="session")
def photo_tensor(photo: Image.Image) -> Tensor:
    """The photo as (3, 512, 512) in [0, 1]."""
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255


@pytest.fixture
def desk(photo: Image.Image, tmp_path: Path) -> Path:
    """A directory with the files that README and manual talk about."""
    for name in ("in.png", "photo.jpg", "dir/a.png", "dir/b.jpg", "photos/1.png", "photos/2.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        photo.resize((160, 160) if "photos" in name else (24, 20)).save(path)
    Image.linear_gradient("L").resize((24, 20)).save(tmp_path / "mask.png")
    (tmp_path / "list.txt").write_text("in.png\nphoto.jpg\n")
    (tmp_path / "lpips_squeeze.safetensors").write_bytes(save(LpipsSqueeze().state_dict()))
    shutil.copytree(Path(__file__).parents[1] / "recipes", tmp_path / "recipes")
    return tmp_path


@pytest.fixture
def small_spec() -> VariantSpec:
    return VariantSpec(
        name="small",
        autoencoder=WaveletSpec(refine_channels=4),
        unet=TinyUNetSpec(channels=(8, 12), blocks=(1, 2), embedding=16, heads=2, grain=True),
        prompt=TowerSpec(image_side=16, tower_channels=(4, 8), context=12),
    )


@pytest.fixture
def small_model(small_spec: VariantSpec) -> OneStepSR:
    """A real model with random weights in every layer, the zero-initialised ones included."""
    model = build_model(small_spec)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.02)
    return model.eval().requires_grad_(False)


@pytest.fixture
def small_sd_spec() -> VariantSpec:
    """Every kind of layer of the paper's variant, at a thousandth of its size."""
    return VariantSpec(
        name="small-sd",
        autoencoder=KlSpec(widths=(16, 16, 32), blocks=1, norm_groups=8),
        unet=SdUNetSpec(channels=(32, 64), blocks=1, heads=(2, 4), norm_groups=8),
        prompt=ClipSpec(image_side=28, width=32, layers=2, heads=2, context=24),
        lora=LoraSpec(),
        base="sd21-base",
        vision="clip-vit-l14",
        noise_head="plain",
        color_fix="adain",
        limit_overshoot=False,
        least_side=32,
        tile=32,
    )


@pytest.fixture
def small_s_spec(small_sd_spec: VariantSpec) -> VariantSpec:
    """RCOD_S in small: LoRA that follows the picture's degradation."""
    return replace(
        small_sd_spec,
        name="small-s",
        lora=LoraSpec(unet_rank=6, vae_rank=4, placement="s3diff"),
        modulation=ModulationSpec(4, 8, estimator_channels=(8, 12), estimator_blocks=(2, 1), estimator_hidden=8),
        base="sd-turbo",
        color_fix="wavelet",
    )


@pytest.fixture
def small_s_model(small_s_spec: VariantSpec) -> OneStepSR:
    """RCOD_S in small with random weights, LoRA and modulation with values that matter."""
    model = build_model(small_s_spec).eval()
    assert small_s_spec.lora is not None
    add_lora(model, small_s_spec.lora)
    shake(model.parameters(), by=0.1)
    return model


@pytest.fixture
def small_sd_model(small_sd_spec: VariantSpec) -> OneStepSR:
    """A base of the paper's kind with random weights, without LoRA."""
    return build_model(small_sd_spec).eval().requires_grad_(False)


@pytest.fixture
def base_files(small_sd_model: OneStepSR) -> dict[str, dict[str, bytes]]:
    """The model's frozen parts as their authors publish them: for each base of the manifest, file name → contents."""

    def safetensors(module: nn.Module, rename: Callable[[str], str] = str) -> bytes:
        return save({rename(key): value.half().contiguous() for key, value in module.state_dict().items()})

    def as_in_2022(key: str) -> str:
        for old, new in {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        return key

    tower = small_sd_model.prompt.get_submodule("tower.vision")
    return {
        "sd21-base": {
            "unet/diffusion_pytorch_model.safetensors": safetensors(small_sd_model.unet),
            "vae/diffusion_pytorch_model.safetensors": safetensors(small_sd_model.autoencoder, as_in_2022),
            "scheduler/scheduler_config.json": b'{"prediction_type": "epsilon"}',
        },
        "clip-vit-l14": {
            "model.safetensors": save(
                {f"vision_model.{key}": value.half().contiguous() for key, value in tower.state_dict().items()}
                | {"vision_model.embeddings.position_ids": torch.arange(5), "text_model.final_layer_norm.bias": torch.ones(3)}
            )
        },
    }


@pytest.fixture
def bases(base_files: dict[str, dict[str, bytes]], tmp_path: Path) -> dict[str, ResolvedWeights]:
    """The bases as verified local directories."""
    found = {}
    for name, files in base_files.items():
        for file, contents in files.items():
            path = tmp_path / "bases" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents)
        found[name] = resolve_base(name, str(tmp_path / "bases" / name))
    return found


@pytest.fixture
def adapter_checkpoint(small_sd_spec: VariantSpec, bases: dict[str, ResolvedWeights], tmp_path: Path) -> Path:
    """A trained adapter over the bases: LoRA and conv_in with values that matter."""
    model = build_model(small_sd_spec)
    load_bases(model, bases)
    assert small_sd_spec.lora is not None
    add_lora(model, small_sd_spec.lora)
    shake(model.parameters(), by=0.05)
    directory = tmp_path / "adapter"
    save_adapter(directory, model, bases)
    return directory


@pytest.fixture
def small_checkpoint(small_model: OneStepSR, tmp_path: Path) -> Path:
    directory = tmp_path / "small"
    save_model(directory, small_model)
    return directory


@pytest.fixture
def small_upscaler(small_model: OneStepSR) -> Upscaler:
    return Upscaler(small_model, choose_runtime("cpu", "fp32"), "small@0")


@pytest.fixture(scope="session")
def default_upscaler() -> Upscaler:
    """What the tests run with unless they ask for something else: `rcod-tiny`, on the CPU."""
    return rcodsr.load("rcod-tiny", "cpu", "fp32")


@pytest.fixture
def packaged_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test, and its subprocesses, with the weights that users get who ask for none."""
    monkeypatch.delenv("RCODSR_WEIGHTS")


@pytest.fixture
def run_cli(tmp_path: Path) -> RunCli:
    """Run `rcodsr ...` in tmp_path as a person would."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rcodsr", *map(str, arguments)]
        environment = {**os.environ, "NO_COLOR": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]

    return run
