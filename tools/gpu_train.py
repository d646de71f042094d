"""Train the packaged model for a number of seconds from a pack made by `tools/pack_training.py`; see `tools/gpu_train.sh`.

python tools/gpu_train.py OUT SECONDS PACK [EARLIER]

EARLIER names the weights to continue from: the files of an earlier run (`tools/gpu_files.py`), or a name. RECIPE selects
another recipe; TINY=1 rehearses on a CPU.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gpu_files import main as put_together
from gpu_files import scatter
from pack_training import NETWORKS, unpack_network
from safetensors.torch import save_file

from rcodsr.checkpoints.format import save_model
from rcodsr.engine.runtime import Runtime
from rcodsr.images.picture import Picture, to_pil
from rcodsr.options import DEFAULT_WEIGHTS
from rcodsr.training.generator_trainer import GeneratorTrainer
from rcodsr.training.recipe import Recipe
from rcodsr.training.recipe_file import read_recipe
from rcodsr.training.run import Run
from rcodsr.training.validation import Validation

TINY = os.environ.get("TINY") == "1"
_ENDING = 25
"""Seconds reserved for the work after the last step."""


def plan(recipe: Path, pack: Path, work: Path, earlier: str | None) -> Recipe:
    """The recipe with settings for this machine and the packed files."""
    restorer, perceptual = (work / f"{name}.safetensors" for name in NETWORKS)
    for name in NETWORKS:
        if (pack / f"{name}.xz").is_file():
            unpack_network(pack / f"{name}.xz", work / f"{name}.safetensors")
    if not restorer.is_file() and earlier is None:
        earlier = DEFAULT_WEIGHTS  # no trunk to start from
    settings: dict[str, Any] = {
        "photos": pack / "photos",
        "restorer": restorer,
        "perceptual.weights": perceptual,
        "output": work / "run",
        "machine.device": "cpu" if TINY else "cuda",
        "machine.workers": 1 if TINY else max(1, (os.cpu_count() or 1) - 2),
        "machine.save_minutes": 600,
    }
    if earlier is not None and (Path(earlier) / "training.json").is_file():
        put_together(Path(earlier), work / "earlier")
        settings |= {"start": work / "earlier" / "averaged", "discriminator.start": work / "earlier/discriminator.safetensors"}
    elif earlier is not None:
        settings["start"] = earlier
    read = read_recipe(recipe, [f"{name}={json.dumps(value, default=str)}" for name, value in settings.items()])
    phases = read.phases
    if earlier is not None:  # discriminator and optimiser moments start anew: warm them up at almost no learning rate
        phases = (replace(phases[-1], name="meet", steps=100, learning_rate=(1e-7, 1e-7)), *phases[1:])
    if not restorer.is_file():  # packed without the teacher
        phases = tuple(replace(phase, restorer=0.0, restorer_features=0.0) for phase in phases)
        read = replace(read, phases=phases, restorer=None)
    if TINY:
        phases = tuple(replace(phase, batch=1, crop=64, steps=2) for phase in phases)
    return replace(read, phases=(*phases[:-1], replace(phases[-1], steps=100_000)))


def leave(run: Run, out: Path, seconds: float) -> None:
    """Write the weights for a later run and the sheets: eight files."""
    checkpoint = run.recipe.output / "checkpoint"
    scatter(checkpoint, out, "averaged")
    save_model(run.recipe.output / "raw", run.model)
    scatter(run.recipe.output / "raw", out, "raw")
    assert isinstance(run.trainer, GeneratorTrainer)
    objectives = run.trainer.objectives if isinstance(run.trainer, GeneratorTrainer) else ()
    for objective in objectives:
        if objective.name == "adversarial":
            state = {**objective.trained(), **objective.buffers()}
            save_file({k: v.detach().half().cpu().contiguous() for k, v in state.items()}, out / "discriminator.safetensors")
    lines = (run.recipe.output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    facts = {"steps": run.step, "seconds": seconds, "waited": run.waited, "losses": steps[:: max(1, len(steps) // 400)]}
    facts["config"] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    (out / "training.json").write_text(json.dumps(facts), encoding="utf-8")


def show(run: Run, out: Path) -> None:
    """Save two sheets: strongly and mildly degraded photos at every level, beside the ground truth."""
    runtime = Runtime(run.processes.device, torch.float32, "training")
    with run.trainer.averaged():
        for preset in ("full",) if TINY else ("full", "camera"):
            checks = Validation(run.recipe.photos, {preset: 1.0}, 5)
            if TINY:
                del checks.pairs[1:]
            sheet, scores = checks.run(run.model, runtime)
            to_pil(Picture(sheet)).save(out / f"sheet-{preset}.png")
            print(preset, "  ".join(f"{name} {value:.3f}" for name, value in scores.items()), flush=True)


def main(out: Path, seconds: float, pack: Path, earlier: str | None = None) -> None:
    began = time.monotonic()
    if not TINY and not torch.cuda.is_available():
        print("gpu_train: no CUDA device here; TINY=1 rehearses on the CPU", file=sys.stderr)
        sys.exit(4)
    out.mkdir(parents=True, exist_ok=True)
    recipe = Path(os.environ.get("RECIPE") or Path(__file__).resolve().parents[1] / "recipes" / "rcod-small.toml")
    with tempfile.TemporaryDirectory() as work:
        run = Run(plan(recipe, pack, Path(work), earlier), lambda line: print(line, flush=True), resume=False)
        ready = time.monotonic() - began
        print(f"ready after {ready:.1f} s", flush=True)
        run.go(minutes=max(5.0, seconds - ready - (0 if TINY else _ENDING)) / 60)
        trained = time.monotonic() - began - ready
        leave(run, out, trained)
        samples = run.step * run.recipe.phases[-1].batch
        print(f"{run.step} steps, {samples / trained:.0f} samples/s; waited {run.waited / trained:.0%} for data", flush=True)
        show(run, out)
    print(f"done after {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:5])
