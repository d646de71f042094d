"""RCOD_O at its real size in the files of peft and diffusers: minutes, 15 GB, only with `-m huge`; -s prints the figures."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rcodsr.checkpoints.bases import load_bases
from rcodsr.checkpoints.export import convert, export
from rcodsr.checkpoints.format import load_model, save_adapter
from rcodsr.checkpoints.resolve import ResolvedWeights, resolve_base
from rcodsr.models.build import build_model, random_model
from rcodsr.models.lora import add_lora
from rcodsr.options import WeightsRequest
from rcodsr.variants import RCOD_O
from tests.checkpoints.test_interchange import differences, lines_of, loaded_by_others, write_base_configs
from tests.conftest import shake
from tests.hub_client import contents

pytestmark = pytest.mark.huge


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ResolvedWeights]:
    """Random weights of the real shapes as their authors would publish them."""
    place, model = tmp_path_factory.mktemp("bases"), random_model(RCOD_O, seed=1)
    files = {
        "sd21-base/unet/diffusion_pytorch_model.safetensors": model.unet.state_dict(),
        "sd21-base/vae/diffusion_pytorch_model.safetensors": model.autoencoder.state_dict(),
        "clip-vit-l14/model.safetensors": {
            f"vision_model.{key}": value for key, value in model.prompt.get_submodule("tower.vision").state_dict().items()
        },
    }
    for name, tensors in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.half().contiguous() for key, value in tensors.items()}, place / name)
    (place / "sd21-base" / "scheduler").mkdir()
    (place / "sd21-base" / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "epsilon"}')
    write_base_configs(RCOD_O, place / "sd21-base")
    return {name: resolve_base(name, str(place / name)) for name in ("sd21-base", "clip-vit-l14")}


@pytest.fixture(scope="module")
def adapter(bases: dict[str, ResolvedWeights], tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build_model(RCOD_O, weightless=True)
    load_bases(model, bases)
    assert RCOD_O.lora is not None
    for name, part in model.prompt.parts().items():
        if name == "vpim":
            part.to_empty(device="cpu")
            torch.nn.init.normal_(part.weight, std=0.03)  # type: ignore[arg-type]
            torch.nn.init.zeros_(part.bias)  # type: ignore[arg-type]
    add_lora(model, RCOD_O.lora)
    shake(model.parameters(), by=0.01)
    directory = tmp_path_factory.mktemp("adapter") / "rcod-o"
    save_adapter(directory, model, bases)
    return directory


@pytest.mark.parametrize("format", ["peft", "diffusers"])
def test_an_adapter(format: str, adapter: Path, bases: dict[str, ResolvedWeights], tmp_path: Path) -> None:
    export(WeightsRequest(str(adapter)), tmp_path / "out", format=format)
    convert([tmp_path / "out"], tmp_path / "back", None)
    ours, back = contents(adapter), contents(tmp_path / "back")
    assert {name: data for name, data in back.items() if name != "README.md"} == ours
    theirs = loaded_by_others(tmp_path / "out", bases["sd21-base"].directory)
    found = differences(load_model(adapter, bases), theirs)
    print(f"\n{format}: U-Net {found[0]:.1e}, encoder {found[1]:.1e}")
    assert max(found) <= 1e-5


def test_merged(adapter: Path, bases: dict[str, ResolvedWeights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rcodsr.checkpoints.load.resolve_base", lambda name, *_: bases[name])
    export(WeightsRequest(str(adapter)), tmp_path / "out", format="merged-diffusers")
    x, t = torch.rand(1, 3, 256, 256), 500
    names = {"here": str(tmp_path / "out"), "x": x, "t": t}
    with torch.no_grad():
        exec(lines_of(tmp_path / "out" / "README.md"), names)
        theirs = names.pop("y")
        names.clear()
        convert([tmp_path / "out"], tmp_path / "back", None)
        ours = load_model(tmp_path / "back")
        expected = ours(x, ours.condition(x, torch.tensor([t])))
    difference = (theirs - expected).abs().max().item()
    print(f"\nmerged: {difference:.1e} of pictures in [{expected.min():.2f}, {expected.max():.2f}]")
    assert difference <= 1e-5
