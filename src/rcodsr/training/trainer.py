"""Training of the generator: latent domain grouping, pixel loss, and perceptual losses weighted by the timestep.

A first, small loop for `rcod-tiny`, which has no diffusion prior to distil from. The knob comes from weighting: at the
fidelity timestep the loss is the pixel error, at the realism timestep texture counts (LPIPS and a patch discriminator) and
the pixel error holds colour and structure.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from rcodsr.checkpoints.format import save_model
from rcodsr.checkpoints.tensors import load_strictly
from rcodsr.config import VariantSpec
from rcodsr.data.dataset import PhotoPairs, batches
from rcodsr.data.loading import CorruptPhotos, load, naming_killed_workers
from rcodsr.data.photos import check_sizes, find_pairs, find_photos
from rcodsr.diffusion.grouping import group_timestep, latent_metric
from rcodsr.errors import OutputError, RcodsrError, UsageError
from rcodsr.images import io
from rcodsr.images.resize import upsample
from rcodsr.models.build import build_model
from rcodsr.models.discriminator import PatchDiscriminator
from rcodsr.models.perceptual import LpipsSqueeze
from rcodsr.training.losses import charbonnier, discriminator_hinge, generator_hinge, low_frequency, mesh, realism_weight
from rcodsr.training.recipe import Phase, Recipe
from rcodsr.training.run_state import load_state, read_facts, save_state

Log = Callable[[str], None]


class Trainer:
    """One training run, resumable at every saved step.

    Args:
        recipe: what to train on, for how long, with which weights.
        log: receives one line now and then.
        resume: go on from the run's saved state if there is one.
    """

    def __init__(self, recipe: Recipe, log: Log = print, resume: bool = True) -> None:
        self.recipe = recipe
        self.log = log
        self.step = 0
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        torch.manual_seed(recipe.seed)
        self.lr = find_pairs(recipe.photos, recipe.lr) if recipe.lr else None
        self.photos = list(self.lr) if self.lr else find_photos(recipe.photos)
        check_sizes(self.photos, max(phase.crop for phase in recipe.phases))
        self.corrupt = CorruptPhotos(log)
        self.state_path = recipe.output / "state.safetensors"
        facts = read_facts(self.state_path) if resume and self.state_path.exists() else None
        if facts and facts["settings"] != recipe.settings(facts["step"]):
            raise UsageError(
                self.state_path, "was made with other settings", "restore them, or use --resume never or another --output"
            )
        spec = VariantSpec.from_dict(facts["spec"]) if facts else recipe.variant
        self.model = build_model(spec).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.discriminator = PatchDiscriminator().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if not facts:
            self._fit()
        self.ema = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
        self.d_optimizer = torch.optim.AdamW(self.discriminator.parameters(), lr=4e-4, betas=(0.5, 0.99))
        self.lpips = self._load_lpips()
        if facts:
            self.step = load_state(self.state_path, self._modules(), self._optimizers())["step"]
            self.log(f"resumed at step {self.step} of {recipe.steps}")

    @naming_killed_workers()
    def run(self) -> None:
        """Train to the end of the recipe, then write the averaged weights to `<output>/checkpoint`.

        Raises:
            RcodsrError: when the loss is no longer finite; the last saved state is kept.
        """
        io.make_directory(self.recipe.output)
        first, saved = 0, time.monotonic()
        for number, phase in enumerate(self.recipe.phases):
            for lr, hr in self._batches(number, phase, max(0, self.step - first)):
                losses = self.train_step(lr, hr, phase, (self.step - first) / phase.steps)
                self.step += 1
                if self.step % 50 == 0:
                    self.log(
                        f"{phase.name} {self.step}/{self.recipe.steps}  " + "  ".join(f"{k} {v:.4f}" for k, v in losses.items())
                    )
                if time.monotonic() - saved > 60 * self.recipe.save_minutes:
                    self.save()
                    saved = time.monotonic()
            first += phase.steps
        self.save()

    def rehearse(self) -> None:
        """One step of every phase on real data, nothing written: what would fail later fails now."""
        for number, phase in enumerate(self.recipe.phases):
            lr, hr = next(self._batches(number, phase, 0))
            started = time.monotonic()
            losses = self.train_step(lr, hr, phase, 0.0)
            shown = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
            self.log(f"{phase.name}: {phase.steps} steps of about {time.monotonic() - started:.1f}s  {shown}")

    def save(self) -> None:
        """Write the resumable state and the averaged weights as a checkpoint.

        Raises:
            OutputError: when they cannot be written; an older state stays.
        """
        facts = {"step": self.step, "spec": self.model.spec.to_dict(), "settings": self.recipe.settings(self.step)}
        try:
            save_state(self.state_path, self._modules(), self._optimizers(), facts)
            save_model(self.recipe.output / "checkpoint", self.ema, self._summary())
        except (OSError, SafetensorError) as error:
            raise OutputError(
                self.recipe.output, f"cannot be written ({error})", "free some space or choose --output"
            ) from error
        self.log(f"saved step {self.step} to {self.recipe.output}")

    def train_step(self, lr: Tensor, hr: Tensor, phase: Phase, progress: float) -> dict[str, float]:
        """One update of the generator and, where the phase has one, of the discriminator.

        Args:
            lr: shape (B, 3, h, w) in [0, 1].
            hr: shape (B, 3, 4h, 4w) in [0, 1].
            phase: the current phase.
            progress: share of the phase that is done, in [0, 1).

        Returns:
            The losses, for the log.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(phase, progress, self.step)
        x_l, x_h = upsample(lr, self.model.spec.scale), 2 * hr - 1
        z_l, z_h = self.model.encode(2 * x_l - 1), self.model.encode(x_h)
        t = self._timesteps(latent_metric(z_l, z_h, self.model.spec.grouping.metric), phase.fidelity_share)
        restored = self.model.decode(self.model.restore(z_l, self.model.condition(x_l, t)))

        grouping = self.model.spec.grouping
        w = realism_weight(t, grouping.k, grouping.n * grouping.k)
        pixel = charbonnier(restored, x_h)
        loss = pixel * (1 - 0.5 * w) + low_frequency(restored, x_h) * w
        logged = {"pixel": pixel.mean()}
        if phase.mesh:
            repeated = mesh(restored, x_h, self.model.spec.scale)
            loss = loss + phase.mesh * repeated
            logged["mesh"] = repeated.mean()
        if phase.perceptual and self.lpips is not None:
            distance = self.lpips(restored, x_h)
            loss = loss + phase.perceptual * (0.02 + 0.98 * w.square()) * distance
            logged["lpips"] = distance.mean()
        if phase.adversarial:
            self.discriminator.requires_grad_(False)
            loss = loss + phase.adversarial * w.square() * generator_hinge(self.discriminator(restored))
        if not torch.isfinite(loss).all():
            raise RcodsrError(
                self.recipe.output, f"the loss is not finite at step {self.step}", "resume with a lower learning rate"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.mean().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
        self.optimizer.step()
        if phase.adversarial:
            logged["d"] = self._train_discriminator(x_h, restored.detach(), w)
        self._average()
        return {name: float(value.detach()) for name, value in logged.items()}

    def _train_discriminator(self, real: Tensor, fake: Tensor, w: Tensor) -> Tensor:
        """Update on the samples whose timestep lets texture count."""
        chosen = w > 0.2
        if not chosen.any():
            return w.new_zeros(())
        self.discriminator.requires_grad_(True)
        loss = discriminator_hinge(self.discriminator(real[chosen]), self.discriminator(fake[chosen]))
        self.d_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.d_optimizer.step()
        return loss.detach()

    def _timesteps(self, metric: Tensor, fidelity_share: float) -> Tensor:
        """Eq. (5) for the grouped share of the batch, a uniform draw from [k, n·k] for the rest, k for the fidelity share."""
        grouping = self.model.spec.grouping
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.step)
        first, last = (grouping.realism_timestep(realism) for realism in (0.0, 1.0))
        anywhere = torch.randint(first, last + 1, metric.shape, generator=generator)
        grouped = torch.rand(metric.shape, generator=generator) < self.recipe.grouped_share
        t = torch.where(grouped, group_timestep(metric, grouping), anywhere)
        return torch.where(torch.rand(metric.shape, generator=generator) < fidelity_share, first, t)

    def _average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)

    def _batches(self, number: int, phase: Phase, done: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (lr, hr) of a phase, the first `done` left out."""
        if done >= phase.steps:
            return
        pairs = self._pairs(phase.crop, seed=self.recipe.seed * 100 + number + 1, length=phase.steps * phase.batch)
        indices = list(batches(pairs, phase.batch, done, phase.steps - done))
        for batch in load(pairs, indices, self.recipe.workers, self.corrupt):
            hr, lr = batch.pairs()
            yield lr, hr

    def _pairs(self, crop: int, seed: int, length: int) -> PhotoPairs:
        return PhotoPairs(self.photos, crop, self.recipe.mix, seed, length, self.recipe.zoom_probability, self.lr)

    def _fit(self) -> None:
        """Standardise the latents and set the grouping's bounds so that the groups start with equal shares."""
        pairs = self._pairs(self.recipe.phases[0].crop, seed=self.recipe.seed * 100, length=384)
        (batch,) = load(pairs, [list(range(len(pairs)))], 0, self.corrupt)
        hr, lr = batch.pairs()
        self.model.autoencoder.fit(2 * hr - 1)
        z_l, z_h = self.model.encode(2 * upsample(lr, self.model.spec.scale) - 1), self.model.encode(2 * hr - 1)
        grouping = self.model.spec.grouping
        metric = latent_metric(z_l, z_h, grouping.metric)
        inner = torch.nanquantile(metric, torch.tensor([1 / grouping.n, 1 - 1 / grouping.n])).tolist()
        width = (inner[1] - inner[0]) / max(1, grouping.n - 2)
        bounds = {"metric_min": round(inner[0] - width, 4), "metric_max": round(inner[1] + width, 4)}
        self.model.spec = replace(self.model.spec, grouping=replace(grouping, **bounds))
        self.log(f"fitted latents and grouping bounds {bounds}")

    def _load_lpips(self) -> LpipsSqueeze | None:
        if self.recipe.perceptual_weights is None:
            return None
        lpips = LpipsSqueeze()
        load_strictly(lpips, self.recipe.perceptual_weights)
        return lpips.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "ema": self.ema, "discriminator": self.discriminator}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"optimizer": self.optimizer, "d_optimizer": self.d_optimizer}

    def _summary(self) -> dict[str, Any]:
        recipe = self.recipe
        return {
            "steps": self.step,
            "planned_steps": recipe.steps,
            "seed": recipe.seed,
            "photos": len(self.photos),
            "mix": recipe.mix,
        }


def learning_rate(phase: Phase, progress: float, step: int) -> float:
    """Cosine from the phase's first to its last learning rate, after 100 steps of warm-up at the start of the run."""
    high, low = phase.learning_rate
    return (low + (high - low) * 0.5 * (1 + math.cos(math.pi * progress))) * min(1.0, (step + 1) / 100)
