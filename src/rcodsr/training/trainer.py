"""Algorithm 1: one step of the generator, and of what learns beside it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rcodsr.diffusion.grouping import group_timestep, latent_metric
from rcodsr.errors import RcodsrError
from rcodsr.images.resize import upsample
from rcodsr.models.grain import SIDE
from rcodsr.models.one_step import Condition, OneStepSR
from rcodsr.training.draws import Draws
from rcodsr.training.losses import (
    charbonnier,
    clamped_mse,
    faint_distance,
    low_frequency,
    mesh,
    overshoot,
    realism_weight,
    wavelet_distance,
)
from rcodsr.training.objectives import Facts, Generated, Objective
from rcodsr.training.optimizer import Average, Optimizer
from rcodsr.training.perceptual import Distance
from rcodsr.training.processes import Processes
from rcodsr.training.recipe import Phase, Recipe


@dataclass(frozen=True)
class Batch:
    """Training pairs on the device."""

    lr: Tensor
    """Shape (B, 3, h, w) in [0, 1]."""
    hr: Tensor
    """Shape (B, 3, 4h, 4w) in [0, 1]."""
    draws: Draws


class GeneratorTrainer:
    """Trains a one-step generator.

    Args:
        recipe: weights of losses, rates, ablations.
        model: on the device; what requires gradients is trained.
        objectives: judges that learn beside it.
        perceptual: distance for λ1, or None.
        processes: who the gradients are shared with.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: OneStepSR,
        objectives: Sequence[Objective],
        perceptual: Distance | None,
        processes: Processes,
    ) -> None:
        self.recipe, self.model = recipe, model
        self.objectives, self.perceptual, self.processes = objectives, perceptual, processes
        judged = {id(parameter) for objective in objectives for parameter in objective.trained().values()}
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad and id(p) not in judged}
        decay, betas = recipe.weight_decay, recipe.betas
        self.optimizer = Optimizer(self.trained, betas, decay, recipe.clip, processes)
        self.judges = {o.name: self._judge_optimizer(o) for o in objectives if o.trained()}
        self.average = Average(self.trained, recipe.ema) if recipe.ema else None
        restrained = any(phase.restrain for phase in recipe.phases)
        self.before = copy.deepcopy(model).eval().requires_grad_(False) if restrained else None

    def _judge_optimizer(self, objective: Objective) -> Optimizer:
        rates = objective.rates(self.recipe)
        return Optimizer(objective.trained(), rates.betas, rates.weight_decay, rates.clip, self.processes, rates.rate)

    def train_step(self, batches: Sequence[Batch], phase: Phase, rate: float, step: int) -> dict[str, float]:
        """One update of θ, then one of everything that learns beside it (Algorithm 1, lines 5 to 19).

        Args:
            batches: their gradients are averaged.
            phase: weights of losses.
            rate: the generator's learning rate.
            step: number of steps done, for messages and the running average.

        Returns:
            Losses and other facts, averaged over the batches.

        Raises:
            RcodsrError: when a loss is not finite; nothing has been updated then.
        """
        share, facts, finished = 1 / len(batches), [], []
        for batch in batches:
            with self._precision():
                made, own = self.generate(batch, phase)
                loss, seen = self._generator_loss(made, phase)
            (loss.mean() * share).backward()
            facts.append(own | seen | {"loss": loss.mean(), **_alignment(made, share)})
            finished.append(made.detached())
        averaged = self._averaged(facts)
        if not torch.isfinite(averaged["loss"]):
            raise RcodsrError("training", f"the loss is not finite at step {step}", "resume with a lower learning rate")
        averaged["grad_norm"] = self.optimizer.step(rate)
        for objective in self.objectives:
            if objective.name in self.judges and objective.weight(phase):
                averaged[f"{objective.name}_own"] = self._train_judge(objective, finished)
        if self.average is not None:
            self.average.update(step)
        # one transfer for all: each makes a GPU wait
        return dict(zip(averaged, torch.stack([value.float() for value in averaged.values()]).tolist(), strict=True))

    def generate(self, batch: Batch, phase: Phase) -> tuple[Generated, Facts]:
        """Encode, group, restore, decode: Algorithm 1, lines 5 to 10."""
        model = self.model
        x_l, x_h = upsample(batch.lr, model.spec.scale), 2 * batch.hr - 1
        modulation = model.modulator.measure(batch.lr)
        with model.modulator.using(modulation):
            z_l = model.encode(2 * x_l - 1)
            metric = self._metric(z_l, x_l, x_h)
            t = self._timesteps(metric, batch.draws, phase)
            condition = Condition(t, model.prompt(x_l), modulation, self._origin(batch.draws))
            z = model.restore(z_l, condition)
            picture = model.decode(z)
        if z.requires_grad:
            z.retain_grad()
        weight = realism_weight(t, *self._ends()) if self.recipe.weight_by_timestep else torch.ones_like(t).float()
        texture = phase.texture_floor + (1 - phase.texture_floor) * weight
        made = Generated(z, picture, x_h, batch.lr, x_l, t, condition.tokens, weight, texture, batch.draws)
        return made, {"metric": metric.nan_to_num().mean(), **self._occupancy(t)}

    def _origin(self, draws: Draws) -> Tensor:
        """Where in the field of noise each crop begins."""
        places = [draws.integers(axis, 0, SIDE - 1) for axis in ("row", "column")]
        return torch.stack(places, 1).to(self.processes.device)

    def _metric(self, z_l: Tensor, x_l: Tensor, x_h: Tensor) -> Tensor:
        """M_L, Eq. (6), with the encoder that the grouping names."""
        grouping = self.model.spec.grouping
        with torch.no_grad():
            if grouping.metric_encoder == "frozen" and self.model.spec.lora is not None:
                from rcodsr.models.lora import without_lora

                with without_lora(self.model.autoencoder):
                    z_l, z_h = self.model.encode(2 * x_l - 1), self.model.encode(x_h)
            else:
                z_h = self.model.encode(x_h)
            return latent_metric(z_l, z_h, grouping.metric)

    def _ends(self) -> tuple[int, int]:
        grouping = self.model.spec.grouping
        return grouping.realism_timestep(0.0), grouping.realism_timestep(1.0)

    def _timesteps(self, metric: Tensor, draws: Draws, phase: Phase) -> Tensor:
        """Eq. (5); where the recipe says so, a share of the samples anywhere in the realism range or at its ends."""
        first, last = self._ends()
        t = group_timestep(metric, self.model.spec.grouping)
        if self.recipe.grouped_share < 1:
            grouped = draws.uniform("timestep") < self.recipe.grouped_share
            t = torch.where(grouped.to(t.device), t, draws.integers("anywhere", first, last).to(t.device))
        if phase.fidelity_share or phase.realism_share:
            drawn = draws.uniform("fidelity").to(t.device)
            t = torch.where(drawn < phase.fidelity_share, first, t)
            t = torch.where(drawn >= 1 - phase.realism_share, last, t)
        return t

    def _generator_loss(self, made: Generated, phase: Phase) -> tuple[Tensor, Facts]:
        """L_data + λ2 L_reg, per sample: Algorithm 1, lines 11 to 15 and 19. L_cls is never defined and left out."""
        loss, facts = self._data_loss(made, phase)
        for objective in self.objectives:
            if weight := objective.weight(phase):
                term, seen = objective.generator_term(made)
                loss = loss + weight * term
                if objective.acts_on_latents and made.z.requires_grad:
                    (made.pulls[objective.name],) = torch.autograd.grad((weight * term).mean(), made.z, retain_graph=True)
                facts |= {objective.name: term.mean(), **seen}
        return loss, facts

    def _data_loss(self, made: Generated, phase: Phase) -> tuple[Tensor, Facts]:
        """Pixel error + λ1 · perceptual distance, and our own additions."""
        picture, target, w = made.picture, made.target, made.weight
        if phase.pixel == "mse":
            pixel = clamped_mse(picture, target)
            loss = pixel
        else:
            pixel = charbonnier(picture, target)
            loss = pixel
            if self.recipe.weight_by_timestep:
                loss = pixel * (1 - phase.pixel_fade * w) + low_frequency(picture, target) * w
        loss = phase.pixel_weight * loss
        facts = {"pixel": pixel.mean()}
        if phase.mesh:
            repeated = mesh(picture, target, self.model.spec.scale)
            loss = loss + phase.mesh * repeated
            facts["mesh"] = repeated.mean()
        if phase.overshoot:
            outside = overshoot(picture, target)
            loss = loss + phase.overshoot * outside
            facts["overshoot"] = outside.mean()
        if phase.energy:
            strength = wavelet_distance(picture, target)
            loss = loss + phase.energy * made.texture * strength
            facts["energy"] = strength.mean()
        if phase.faint:
            grain = faint_distance(picture, target)
            loss = loss + phase.faint * made.texture * grain
            facts["faint"] = grain.mean()
        if phase.restrain:
            departure = charbonnier(picture, self._restrained(made, phase))
            loss = loss + phase.restrain * departure
            facts["departure"] = departure.mean()
        if phase.perceptual and self.perceptual is not None:
            shown = picture.clamp(-1, 1) if phase.pixel == "mse" else picture
            distance = self.perceptual(shown, target)
            loss = loss + phase.perceptual * made.texture * distance
            facts["perceptual"] = distance.mean()
        return loss, facts

    @torch.no_grad()
    def _restrained(self, made: Generated, phase: Phase) -> Tensor:
        """What the weights at the beginning made of the batch at timesteps nearer to k: (B, 3, H, W)."""
        assert self.before is not None
        first, last = self._ends()
        nearer = phase.restraint * realism_weight(made.timestep, first, last) ** phase.bend
        t = (first + nearer * (last - first)).round().long()
        condition = replace(self.before.condition(made.x_l, t), origin=self._origin(made.draws))
        picture: Tensor = self.before(2 * made.x_l - 1, condition)
        return picture

    def _train_judge(self, objective: Objective, finished: Sequence[Generated]) -> Tensor:
        """Update φ′ or the discriminator on what the generator has just made."""
        losses = []
        for made in finished:
            with self._precision():
                loss = objective.own_loss(made).mean()
            (loss / len(finished)).backward()
            losses.append(loss.detach())
        self.judges[objective.name].step()
        return self.processes.average(torch.stack(losses).mean())

    def _occupancy(self, t: Tensor) -> Facts:
        """Share of the samples nearest to each group's timestep."""
        grouping = self.model.spec.grouping
        nearest = (t.float() / grouping.k).round().clamp(1, grouping.n)
        return {f"share_{timestep}": (nearest == g).float().mean() for g, timestep in enumerate(grouping.timesteps, 1)}

    def _averaged(self, facts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        means = {name: torch.stack([f[name].detach().float() for f in facts]).mean() for name in facts[0]}
        return {name: self.processes.average(mean) for name, mean in means.items()}

    def _precision(self) -> AbstractContextManager[object]:
        if self.recipe.dtype == "fp32":
            return nullcontext()
        return torch.autocast(self.processes.device.type, torch.bfloat16)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training changes, by name: what a saved state holds besides the optimisers."""
        found: dict[str, Tensor] = {f"model/{name}": parameter for name, parameter in self.trained.items()}
        found |= {f"model/{name}": buffer for name, buffer in self.model.autoencoder.named_buffers(prefix="autoencoder")}
        if self.model.metric_estimator is not None:
            estimator = self.model.metric_estimator.named_buffers(prefix="metric_estimator")
            found |= {f"model/{name}": buffer for name, buffer in estimator}
        for objective in self.objectives:
            judge = objective.trained() | objective.buffers()
            found |= {f"{objective.name}/{name}": tensor for name, tensor in judge.items()}
        if self.average is not None:
            found |= {f"average/{name}": tensor for name, tensor in self.average.tensors.items()}
        return found

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By name, for a saved state."""
        return {"optimizer": self.optimizer.inner, **{f"{name}_optimizer": o.inner for name, o in self.judges.items()}}

    def averaged(self) -> AbstractContextManager[object]:
        """The model with the weights that are exported, within a `with` block."""
        return nullcontext() if self.average is None else self.average.applied()


def _alignment(made: Generated, share: float) -> Facts:
    """Cosine between what the distillation and everything else ask of ẑ_H; watch it instead of the raw L_reg."""
    pull = made.pulls.get("vsd")
    if pull is None or made.z.grad is None:
        return {}
    vsd = pull.flatten(1) * share
    rest = made.z.grad.flatten(1) - vsd
    return {"gradient_cosine": nn.functional.cosine_similarity(vsd, rest).mean()}
