"""A training run, from its first step or a saved state to its checkpoint."""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from rcodsr.checkpoints.card import model_card
from rcodsr.checkpoints.format import save_adapter, save_model
from rcodsr.checkpoints.named import find_weights
from rcodsr.checkpoints.resolve import sha256
from rcodsr.data.dataset import Batch, PhotoPairs
from rcodsr.data.loading import CorruptPhotos, load, naming_killed_workers
from rcodsr.data.pairs import covered, find_pairs
from rcodsr.data.photos import PhotoCache, find_photos, leave_out_small
from rcodsr.engine.runtime import Runtime
from rcodsr.errors import OutputError, UsageError
from rcodsr.images import io
from rcodsr.images.captions import read_captions
from rcodsr.images.resize import upsample
from rcodsr.messages import Log, Watch, silent, unwatched
from rcodsr.models.autoencoder import WaveletAutoencoder
from rcodsr.models.one_step import OneStepSR
from rcodsr.spec import Note
from rcodsr.training import validation
from rcodsr.training.boards import Boards, require_trackers
from rcodsr.training.journal import Journal
from rcodsr.training.memory import fitted
from rcodsr.training.metric_trainer import windows
from rcodsr.training.pace import Clock, learning_rate
from rcodsr.training.processes import Processes, check_precision
from rcodsr.training.recipe import Phase, Recipe, differences
from rcodsr.training.run_state import Facts, newest_state, save_state
from rcodsr.training.setup import build_networks, build_trainer, resolve_bases
from rcodsr.variants import VariantSpec

_MANY_WORKERS = 4
"""This many workers degrade photos faster than a GPU, which processes them one by one."""
_SHARED_PHOTOS = 2000
"""Photos decoded before the first step; if there are more, each worker decodes those it draws."""


_SMALL = 256
"""Crops up to this side are batched by the hundred when an estimator's input is standardised."""


