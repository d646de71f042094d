"""Objectives of the generator besides the data loss: distillation, a restorer, or a discriminator (S3Diff's, ours)."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from rcodsr.diffusion.schedule import NoiseSchedule
from rcodsr.models.discriminator import PairDiscriminator, PatchDiscriminator, UNetDiscriminator
from rcodsr.models.one_step import OneStepSR
from rcodsr.models.real_esrgan import RealEsrgan
from rcodsr.models.residual_dense import ResidualDenseNet
from rcodsr.training.augment import augment, shift
from rcodsr.training.draws import Draws
from rcodsr.training.losses import charbonnier, cross_entropy, discriminator_hinge, distillation, generator_hinge, pair_loss
from rcodsr.training.recipe import Phase, Recipe
from rcodsr.training.teachers import Teachers

if TYPE_CHECKING:
    from rcodsr.models.dino import DinoDiscriminator


@dataclass(frozen=True)
class Generated:
    """A batch after the generator's forward pass."""

    z: Tensor
    """ẑ_H, shape (B, C, h, w)."""
    picture: Tensor
    """x̂_H, shape (B, 3, H, W), nominally in [0, 1]."""
    target: Tensor
    """x_H, same shape, in [0, 1]."""
    lr: Tensor
    """Low-resolution pictures, (B, 3, H/4, W/4) in [0, 1]."""
    x_l: Tensor
    """Enlarged low-resolution pictures, (B, 3, H, W) in [0, 1]."""
    timestep: Tensor
    """Shape (B,), int64."""
    tokens: Tensor
    """c_y, shape (B, N, D)."""
    weight: Tensor
    """w(t) of each sample, (B,) in [0, 1]: 0 at the fidelity timestep, 1 at the realism timestep."""
    texture: Tensor
    """Per-sample factor on the texture losses, (B,) in [0, 1]: w(t) above the phase's floor."""
    draws: Draws
    pulls: dict[str, Tensor] = field(default_factory=dict)
    """Gradients of single objectives at ẑ_H (shape of `z`), for the log."""

    def detached(self) -> "Generated":
        """Return a copy without gradients, for training the objectives' own networks."""
        held = {name: value.detach() for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **held)  # type: ignore[arg-type]


Facts = dict[str, Tensor]
"""Scalars to log, by name."""


@dataclass(frozen=True)
class Rates:
    """AdamW settings of a judge."""

    betas: tuple[float, float]
    weight_decay: float
    clip: float
    """Largest gradient norm; 0 disables clipping."""
    rate: float


class Objective(Protocol):
    """A judge of the generator. Its own parameters, if any, are trained together with the generator."""

    name: str
    acts_on_latents: bool
    """Whether its term depends only on ẑ_H."""
    turns: int
    """Updates of the judge per step."""

    def weight(self, phase: Phase) -> float:
        """Return the phase's weight of this objective; 0 disables it."""
        ...

    def generator_term(self, made: Generated) -> tuple[Tensor, Facts]:
        """Return the generator's loss per sample, (B,), and facts to log."""
        ...

    def own_loss(self, made: Generated, turn: int = 0) -> Tensor:
        """Return the judge's own loss per sample, (B,), on detached pictures, for one of its turns."""
        ...

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the judge's trainable parameters by name."""
        ...

    def rates(self, recipe: Recipe) -> Rates:
        """Return the AdamW settings for these parameters."""
        ...

    def buffers(self) -> dict[str, Tensor]:
        """Return further tensors that a resumed run needs to continue bit for bit."""
        ...


