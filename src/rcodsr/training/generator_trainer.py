"""Algorithm 1: one step of the generator and of the objectives trained with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rcodsr.data.dataset import Batch
from rcodsr.diffusion.grouping import group_timestep, latent_metric
from rcodsr.images.resize import upsample
from rcodsr.models.one_step import Condition, OneStepSR
from rcodsr.training.data_loss import DataLoss, realism_range
from rcodsr.training.draws import Draws
from rcodsr.training.losses import realism_weight
from rcodsr.training.objectives import Facts, Generated, Objective
from rcodsr.training.optimizer import Optimizer
from rcodsr.training.perceptual import Distance
from rcodsr.training.processes import Processes
from rcodsr.training.recipe import Phase, Recipe
from rcodsr.training.trainer import Trainer, floats, require_finite


@dataclass(frozen=True)
class Turn:
    """The losses used in one update of θ."""

    objectives: Sequence[Objective]
    data: bool = True
    """Whether L_data is included."""


class GeneratorTrainer(Trainer):
    """Trains a one-step generator.

    Args:
        recipe: weights of losses, rates, ablations.
        model: on the device; parameters that require gradients are trained.
        objectives: judges trained together with the generator.
        perceptual: distance for λ1, or None.
        processes: the processes to average gradients with.
        tell: returns the embedding (1, N, D) of a photo's text, where photos have texts; None uses the model's own tokens.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: OneStepSR,
        objectives: Sequence[Objective],
        perceptual: Distance | None,
        processes: Processes,
        tell: Callable[[str], Tensor] | None = None,
    ) -> None:
        judged = [parameter for objective in objectives for parameter in objective.trained().values()]
        super().__init__(recipe, model, processes, apart=judged)
        self.objectives = objectives
        self.tell = tell
        self.judges = {o.name: self._judge_optimizer(o) for o in objectives if o.trained()}
        self.data_loss = DataLoss(recipe, model, perceptual)

    def _judge_optimizer(self, objective: Objective) -> Optimizer:
        rates = objective.rates(self.recipe)
        return Optimizer(
            objective.trained(), rates.betas, rates.weight_decay, rates.clip, self.processes, rates.rate, self.scaled
        )

    def train_step(self, batches: Sequence[Batch], phase: Phase, rate: float, step: int) -> dict[str, float]:
        """Update θ once, then every objective with trainable parameters (Algorithm 1, lines 5 to 19).

        Arguments, results and errors as in `Trainer.train_step`.
        """
        averaged: Facts = {}
        for judges in self._turns(phase):
            facts, finished = self._learn(batches, phase, judges)
            averaged = _joined(averaged, self._update(facts, rate, step))
        for objective in self._judging(phase):
            averaged[f"{objective.name}_own"] = self._train_judge(objective, finished, step)
        return floats(averaged)

    def passes(self, batches: Sequence[Batch], phase: Phase) -> list[Generated]:
        """Run forward and backward; see `Trainer.passes`."""
        for turn in self._turns(phase):
            _, finished = self._learn(batches, phase, turn)
        for objective in self._judging(phase):
            for number in range(objective.turns):
                self._judge(objective, finished, number)
        return finished

    def _judging(self, phase: Phase) -> list[Objective]:
        """Objectives that are trained in a phase."""
        return [objective for objective in self.objectives if objective.name in self.judges and objective.weight(phase)]

    def _turns(self, phase: Phase) -> list[Turn]:
        """Return the losses of each update of θ in this step: all at once, or S3Diff's two."""
        if self.recipe.discriminator.steps == "joint" or not phase.adversarial:
            return [Turn(self.objectives)]
        apart = [objective for objective in self.objectives if objective.name == "adversarial"]
        return [Turn([objective for objective in self.objectives if objective not in apart]), Turn(apart, data=False)]

    def _learn(self, batches: Sequence[Batch], phase: Phase, turn: Turn) -> tuple[list[Facts], list[Generated]]:
        """Run forward and backward on each batch. Leaves gradients in θ; returns facts to log and the generated pictures."""
        share, facts, finished = 1 / len(batches), [], []
        for batch in batches:
            with self._precision():
                made, own = self.generate(batch, phase)
                loss, seen = self._generator_loss(made, phase, turn)
            self.optimizer.backward(loss.mean() * share)
            scale = self.optimizer.scale
            alignment = _alignment(made, share, 1.0 if scale is None else scale.value)
            facts.append({name: value.detach() for name, value in (own | seen | {"loss": loss.mean(), **alignment}).items()})
            finished.append(made.detached())
        return facts, finished

    def generate(self, batch: Batch, phase: Phase) -> tuple[Generated, Facts]:
        """Encode, group, restore, decode: Algorithm 1, lines 5 to 10."""
        model, draws = self.model, Draws(self.recipe.seed, batch.samples)
        x_l, x_h = upsample(batch.lr, model.spec.scale), batch.hr
        modulation = model.modulator.measure(batch.lr)
        with model.modulator.using(modulation):
            z_l = model.encode(x_l)
            metric = self._metric(z_l, x_l, x_h)
            t = self._timesteps(metric, draws, phase)
            condition = Condition(t, self._tokens(batch, x_l), modulation, draws.origins().to(t.device))
            z = model.restore(z_l, condition)
            picture = model.decode(z)
        if z.requires_grad:
            z.retain_grad()
        first, last = realism_range(model.spec.grouping)
        weight = realism_weight(t, first, last) if self.recipe.timestep.weight_losses else torch.ones_like(t).float()
        made = Generated(
            z=z,
            picture=picture,
            target=x_h,
            lr=batch.lr,
            x_l=x_l,
            timestep=t,
            tokens=condition.tokens,
            weight=weight,
            texture=phase.texture_floor + (1 - phase.texture_floor) * weight,
            draws=draws,
        )
        return made, {"metric": metric.nan_to_num().mean(), **self._occupancy(t)}

    def _tokens(self, batch: Batch, x_l: Tensor) -> Tensor:
        """c_y: each photo's own text, or the model's tokens for the picture. → (B, N, D)."""
        if self.tell is None:
            tokens: Tensor = self.model.prompt(x_l)
            return tokens
        return torch.cat([self.tell(text).to(x_l) for text in batch.texts])

    def _metric(self, z_l: Tensor, x_l: Tensor, x_h: Tensor) -> Tensor:
        """M_L, Eq. (6), with the encoder named by the grouping."""
        grouping = self.model.spec.grouping
        with torch.no_grad():
            if grouping.metric_encoder == "frozen" and self.model.spec.lora is not None:
                from rcodsr.models.lora import without_lora

                with without_lora(self.model.autoencoder):
                    z_l, z_h = self.model.encode(x_l), self.model.encode(x_h)
            else:
                z_h = self.model.encode(x_h)
            return latent_metric(z_l, z_h, grouping.metric)

    def _timesteps(self, metric: Tensor, draws: Draws, phase: Phase) -> Tensor:
        """Eq. (5). The recipe may place a share of the samples anywhere in the realism range, or at its ends."""
        first, last = realism_range(self.model.spec.grouping)
        t = group_timestep(metric, self.model.spec.grouping)
        if self.recipe.timestep.grouped_share < 1:
            grouped = draws.uniform("timestep") < self.recipe.timestep.grouped_share
            t = torch.where(grouped.to(t.device), t, draws.integers("anywhere", first, last).to(t.device))
        if phase.fidelity_share or phase.realism_share:
            drawn = draws.uniform("fidelity").to(t.device)
            t = torch.where(drawn < phase.fidelity_share, first, t)
            t = torch.where(drawn >= 1 - phase.realism_share, last, t)
        return t

    def _generator_loss(self, made: Generated, phase: Phase, turn: Turn | None = None) -> tuple[Tensor, Facts]:
        """L_data + λ2 L_reg, per sample: Algorithm 1, lines 11 to 15 and 19. The paper never defines L_cls; it is left out."""
        turn = turn or Turn(self.objectives)
        loss, facts = self.data_loss(made, phase) if turn.data else (torch.zeros_like(made.weight), {})
        for objective in turn.objectives:
            if weight := objective.weight(phase):
                term, seen = objective.generator_term(made)
                loss = loss + weight * term
                if objective.acts_on_latents and made.z.requires_grad:
                    (made.pulls[objective.name],) = torch.autograd.grad((weight * term).mean(), made.z, retain_graph=True)
                facts |= {objective.name: term.mean(), **seen}
        return loss, facts

    def _train_judge(self, objective: Objective, finished: Sequence[Generated], step: int) -> Tensor:
        """Update φ′ or the discriminator on the pictures just generated, once per turn."""
        judge, losses = self.judges[objective.name], []
        for turn in range(objective.turns):
            losses += self._judge(objective, finished, turn)
            norm = judge.gather()
            if not judge.skips:
                require_finite(step, {f"norm of the gradient of {objective.name}": norm})
            judge.step()
        return self.processes.average(torch.stack(losses).sum() / len(finished))

    def _judge(self, objective: Objective, finished: Sequence[Generated], turn: int) -> list[Tensor]:
        """Run an objective's passes over the generated batches in one of its turns. Leaves gradients; returns the losses."""
        losses = []
        for made in finished:
            with self._precision():
                loss = objective.own_loss(made, turn).mean()
            self.judges[objective.name].backward(loss / len(finished))
            losses.append(loss.detach())
        return losses

    def _occupancy(self, t: Tensor) -> Facts:
        """Share of the samples closest to each group's timestep."""
        grouping = self.model.spec.grouping
        nearest = (t.float() / grouping.k).round().clamp(1, grouping.n)
        return {f"share_{timestep}": (nearest == g).float().mean() for g, timestep in enumerate(grouping.timesteps, 1)}

    def tensors(self) -> dict[str, Tensor]:
        """Same as in `Trainer`, plus the parameters and buffers of the judges."""
        found = super().tensors()
        for objective in self.objectives:
            judge = objective.trained() | objective.buffers()
            found |= {f"{objective.name}/{name}": tensor for name, tensor in judge.items()}
        for name, learns in self.judges.items():
            found |= learns.tensors(name)
        return found

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Same as in `Trainer`, plus the optimisers of the judges."""
        return super().optimizers() | {f"{name}_optimizer": judge.inner for name, judge in self.judges.items()}


def _joined(first: Facts, second: Facts) -> Facts:
    """Merge the facts of two updates of one step: losses are summed, the larger gradient norm is kept."""
    if not first:
        return second
    norm = torch.maximum(first["grad_norm"], second["grad_norm"])
    return {**first, **second, "loss": first["loss"] + second["loss"], "grad_norm": norm}


def _alignment(made: Generated, share: float, scale: Tensor | float = 1.0) -> Facts:
    """Cosine between what the distillation and everything else ask of ẑ_H; watch it instead of the raw L_reg."""
    pull = made.pulls.get("vsd")
    if pull is None or made.z.grad is None:
        return {}
    vsd = pull.flatten(1) * share
    rest = made.z.grad.flatten(1) / scale - vsd
    return {"gradient_cosine": nn.functional.cosine_similarity(vsd, rest).mean()}