class Run:
    """One training run, which can be resumed from every saved state.

    Args:
        recipe: data, steps and weights.
        log: receives progress lines.
        resume: continue from the run's newest intact state, if any.
        resume_from: directory whose states are used; None for the recipe's output.
        watch: notified of the progress of fitting, before the first step.

    Attributes:
        step: completed steps.
        waited: seconds that steps have waited for data.

    Raises:
        UsageError: when the run was started with other settings.
        WeightsError: when a base, the prior or the saved state cannot be used.
    """

    def __init__(
        self,
        recipe: Recipe,
        log: Log = print,
        resume: bool = True,
        resume_from: Path | None = None,
        watch: Watch = unwatched,
    ) -> None:
        self.processes = Processes(recipe.machine.device)
        self.log = log if self.processes.is_first else silent
        check_precision(self.processes.device, recipe.machine.dtype, self.log)
        require_trackers(recipe.trackers)
        self.recipe = recipe = fitted(recipe, self.log)
        if recipe.machine.threads:
            torch.set_num_threads(recipe.machine.threads)
        self.lr = find_pairs(recipe.photos, recipe.lr, self.log) if recipe.lr else None
        self.photos = list(self.lr) if self.lr else find_photos(recipe.photos)
        self.corrupt = CorruptPhotos(self.log)
        sides = _sides(self.photos, self.lr)
        self._fitting = {crop: leave_out_small(sides, crop, self.log) for crop in sorted({p.crop for p in recipe.phases})}
        self.captions = _captions(recipe, self.photos)
        self.cache = self._decoded_ahead()
        self.bases = resolve_bases(recipe, self.log)
        self._given = _digests(recipe)
        saved = newest_state(resume_from or recipe.output) if resume else None
        if saved is None and resume_from is not None:
            raise UsageError("--resume", f"{resume_from} contains no saved state of a run", "pass the directory of a run")
        if saved is not None and (changed := differences(saved.facts.settings, self._settings(saved.facts.step))):
            remedy = "restore them, or use --resume never or another --output"
            raise UsageError(recipe.output, f"was started with other settings ({'; '.join(changed)})", remedy)
        spec = VariantSpec.from_dict(saved.facts.spec) if saved else recipe.variant
        model = build_networks(recipe, spec, self.bases, self.log)
        if recipe.fit and saved is None:
            self._fit(model, partial(watch if self.processes.is_first else unwatched, "fitting to the photos"))
        self.trainer = build_trainer(recipe, model, self.processes)
        self.step, self._saved_step = 0, -1
        self.waited = 0.0
        if saved is not None:
            saved.restore(self.trainer.tensors(), self.trainer.optimizers())
            self.step = self._saved_step = saved.facts.step
            self.log(f"resumed at step {self.step} of {recipe.steps}")

    @property
    def model(self) -> OneStepSR:
        """The model being trained."""
        return self.trainer.model

    def go(
        self,
        stop: Callable[[], bool] = lambda: False,
        watch: Callable[[int, float], None] | None = None,
        minutes: float | None = None,
    ) -> bool:
        """Train to the end of the recipe, or until `stop` returns true, then save and write `<output>/checkpoint`.

        Args:
            stop: called after every step.
            watch: called with the number of completed steps and the loss.
            minutes: time limit that replaces the last phase's steps; its learning rate falls with the clock.

        Returns:
            Whether the end of the recipe was reached.

        Raises:
            RcodsrError: when a loss is not finite; the last saved state is kept.
            OutputError: when something cannot be written; the last intact state is kept.
        """
        io.make_directory(self.recipe.output)
        journal = self._journal() if self.processes.is_first else None
        checks = self._checks()
        try:
            with naming_killed_workers():
                finished = self._train(stop, watch or _unwatched, journal, checks, minutes)
            self.save()
        finally:
            if journal is not None:
                journal.close()
        return finished

    def _journal(self) -> Journal:
        recipe = self.recipe
        boards = Boards(recipe.trackers, recipe.output, self.step, self._settings(recipe.steps), self.log)
        return Journal(recipe.output, self.step, recipe.steps, self.log, boards)

    def _checks(self) -> validation.Validation | None:
        """The periodic validation, if the recipe has photos for it."""
        asked = self.recipe.validation
        if asked.photos is None:
            return None
        return validation.Validation(asked.photos, self.recipe.data.mix, 1, self.model.spec.least_side, asked.judges)

    def _train(
        self,
        stop: Callable[[], bool],
        watch: Callable[[int, float], None],
        journal: Journal | None,
        checks: validation.Validation | None,
        minutes: float | None,
    ) -> bool:
        """Run steps until the end or until `stop` returns true; return whether the end was reached."""
        saved = asked = time.monotonic()
        clock = None if minutes is None else Clock(60 * minutes)
        for phase, first, batches in self._steps():
            self.waited += time.monotonic() - asked
            done: float = self.step - first
            if clock is not None and phase is self.recipe.phases[-1]:
                done = clock.share() * phase.steps
            rate = learning_rate(phase, done, self.step, self.recipe.optim.warmup)
            facts = self.trainer.train_step(batches, phase, rate, self.step)
            asked = time.monotonic()
            self.step += 1
            if journal is not None:
                samples = sum(len(batch.lr) for batch in batches) * self.processes.count
                journal.record(self.step, phase.name, facts, samples, rate)
            if checks is not None and self.step % self.recipe.validation.steps == 0:
                self._validate(checks, journal)
            if self.recipe.machine.keep_every and self.step % self.recipe.machine.keep_every == 0:
                self._keep_checkpoint()
            if time.monotonic() - saved > 60 * self.recipe.machine.save_minutes:
                self.save()
                saved = time.monotonic()
            watch(self.step, facts["loss"])
            if clock is not None and clock.over:
                return True
            if stop():
                return False
        return True

    def rehearse(self) -> None:
        """Run one step of every phase on real data without writing anything, so that errors of later phases show up now."""
        for number, phase in enumerate(self.recipe.phases):
            started = time.monotonic()
            batches = next(self._phase_batches(number, phase, 0))
            facts = self.trainer.train_step(batches, phase, phase.learning_rate[0], 0)
            shown = "  ".join(f"{name} {value:.4g}" for name, value in facts.items())
            self.log(f"{phase.name}: {phase.steps} steps of about {time.monotonic() - started:.1f} s  {shown}")

    def save(self) -> None:
        """Write a state to resume from, and the exported weights as a checkpoint.

        Raises:
            OutputError: when they cannot be written; older ones are kept.
        """
        if self.processes.is_first and self.step != self._saved_step:
            output = self.recipe.output
            facts = Facts(self.step, self.model.spec.to_dict(), self._settings(self.step))
            save_state(output, facts, self.trainer.tensors(), self.trainer.optimizers(), self.recipe.machine.keep)
            self._export(output / "checkpoint")
            self._saved_step = self.step
            self.log(f"saved step {self.step} to {output}")
        self.processes.wait()

    def _keep_checkpoint(self) -> None:
        """Export the current weights under their step number; delete the oldest checkpoints beyond the limit."""
        if self.processes.is_first:
            kept = self.recipe.output / "checkpoints"
            self._export(kept / f"{self.step:08}")
            numbered = sorted((path for path in kept.iterdir() if path.name.isdecimal()), reverse=True)
            for old in numbered[self.recipe.machine.keep_checkpoints :]:
                shutil.rmtree(old, ignore_errors=True)
        self.processes.wait()

    def _export(self, directory: Path) -> None:
        """Write the averaged weights as a checkpoint.

        Raises:
            OutputError: when it cannot be written; an older one of the same name is kept.
        """
        try:
            self._write(directory)
        except (OSError, SafetensorError) as error:
            cause = getattr(error, "strerror", None) or str(error)
            raise OutputError(directory, f"cannot be written ({cause})", "free some space") from error

    def _write(self, directory: Path) -> None:
        adapter = self.model.spec.lora is not None
        card = model_card(self.model.spec, self._summary(), "adapter" if adapter else "merged")
        with self.trainer.averaged():
            if adapter:
                save_adapter(directory, self.model, self.bases, self._summary(), card)
            else:
                save_model(directory, self.model, self._summary(), card)

    def _summary(self) -> dict[str, Any]:
        settings = self._settings(self.recipe.steps)
        return {"steps": self.step, "planned_steps": self.recipe.steps, "photos": len(self.photos), "recipe": settings}

    def _settings(self, step: int) -> dict[str, Any]:
        """Everything that affected the run up to a step: the recipe, photos, bases and other weights, independent of paths."""
        settings = self.recipe.settings(step)
        # one process that accumulates gradients equals several in parallel
        settings["optim"]["accumulate"] *= self.processes.count
        settings["photos"] = _fingerprint([f"{path.name} {path.stat().st_size}" for path in self.photos])
        settings["bases"] = {name: base.digest for name, base in self.bases.items()}
        return settings | self._given

    def _validate(self, checks: validation.Validation, journal: Journal | None) -> None:
        if journal is None:
            return
        runtime = Runtime(self.processes.device, torch.float32, "training")
        with self.trainer.averaged():
            sheet, scores = checks.run(self.model, runtime)
        validation.keep(self.recipe.output, self.step, sheet, scores)
        journal.validation(self.step, sheet, scores)
        self.log(f"validation at {self.step}: " + "  ".join(f"{name} {value:.4g}" for name, value in scores.items()))

    def _steps(self) -> Iterator[tuple[Phase, int, list[Batch]]]:
        """Yield for every remaining step: its phase, the phase's first step, and this process's batches."""
        ends = list(accumulate(phase.steps for phase in self.recipe.phases))
        for number, (phase, first) in enumerate(zip(self.recipe.phases, [0, *ends], strict=False)):
            for batches in self._phase_batches(number, phase, max(0, self.step - first)):
                yield phase, first, batches

    def _phase_batches(self, number: int, phase: Phase, done: int) -> Iterator[list[Batch]]:
        """Yield the batches of each step of a phase, skipping the first `done` steps."""
        if done >= phase.steps:
            return
        recipe, side_by_side = self.recipe, self.recipe.optim.accumulate * self.processes.count
        earlier = sum(p.steps * p.batch for p in recipe.phases[:number]) * side_by_side
        mine = [
            (step * side_by_side + turn * self.processes.count + self.processes.rank) * phase.batch
            for step in range(done, phase.steps)
            for turn in range(recipe.optim.accumulate)
        ]
        pairs = self._pairs(phase, recipe.seed * 100 + number + 1, phase.steps * side_by_side * phase.batch)
        size = phase.batch // phase.pieces
        indices = [list(range(at, at + size)) for start in mine for at in range(start, start + phase.batch, size)]
        batches = []
        for loaded, numbers in zip(load(pairs, indices, recipe.machine.workers, self.corrupt), indices, strict=True):
            batches.append(loaded.to_batch(self.processes.device, tuple(earlier + number for number in numbers)))
            if len(batches) == recipe.optim.accumulate * phase.pieces:
                yield batches
                batches = []

    def _pairs(self, phase: Phase, seed: int, length: int) -> PhotoPairs:
        where = self.recipe.machine.degrade
        enough = self.processes.device.type == "cpu" or self.recipe.machine.workers >= _MANY_WORKERS
        in_workers = where == "workers" or (where == "auto" and enough)
        share = self.recipe.data.zoom_probability if phase.zoom_probability is None else phase.zoom_probability
        return PhotoPairs(
            self._fitting[phase.crop],
            phase.crop,
            self.recipe.data.mix,
            seed,
            length,
            share,
            self.lr,
            in_workers,
            self.cache,
            phase.zoom,
            self.recipe.data.transpose,
            self.captions,
        )

    def _decoded_ahead(self) -> PhotoCache | None:
        """A photo cache shared by all data workers, if many photos and workers are forked; otherwise each has its own."""
        if self.recipe.machine.workers < _MANY_WORKERS or multiprocessing.get_start_method() != "fork":
            return None
        cache = PhotoCache(1 << 30)
        cache.fill(self.photos[:_SHARED_PHOTOS])
        return cache

    def _fit(self, model: OneStepSR, watch: Callable[[int, int], None]) -> None:
        """Standardise the estimator's inputs; or fit new latents, and bounds that split the samples evenly among the groups."""
        phase, seed = self.recipe.phases[0], self.recipe.seed * 100
        if model.metric_estimator is not None:
            model.metric_estimator.fit(*self._evidence(model, phase, seed, watch))
            return
        pairs = self._pairs(phase, seed, length=384)
        (loaded,) = load(pairs, [list(range(len(pairs)))], 0, self.corrupt, watch)
        batch = loaded.to_batch()
        if isinstance(model.autoencoder, WaveletAutoencoder) and self.recipe.start is None:
            model.autoencoder.fit(batch.hr)
        grouping = model.spec.grouping
        if grouping.n == 1:
            return
        metric = model.similarity(upsample(batch.lr, model.spec.scale), batch.hr)
        inner = torch.nanquantile(metric, torch.tensor([1 / grouping.n, 1 - 1 / grouping.n])).tolist()
        width = (inner[1] - inner[0]) / max(1, grouping.n - 2)
        bounds = {"metric_min": round(inner[0] - width, 4), "metric_max": round(inner[1] + width, 4)}
        model.spec = replace(model.spec, grouping=replace(grouping, **bounds))
        self.log(f"fitted latents and grouping bounds {bounds}")

    @torch.no_grad()
    def _evidence(self, model: OneStepSR, phase: Phase, seed: int, watch: Callable[[int, int], None]) -> tuple[Tensor, Tensor]:
        """Estimator inputs of training pairs, batch by batch, since many large windows do not fit in memory at once."""
        device = self.processes.device
        model.to(device)
        length = max(phase.batch, (384 if phase.crop <= _SMALL else 64) // phase.batch * phase.batch)
        pairs = self._pairs(phase, seed, length)
        indices = [list(range(start, start + phase.batch)) for start in range(0, length, phase.batch)]
        loaded = load(pairs, indices, 0, self.corrupt, watch)
        seen = [model.evidence(windows(model, batch.to_batch(device))[0]) for batch in loaded]
        return torch.cat([z for z, _ in seen]), torch.cat([features for _, features in seen])


def _sides(photos: list[Path], lr: dict[Path, Path] | None) -> dict[Path, int]:
    """The shorter side of each photo, or of the common area of a pair, from their headers; this finds unreadable files."""
    sizes = {path: io.read_header(path).size for path in photos}
    if lr is not None:
        sizes = {path: covered(size, io.read_header(lr[path]).size) or size for path, size in sizes.items()}
    return {path: min(size) for path, size in sizes.items()}


def _captions(recipe: Recipe, photos: list[Path]) -> dict[Path, str] | None:
    """The text of each photo, if the recipe has captions."""
    if recipe.captions is None:
        return None
    return dict(zip(photos, read_captions(recipe.captions).of_all(photos), strict=True))


def _digests(recipe: Recipe) -> dict[str, str]:
    """Hashes of the recipe's weight files, other than its bases."""
    named = {name: weights for name, weights in recipe.noted(Note.WEIGHTS).items() if weights is not None}
    return {name: sha256(at) if isinstance(at, Path) else find_weights(at).digest for name, at in named.items()}


def _fingerprint(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _unwatched(step: int, loss: float) -> None:
    pass