class VsdObjective:
    """Variational score distillation with degradation-aware sampling: Algorithm 1, lines 12 to 18.

    Args:
        teachers: φ and φ′.
        schedule: α and σ.
        window: half width of Eq. (7); None draws t_r uniformly, as in OSEDiff.
        guidance: classifier-free guidance scale of φ alone.
    """

    name = "vsd"
    acts_on_latents = True
    turns = 1

    def __init__(self, teachers: Teachers, schedule: NoiseSchedule, window: int | None, guidance: float) -> None:
        self.teachers = teachers
        self.schedule = schedule
        self.window = window
        self.guidance = guidance

    def weight(self, phase: Phase) -> float:
        """Return λ2."""
        return phase.vsd

    @torch.no_grad()
    def estimates(self, made: Generated) -> tuple[Tensor, Tensor, Facts]:
        """x0′ of φ′ (without guidance) and x0* of φ (with it) for the noised ẑ_H (line 15), of ẑ_H's shape, and facts."""
        z, draws = made.z.detach().float(), made.draws
        t_r = draws.near("t_r", made.timestep, self.window) if self.window else draws.integers("t_r", 20, 979).to(z.device)
        z_t = self.schedule.add_noise(z, draws.normal("eps_r", z), t_r)
        condition, absence = self.teachers.prompts(made.x_l, made.tokens.detach())
        regularizer = self.teachers.regularizer(z_t, t_r, condition)
        with_condition = self.teachers.frozen(z_t, t_r, condition)
        without = self.teachers.frozen(z_t, t_r, absence)
        guided = without + self.guidance * (with_condition - without)
        x0_regularizer, x0_frozen = (self.schedule.predict_x0(z_t, eps, t_r) for eps in (regularizer, guided))
        facts = {"w": (z - x0_frozen).abs().mean(), "cond_uncond": (with_condition - without).square().mean().sqrt()}
        return x0_regularizer, x0_frozen, facts

    def generator_term(self, made: Generated) -> tuple[Tensor, Facts]:
        """L_reg through OSEDiff's surrogate gradient, per sample: (B,)."""
        x0_regularizer, x0_frozen, facts = self.estimates(made)
        return distillation(made.z, x0_regularizer, x0_frozen), facts

    def own_loss(self, made: Generated, turn: int = 0) -> Tensor:
        """L_diff, lines 16 to 18: φ′ learns to denoise the generator's output at any timestep."""
        z, draws = made.z.float(), made.draws
        t = draws.integers("t_diff", 0, 999).to(z.device)
        eps = draws.normal("eps_diff", z)
        condition, _ = self.teachers.prompts(made.x_l, made.tokens)
        predicted = self.teachers.regularizer(self.schedule.add_noise(z, eps, t), t, condition)
        return (predicted - eps).square().mean((1, 2, 3))

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters of φ′."""
        return self.teachers.trained()

    def rates(self, recipe: Recipe) -> Rates:
        """Same as the generator's, except for the learning rate."""
        optim = recipe.optim
        return Rates(optim.betas, optim.weight_decay, optim.clip, recipe.distill.learning_rate)

    def buffers(self) -> dict[str, Tensor]:
        """Return an empty dict."""
        return {}


