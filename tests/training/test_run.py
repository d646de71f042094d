"""Runs that are stopped, killed, resumed, corrupted and changed."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from rcodsr.checkpoints.config import read_config
from rcodsr.checkpoints.format import load_model
from rcodsr.checkpoints.resolve import ResolvedWeights, resolve_base, sha256
from rcodsr.engine.runtime import choose_runtime
from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import NoInputError, OutputError, RcodsrError, UsageError
from rcodsr.models.lpips import LpipsSqueeze
from rcodsr.models.one_step import OneStepSR
from rcodsr.training import run_state
from rcodsr.training.pace import learning_rate
from rcodsr.training.recipe import DistillSettings, OptimSettings, Phase, Recipe, TimestepSettings, ValidationSettings
from rcodsr.training.run import Run
from rcodsr.training.validation import Validation
from rcodsr.variants import RCOD_TINY, VariantSpec
from tests.conftest import RunCli
from tests.training.conftest import metrics

ROOT = Path(__file__).parents[2]


def _silent(_: str) -> None:
    pass


def _hex(run: Path) -> list[dict[str, str]]:
    """Metrics as exact numbers."""
    return [{k: v.hex() if isinstance(v, float) else str(v) for k, v in line.items()} for line in metrics(run)]


def _digests(checkpoint: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in checkpoint.iterdir()}


def _stop_at(run: Run, step: int) -> None:
    assert not run.go(lambda: run.step == step)


@pytest.mark.parametrize("kind", ["recipe", "sd_recipe"])
def test_a_stopped_run_goes_on_bit_for_bit(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    recipe: Recipe = request.getfixturevalue(kind)
    whole = replace(recipe, output=tmp_path / "whole")
    assert Run(whole, _silent).go()
    for stop in (1, 3):
        broken = replace(recipe, output=tmp_path / f"broken{stop}")
        _stop_at(Run(broken, _silent), stop)
        assert Run(broken, _silent).go()
        assert _hex(broken.output) == _hex(whole.output)
        assert _digests(broken.output / "checkpoint") == _digests(whole.output / "checkpoint")
        states = [load_file(run_state.newest_state(run.output).directory / "state.safetensors") for run in (whole, broken)]  # type: ignore[union-attr]
        assert states[0].keys() == states[1].keys()
        assert [key for key in states[0] if not torch.equal(states[0][key], states[1][key])] == []


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "steps"), [(6, 40), pytest.param(30, 120, marks=pytest.mark.huge)])
def test_a_run_survives_kills_bit_for_bit(sd_recipe: Recipe, tmp_path: Path, kills: int, steps: int) -> None:
    """SIGKILL at random instants, some of them while a state or the checkpoint is being written."""
    phases = (replace(sd_recipe.phases[0], steps=steps, batch=1, crop=32),)
    recipe = replace(sd_recipe, phases=phases, machine=replace(sd_recipe.machine, save_minutes=0), output=tmp_path / "killed")
    (tmp_path / "recipe.pickle").write_bytes(pickle.dumps(recipe))
    command = [sys.executable, "-m", "tests.training.killing", str(tmp_path / "recipe.pickle"), str(kills), "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
    whole = replace(recipe, output=tmp_path / "whole")
    Run(whole, _silent).go()
    assert _hex(recipe.output) == _hex(whole.output)
    assert _digests(recipe.output / "checkpoint") == _digests(whole.output / "checkpoint")


def test_the_result_is_a_loadable_checkpoint_with_fitted_bounds(recipe: Recipe, small_spec: VariantSpec) -> None:
    Run(recipe, _silent).go()
    checkpoint = recipe.output / "checkpoint"
    model = load_model(checkpoint)
    assert model.spec.grouping != small_spec.grouping
    assert model.spec.grouping.metric_min < model.spec.grouping.metric_max < 1.5
    assert model.autoencoder.get_buffer("std").mean() != 1
    training = read_config(checkpoint).training
    assert training["recipe"]["phases"][1]["adversarial"] == 0.02
    card = (checkpoint / "README.md").read_text()
    assert "rcodsr upscale in.png --weights" in card
    assert "library_name: rcodsr" in card


def test_an_adapter_trained_over_a_base_upscales(
    sd_recipe: Recipe, base_directory: Path, base_files: dict[str, dict[str, bytes]], tmp_path: Path, photo: Image.Image
) -> None:
    """From photos to an enlarged picture: the base from its files, the vision tower too, text embeddings by its own encoder."""
    recipe = replace(sd_recipe, base_model=str(base_directory))
    clip = tmp_path / "clip"
    clip.mkdir()
    (clip / "model.safetensors").write_bytes(base_files["clip-vit-l14"]["model.safetensors"])
    bases = {
        "sd21-base": resolve_base("sd21-base", str(base_directory)),
        "clip-vit-l14": resolve_base("clip-vit-l14", str(clip)),
    }
    run = _run_with_bases(recipe, bases)
    run.go()
    checkpoint = recipe.output / "checkpoint"
    assert {path.name for path in checkpoint.iterdir()} >= {"unet_lora.safetensors", "vae_lora.safetensors", "vpim.safetensors"}
    merged = load_model(checkpoint, bases)
    picture = Upscaler(merged, choose_runtime("cpu", "fp32"), "trained").upscale(photo.resize((12, 10)), realism=1)
    assert picture.size == (48, 40)
    with torch.no_grad():
        x_l = torch.rand(1, 3, 32, 32)
        t = torch.tensor([500])
        a, b = (m(x_l, m.condition(x_l, t)) for m in (run.model, merged))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(a.abs().max()))


def _run_with_bases(recipe: Recipe, bases: dict[str, ResolvedWeights]) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rcodsr.training.run.resolve_bases", lambda recipe, log: bases)
        return Run(recipe, _silent)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state(recipe: Recipe) -> None:
    _stop_at(Run(recipe, _silent), 1)
    run = Run(recipe, _silent)
    with torch.no_grad():
        run.model.unet.get_parameter("conv_in.weight").fill_(float("inf"))
    with pytest.raises(RcodsrError, match="not finite at step 1"):
        run.go()
    assert Run(recipe, _silent).step == 1


def test_a_damaged_state_gives_way_to_the_one_before(recipe: Recipe) -> None:
    messages: list[str] = []
    for stop in (1, 2):
        _stop_at(Run(recipe, _silent), stop)
    newest = recipe.output / "states" / "00000002" / "state.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    assert Run(recipe, messages.append).step == 1
    shutil.rmtree(recipe.output / "states" / "00000001")
    with pytest.raises(RcodsrError, match="all saved states are corrupt"):
        Run(recipe, _silent)
    assert Run(recipe, _silent, resume=False).step == 0


def test_old_states_go_but_two_stay(recipe: Recipe) -> None:
    Run(replace(recipe, machine=replace(recipe.machine, save_minutes=0)), _silent).go()
    assert sorted(path.name for path in (recipe.output / "states").iterdir()) == ["00000005", "00000006"]


def test_a_run_is_not_resumed_with_other_settings(recipe: Recipe) -> None:
    first = replace(recipe, phases=recipe.phases[:1])
    Run(first, _silent).go()
    with pytest.raises(UsageError, match=r"other settings \(seed: 0 → 5\)"):
        Run(replace(first, seed=5), _silent)
    with pytest.raises(UsageError, match=r"phases\.0\.batch: 2 → 4"):
        Run(replace(first, phases=(replace(first.phases[0], batch=4),)), _silent)
    assert Run(replace(first, seed=5), _silent, resume=False).step == 0
    assert Run(recipe, _silent).step == 3  # a phase may be added


def test_other_weights_are_other_settings_but_may_lie_elsewhere(recipe: Recipe, tmp_path: Path) -> None:
    Run(replace(recipe, phases=recipe.phases[:1]), _silent).go()
    assert recipe.perceptual.weights is not None
    moved = Path(shutil.copy(recipe.perceptual.weights, tmp_path / "moved.safetensors"))
    elsewhere = replace(recipe, perceptual=replace(recipe.perceptual, weights=moved))
    assert Run(elsewhere, _silent).step == 3
    tensors = load_file(moved)
    save_file({**tensors, "lin0.weight": tensors["lin0.weight"] + 1}, moved)
    with pytest.raises(UsageError, match=r"perceptual\.weights: "):
        Run(elsewhere, _silent)


def test_other_photos_are_other_settings(recipe: Recipe, photo: Image.Image) -> None:
    Run(replace(recipe, phases=recipe.phases[:1]), _silent).go()
    photo.resize((128, 128)).save(recipe.photos / "new.png")
    with pytest.raises(UsageError, match="photos: "):
        Run(recipe, _silent)


def test_metrics_of_steps_that_are_done_again_are_dropped(recipe: Recipe) -> None:
    _stop_at(Run(recipe, _silent), 2)
    with (recipe.output / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 3, "loss": 1e9}) + '\n{"step": 4, "lo')
    Run(recipe, _silent).go()
    lines = metrics(recipe.output)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert max(line["loss"] for line in lines) < 1e3
    assert {"rate", "pixel", "share_250", "grad_norm"} <= lines[0].keys()


def test_a_full_disk_during_a_save_loses_nothing(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    _stop_at(Run(recipe, _silent), 2)
    before = _digests(recipe.output / "states" / "00000002")

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_state, "save_file", full)
    run = Run(recipe, _silent)
    with pytest.raises(OutputError, match="No space left on device"):
        run.go(lambda: run.step == 3)
    assert _digests(recipe.output / "states" / "00000002") == before
    assert not list((recipe.output / "states").glob(".*"))
    monkeypatch.undo()
    assert Run(recipe, _silent).step == 2


def test_an_output_that_cannot_be_written_is_an_error(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        Run(replace(recipe, output=tmp_path / "file" / "run"), _silent).go()


def test_no_photos_is_an_error(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoInputError, match="no photos found"):
        Run(replace(recipe, photos=tmp_path / "empty"), _silent)


def test_validation_shows_every_level(recipe: Recipe, tmp_path: Path, photo: Image.Image) -> None:
    folder = tmp_path / "val"
    folder.mkdir()
    photo.crop((0, 0, 160, 160)).save(folder / "a.png")
    Run(replace(recipe, validation=ValidationSettings(folder, 3)), _silent).go()
    assert list((recipe.output / "tensorboard").iterdir())
    with Image.open(recipe.output / "validation" / "00000003.png") as sheet:
        assert sheet.size == (5 * 256, 160)  # bicubic, three levels, ground truth
    lines = [json.loads(line) for line in (recipe.output / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    assert {"psnr_fidelity", "psnr_neutral", "psnr_realism", "ssim_realism"} <= lines[0].keys()


def test_validation_judges_the_knob_on_what_the_weights_want_to_see(
    small_model: OneStepSR, tmp_path: Path, photo: Image.Image
) -> None:
    """512 pixels if a prior needs them, LPIPS if there is a judge, spread and order of the levels by hand."""
    for folder in ("val", "judges"):
        (tmp_path / folder).mkdir()
    photo.save(tmp_path / "val" / "a.png")
    save_file(LpipsSqueeze().state_dict(), tmp_path / "judges" / "lpips_squeeze.safetensors")
    checks = Validation(tmp_path / "val", {"camera": 1.0}, 1, 512, tmp_path / "judges")
    sheet, scores = checks.run(small_model, choose_runtime("cpu", "fp32"))
    assert sheet.shape == (3, 512, 5 * 512)
    levels = sheet.split(512, 2)[1:4]
    assert scores["knob_spread"] == pytest.approx(255 * (levels[2] - levels[0]).square().mean().sqrt().item())
    psnr = [scores[f"psnr_{level}"] for level in ("fidelity", "neutral", "realism")]
    assert scores["knob_monotone"] == float(psnr == sorted(psnr, reverse=True))
    assert {"lpips_squeeze_fidelity", "lpips_squeeze_realism"} <= scores.keys()
    assert checks.pairs[0][1].shape == (3, 512, 512)


def test_checkpoints_of_some_steps_stay(recipe: Recipe) -> None:
    machine = replace(recipe.machine, keep_every=2, keep_checkpoints=2)
    Run(replace(recipe, machine=machine), _silent).go()
    kept = recipe.output / "checkpoints"
    assert sorted(path.name for path in kept.iterdir()) == ["00000004", "00000006"]
    assert read_config(kept / "00000004").training["steps"] == 4
    assert _digests(kept / "00000006") == _digests(recipe.output / "checkpoint")
    load_model(kept / "00000004")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_command_stops_on_sigterm_with_its_code_and_goes_on(
    photos: Path, tmp_path: Path, run_cli: RunCli, workers: int
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"fit = true\nmachine.workers = {workers}\n"
        "[[phases]]\nname = 'p'\nsteps = 100000\nbatch = 1\ncrop = 32\nlearning_rate = [1e-3, 1e-4]\n"
    )
    command = [sys.executable, "-m", "rcodsr", "train", str(recipe), f"photos={photos}", "output=run", "machine.threads=1"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    journal = tmp_path / "run" / "metrics.jsonl"
    while not (journal.exists() and journal.read_text().count("\n") > 2):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)  # as `timeout` and schedulers do: the data workers get it too
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert stdout == ""
    assert "stopped; the same command continues" in stderr
    steps = len(journal.read_text().splitlines())
    again = run_cli("train", recipe, f"photos={photos}", "output=run", "machine.threads=1", "phases.0.steps=3")
    assert again.returncode == 2
    assert "phases.0.steps: 100000 → 3" in again.stderr
    assert (tmp_path / "run" / "states" / f"{steps:08}" / "manifest.json").exists()
    assert (tmp_path / "run" / "checkpoint" / "config.json").exists()


@pytest.mark.slow
def test_the_tiny_variant_overfits_eight_photos(recipe: Recipe, photo: Image.Image) -> None:
    for i in range(4, 8):
        photo.crop((50 * i, 200, 50 * i + 128, 328)).save(recipe.photos / f"{i}.png")
    phase = Phase("pixel", 160, 8, 64, (8e-4, 1e-4))
    plain = replace(recipe, timestep=replace(recipe.timestep, weight_losses=False), optim=OptimSettings())
    run = Run(replace(plain, variant=RCOD_TINY, phases=(phase,)), _silent)
    batches = next(run._phase_batches(0, phase, 0))
    rates = (learning_rate(phase, step, step, 30) for step in range(phase.steps))
    losses = [run.trainer.train_step(batches, phase, rate, step)["loss"] for step, rate in enumerate(rates)]
    assert losses[-1] * 5 < losses[0]


def test_the_same_run_with_any_number_of_workers(recipe: Recipe, tmp_path: Path) -> None:
    losses = []
    for workers in (0, 2):
        run = Run(replace(recipe, machine=replace(recipe.machine, workers=workers), output=tmp_path / str(workers)), _silent)
        run.go()
        losses.append(_hex(run.recipe.output))
    assert losses[0] == losses[1]


def test_an_estimator_is_added_to_finished_weights_which_stay_as_they_are(recipe: Recipe, tmp_path: Path) -> None:
    finished = replace(recipe, phases=recipe.phases[:1])
    Run(finished, _silent).go()
    weights = finished.output / "checkpoint"
    phase = Phase("estimator", 40, 8, 128, (5e-3, 5e-4))
    estimator = replace(recipe, stage="estimator", generator=str(weights), optim=OptimSettings(), timestep=TimestepSettings())
    with pytest.raises(UsageError, match=r"phases\.0\.crop: 96 is smaller than the 128-pixel window of the estimator of small"):
        Run(replace(estimator, phases=(replace(phase, crop=96),), output=tmp_path / "small"), _silent)
    run = Run(replace(estimator, phases=(phase,), output=tmp_path / "mem", bounds=(0.1, 0.4)), _silent)
    run.go()
    extended = tmp_path / "mem" / "checkpoint"
    for name in ("unet", "vae", "vision", "vpim"):
        assert sha256(extended / f"{name}.safetensors") == sha256(weights / f"{name}.safetensors")
    losses = [line["loss"] for line in metrics(tmp_path / "mem")]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    model = load_model(extended)
    assert model.estimate(torch.rand(2, 3, 128, 128)).shape == (2,)
    assert (model.spec.grouping.metric_min, model.spec.grouping.metric_max) == (0.1, 0.4)


def test_a_prior_learns_noise_and_teaches_a_tiny_generator(recipe: Recipe, tmp_path: Path) -> None:
    """Algorithm 1 without Stable Diffusion: stage prior, then VSD from it."""
    phase = Phase("prior", 30, 4, 64, (2e-3, 2e-4))
    prior = replace(recipe, stage="prior", phases=(phase,), output=tmp_path / "prior", optim=OptimSettings())
    Run(prior, _silent).go()
    losses = [line["loss"] for line in metrics(prior.output)]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    taught = Phase("Algorithm 1", 2, 2, 64, (1e-3, 1e-3), vsd=1.0)
    teacher = DistillSettings(prior=str(prior.output / "checkpoint"))
    distilled = replace(recipe, distill=teacher, phases=(taught,), output=tmp_path / "distilled")
    Run(distilled, _silent).go()
    assert {"vsd", "vsd_own", "w", "cond_uncond", "gradient_cosine"} <= metrics(distilled.output)[-1].keys()
    with pytest.raises(UsageError, match="has no base to distil from"):
        replace(distilled, distill=DistillSettings())
    with pytest.raises(UsageError, match="does not predict noise"):
        own = DistillSettings(prior=str(distilled.output / "checkpoint"))
        Run(replace(distilled, distill=own, output=tmp_path / "twice"), _silent).go()