class AdversarialObjective:
    """A patch-wise discriminator, weighted by the timestep: ours, for variants without a prior.

    Args:
        discriminator: pictures → scores.
    """

    name = "adversarial"
    acts_on_latents = False
    turns = 1

    def __init__(self, discriminator: PatchDiscriminator | UNetDiscriminator) -> None:
        self.discriminator = discriminator

    def weight(self, phase: Phase) -> float:
        """Return the phase's weight of the discriminator."""
        return phase.adversarial

    def generator_term(self, made: Generated) -> tuple[Tensor, Facts]:
        """−D(x̂_H) per sample, (B,). The discriminator is frozen, so that it accumulates no gradient."""
        self.discriminator.requires_grad_(False)
        loss = made.texture * generator_hinge(self.discriminator(made.picture))
        self.discriminator.requires_grad_(True)
        return loss, {}

    def own_loss(self, made: Generated, turn: int = 0) -> Tensor:
        """Hinge loss on the half of the samples with the largest w(t). → (⌈B/2⌉,).

        A deliberately smooth sample would only teach the discriminator that it is smooth. A fixed half, rather than all samples
        above a threshold, keeps the shapes constant and avoids a GPU synchronisation.
        """
        chosen = made.weight.topk((len(made.weight) + 1) // 2).indices
        scores = self.discriminator(torch.cat((made.target[chosen], made.picture[chosen])))
        return discriminator_hinge(*scores.chunk(2))

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the discriminator's parameters."""
        return dict(self.discriminator.named_parameters())

    def rates(self, recipe: Recipe) -> Rates:
        """Higher learning rate than the generator's, and little momentum."""
        return _discriminator_rates(recipe)

    def buffers(self) -> dict[str, Tensor]:
        """Return the singular vectors of spectral normalisation."""
        return dict(self.discriminator.named_buffers())


class RestorerObjective:
    """Pulls towards the output of a pretrained restorer, weighted by w(t).

    Replaces distillation where there is no diffusion prior. If the generator's trunk was initialised from the restorer, their
    features are compared as well.

    Args:
        restorer: frozen.
        model: the generator.
    """

    name = "restorer"
    acts_on_latents = False
    turns = 1

    def __init__(self, restorer: RealEsrgan, model: OneStepSR) -> None:
        self.restorer = restorer
        self.features: Tensor | None = None
        if isinstance(model.unet, ResidualDenseNet):
            model.unet.head.register_forward_pre_hook(self._see)

    def weight(self, phase: Phase) -> float:
        """Return 1 where the phase uses the restorer; the term contains the phase's two weights."""
        self.picture_weight, self.feature_weight = phase.restorer, phase.restorer_features
        return float(bool(phase.restorer or phase.restorer_features))

    def generator_term(self, made: Generated) -> tuple[Tensor, Facts]:
        """w(t) · (distance of the pictures + distance of the features in units of the restorer's) per sample: (B,)."""
        with torch.no_grad():
            features = self.restorer.features(made.lr.contiguous(memory_format=torch.channels_last))
            taught = self.restorer.decode(features)
        distance = charbonnier(made.picture, taught)
        term = self.picture_weight * distance
        if self.feature_weight and self.features is not None:
            apart = (self.features - features).float().abs().mean((1, 2, 3))
            term = term + self.feature_weight * apart / features.float().abs().mean((1, 2, 3))
        return made.weight * term, {"from_restorer": distance.mean()}

    def own_loss(self, made: Generated, turn: int = 0) -> Tensor:
        """Not used: nothing is trained."""
        return made.weight.new_zeros(len(made.weight))

    def trained(self) -> dict[str, nn.Parameter]:
        """Return an empty dict: nothing is trained."""
        return {}

    def rates(self, recipe: Recipe) -> Rates:
        """Not used: nothing is trained."""
        return Rates(recipe.optim.betas, 0.0, 0.0, 0.0)

    def buffers(self) -> dict[str, Tensor]:
        """Return an empty dict."""
        return {}

    def _see(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (self.features,) = inputs


class PairObjective:
    """A discriminator that compares each picture with its own ground truth, weighted by the timestep: ours.

    Args:
        discriminator: picture, ground truth, enlarged input → margins.
    """

    name = "pairs"
    acts_on_latents = False
    turns = 1

    def __init__(self, discriminator: PairDiscriminator) -> None:
        self.discriminator = discriminator

    def weight(self, phase: Phase) -> float:
        """Return the phase's weight of the comparison."""
        return phase.pairs

    def generator_term(self, made: Generated) -> tuple[Tensor, Facts]:
        """Pair loss per sample, (B,): x̂_H should look more real than x_H. The heads are frozen here."""
        self.discriminator.heads.requires_grad_(False)
        margins = self._margins(made)
        self.discriminator.heads.requires_grad_(True)
        return made.texture * pair_loss(margins, real_wins=False), {"margin": torch.stack([m.mean() for m in margins]).mean()}

    def own_loss(self, made: Generated, turn: int = 0) -> Tensor:
        """Loss of the heads, scaled by w(t): a deliberately smooth sample would teach only smoothness."""
        return made.weight * pair_loss(self._margins(made), real_wins=True)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the heads' parameters; the network behind them is frozen."""
        return dict(self.discriminator.heads.named_parameters())

    def rates(self, recipe: Recipe) -> Rates:
        """Higher learning rate than the generator's, and little momentum."""
        return _discriminator_rates(recipe)

    def buffers(self) -> dict[str, Tensor]:
        """Return the singular vectors of spectral normalisation."""
        return dict(self.discriminator.heads.named_buffers())

    def _margins(self, made: Generated) -> list[Tensor]:
        # shifted at random, since the network has strides and would see every crop's pixels at the same phase
        shown = (shift(x, made.draws) for x in (made.picture, made.target, made.x_l))
        margins: list[Tensor] = self.discriminator(*shown)
        return margins


class DinoObjective:
    """S3Diff's discriminator on a frozen DINO, with binary cross entropy at every level.

    Args:
        discriminator: pictures → logits of its heads.
        augmented: change its input by colour, shift and cutout.
        apart: update it on real pictures, then on generated ones, as in S3Diff; otherwise on both at once.
    """

    name = "adversarial"
    acts_on_latents = False

    def __init__(self, discriminator: "DinoDiscriminator", augmented: bool = True, apart: bool = False) -> None:
        self.discriminator = discriminator
        self.augmented = augmented
        self.turns = 2 if apart else 1

    def weight(self, phase: Phase) -> float:
        """Return the phase's weight of the discriminator; S3Diff uses 0.5."""
        return phase.adversarial

    def generator_term(self, made: Generated) -> tuple[Tensor, Facts]:
        """Cross entropy per sample, (B,): x̂_H should look real. S3Diff lets this gradient into the heads, frozen here."""
        self.discriminator.heads.requires_grad_(False)
        loss = made.texture * cross_entropy(self._scores(made.picture, made), real=True)
        self.discriminator.heads.requires_grad_(True)
        return loss, {}

    def own_loss(self, made: Generated, turn: int = 0) -> Tensor:
        """Half from the real pictures, half from the generated ones: together, or one per turn."""
        sides = ((made.target, True), (made.picture, False))
        asked = sides if self.turns == 1 else sides[turn : turn + 1]
        return 0.5 * torch.stack([cross_entropy(self._scores(shown, made), real) for shown, real in asked]).sum(0)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the heads' parameters."""
        return dict(self.discriminator.heads.named_parameters())

    def rates(self, recipe: Recipe) -> Rates:
        """Same as the generator's, except for the learning rate."""
        optim = recipe.optim
        return Rates(optim.betas, optim.weight_decay, optim.clip, recipe.discriminator.learning_rate)

    def buffers(self) -> dict[str, Tensor]:
        """Return the singular vectors of spectral normalisation."""
        return dict(self.discriminator.heads.named_buffers())

    def _scores(self, picture: Tensor, made: Generated) -> list[Tensor]:
        shown = picture.float().clamp(0, 1)
        out: list[Tensor] = self.discriminator(augment(shown, made.draws) if self.augmented else shown)
        return out


def _discriminator_rates(recipe: Recipe) -> Rates:
    return Rates((0.5, 0.99), 1e-2, 0.0, recipe.discriminator.learning_rate)
