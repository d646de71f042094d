"""Distillation in Algorithm 1: inputs, timesteps and guidance."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rcodsr.diffusion.schedule import NoiseSchedule
from rcodsr.models.discriminator import PatchDiscriminator, UNetDiscriminator
from rcodsr.training.draws import Draws
from rcodsr.training.losses import discriminator_hinge
from rcodsr.training.objectives import AdversarialObjective, Generated, Rates, VsdObjective
from rcodsr.training.recipe import DistillSettings, OptimSettings, Recipe


class _Teachers:
    """Networks with known outputs: eps = mean of the tokens, a hundredth of it for φ′. They record their calls."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Tensor, Tensor, Tensor]] = []
        self.parameter = nn.Parameter(torch.tensor(0.01))

    def prompts(self, x_l: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        assert not tokens.requires_grad
        return tokens, torch.zeros_like(tokens)

    def _answer(self, name: str, z_t: Tensor, t: Tensor, tokens: Tensor, scale: Tensor | float) -> Tensor:
        self.asked.append((name, z_t, t, tokens))
        return tokens.mean((1, 2)).view(-1, 1, 1, 1).expand_as(z_t) * scale

    def frozen(self, z_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        return self._answer("frozen", z_t, t, tokens, 1.0)

    def regularizer(self, z_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        return self._answer("regularizer", z_t, t, tokens, self.parameter)

    def trained(self) -> dict[str, nn.Parameter]:
        return {"scale": self.parameter}


@pytest.fixture
def made() -> Generated:
    z = torch.randn(2, 4, 8, 8, requires_grad=True)
    return Generated(
        z=z,
        picture=torch.zeros(2, 3, 32, 32),
        target=torch.zeros(2, 3, 32, 32),
        lr=torch.zeros(2, 3, 8, 8),
        x_l=torch.zeros(2, 3, 32, 32),
        timestep=torch.tensor([250, 750]),
        tokens=torch.ones(2, 5, 6, requires_grad=True),
        weight=torch.tensor([0.0, 1.0]),
        texture=torch.tensor([0.0, 1.0]),
        draws=Draws(7, (10, 11)),
    )


def test_guidance_is_for_the_frozen_network_alone(made: Generated) -> None:
    """Tokens of mean 1 against zeros: guided eps = 0 + 7.5 · (1 − 0), unguided 0.01."""
    teachers, schedule = _Teachers(), NoiseSchedule()
    x0_regularizer, x0_frozen, facts = VsdObjective(teachers, schedule, 250, 7.5).estimates(made)
    names = [name for name, *_ in teachers.asked]
    assert names == ["regularizer", "frozen", "frozen"]
    _, z_t, t_r, condition = teachers.asked[0]
    torch.testing.assert_close(x0_frozen, schedule.predict_x0(z_t, torch.full_like(z_t, 7.5), t_r))
    torch.testing.assert_close(x0_regularizer, schedule.predict_x0(z_t, torch.full_like(z_t, 0.01), t_r))
    assert all(torch.equal(t_r, t) and torch.equal(z_t, z) for _, z, t, _ in teachers.asked)
    assert torch.equal(teachers.asked[1][3], condition)
    assert not teachers.asked[2][3].any()
    assert facts["cond_uncond"].item() == pytest.approx(1.0)


class _Pessimists(_Teachers):
    """Without a condition they return 0.2."""

    def prompts(self, x_l: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return tokens, torch.full_like(tokens, 0.2)


def test_guidance_starts_from_what_is_said_without_a_condition(made: Generated) -> None:
    """0.2 + 7.5 · (1 − 0.2)."""
    teachers, schedule = _Pessimists(), NoiseSchedule()
    _, x0_frozen, _ = VsdObjective(teachers, schedule, 250, 7.5).estimates(made)
    _, z_t, t_r, _ = teachers.asked[0]
    torch.testing.assert_close(x0_frozen, schedule.predict_x0(z_t, torch.full_like(z_t, 6.2), t_r))


def test_the_noised_latent_is_eq_1_at_t_r(made: Generated) -> None:
    teachers, schedule = _Teachers(), NoiseSchedule()
    VsdObjective(teachers, schedule, 250, 7.5).estimates(made)
    _, z_t, t_r, _ = teachers.asked[0]
    eps = made.draws.normal("eps_r", made.z.detach())
    torch.testing.assert_close(z_t, schedule.alpha(t_r) * made.z.detach() + schedule.sigma(t_r) * eps)


@pytest.mark.parametrize(("window", "ranges"), [(250, ((20, 500), (500, 980))), (None, ((20, 979), (20, 979)))])
def test_sampling_is_around_each_samples_own_timestep(window: int | None, ranges: tuple[tuple[int, int], ...]) -> None:
    """Eq. (7) with both ends included; without it OSEDiff's range."""
    teachers, many = _Teachers(), 4000
    none, t = torch.zeros(many, 1, 1, 1), torch.tensor([250, 750]).repeat(many // 2)
    made = Generated(
        *(none, none, none, none, none, t, torch.ones(many, 1, 1), torch.ones(many), torch.ones(many)),
        draws=Draws(0, tuple(range(many))),
    )
    VsdObjective(teachers, NoiseSchedule(), window, 7.5).estimates(made)
    t_r = teachers.asked[0][2]
    for i, (low, high) in enumerate(ranges):
        mine = t_r[i::2]
        assert low <= mine.min() < low + 10
        assert high - 10 < mine.max() <= high


def test_the_generators_term_has_no_gradient_for_the_teachers(made: Generated) -> None:
    teachers = _Teachers()
    term, _ = VsdObjective(teachers, NoiseSchedule(), 250, 7.5).generator_term(made)
    assert term.shape == (2,)
    term.mean().backward()
    assert teachers.parameter.grad is None
    assert made.tokens.grad is None
    assert made.z.grad is not None
    assert made.z.grad.abs().sum() > 0


def test_the_regulariser_learns_from_detached_latents_at_any_timestep(made: Generated) -> None:
    """L_diff by hand: the prediction is 0.01 everywhere, so dL/dscale = mean 2 (0.01 − eps)."""
    teachers = _Teachers()
    loss = VsdObjective(teachers, NoiseSchedule(), 250, 7.5).own_loss(made.detached())
    loss.mean().backward()
    assert made.z.grad is None
    eps = made.draws.normal("eps_diff", made.z.detach())
    assert teachers.parameter.grad is not None
    assert teachers.parameter.grad.item() == pytest.approx((2 * (0.01 - eps)).mean().item(), abs=1e-5)
    times = Draws(0, tuple(range(3000))).integers("t_diff", 0, 999)
    assert 0 <= times.min() < 5
    assert 994 < times.max() <= 999


def test_the_regulariser_sees_every_timestep_of_the_schedule() -> None:
    """L_diff's t is uniform over 0 to 999, both included, and not DAS's range."""
    teachers, many = _Teachers(), 6000
    none, t = torch.zeros(many, 1, 1, 1), torch.full((many,), 250)
    made = Generated(
        *(none, none, none, none, none, t, torch.ones(many, 1, 1), torch.ones(many), torch.ones(many)),
        draws=Draws(0, tuple(range(many))),
    )
    VsdObjective(teachers, NoiseSchedule(), 250, 7.5).own_loss(made)
    asked = teachers.asked[0][2]
    assert 0 <= asked.min() < 5
    assert 994 < asked.max() <= 999


def test_the_regulariser_learns_at_its_own_rate(sd_recipe: Recipe) -> None:
    optim = OptimSettings(betas=(0.8, 0.95), weight_decay=0.03, clip=2.0)
    recipe = replace(sd_recipe, optim=optim, distill=DistillSettings(learning_rate=3e-5))
    assert VsdObjective(_Teachers(), NoiseSchedule(), 250, 7.5).rates(recipe) == Rates((0.8, 0.95), 0.03, 2.0, 3e-5)


def test_the_discriminator_gets_nothing_of_the_generators_gradient() -> None:
    objective = AdversarialObjective(PatchDiscriminator(8).eval())  # its singular vectors stay fixed
    picture = torch.rand(2, 3, 32, 32, requires_grad=True)
    zeros = torch.zeros(2, 3, 32, 32)
    timestep, tokens = torch.tensor([250, 750]), torch.zeros(2, 1, 1)
    weight = torch.tensor([0.0, 1.0])
    made = Generated(torch.zeros(2, 1, 1, 1), picture, zeros, zeros, zeros, timestep, tokens, weight, weight, Draws(0, (0, 1)))
    term, _ = objective.generator_term(made)
    term.mean().backward()
    assert all(p.grad is None for p in objective.trained().values())
    assert picture.grad is not None
    assert not picture.grad[0].any()  # at the fidelity timestep texture does not count
    assert picture.grad[1].any()
    own = objective.own_loss(made.detached())
    assert own.shape == (1,)  # it learns from the realism sample alone
    other = objective.own_loss(replace(made.detached(), weight=torch.tensor([1.0, 0.5])))
    assert other.shape == (1,)  # half of the samples, those nearest to realism
    assert own[0] != other[0]
    alone = discriminator_hinge(*(objective.discriminator(x[1:].detach()) for x in (made.target, made.picture)))
    torch.testing.assert_close(own, alone)
    own.mean().backward()
    assert any(p.grad is not None and p.grad.any() for p in objective.trained().values())


@pytest.mark.parametrize(
    "draw",
    [
        lambda draws, z: draws.uniform("timestep"),
        lambda draws, z: draws.normal("eps_r", z),
        lambda draws, z: draws.near("t_r", torch.full((len(z),), 500), 250),
    ],
)
def test_draws_depend_on_the_sample_not_on_its_batch(draw: Callable[[Draws, Tensor], Tensor]) -> None:
    z = torch.zeros(4, 2, 3, 3)
    whole = draw(Draws(5, (0, 1, 2, 3)), z)
    parts = torch.cat([draw(Draws(5, (0,)), z[:1]), draw(Draws(5, (1, 2, 3)), z[1:])])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, draw(Draws(6, (0, 1, 2, 3)), z))
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize("build", [PatchDiscriminator, UNetDiscriminator])
def test_a_discriminator_of_pixels_sees_them_from_minus_one_to_one(build: type[PatchDiscriminator | UNetDiscriminator]) -> None:
    discriminator = build(8).eval()
    first = next(module for module in discriminator.modules() if isinstance(module, nn.Conv2d))
    seen: list[Tensor] = []
    first.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    spike = torch.zeros(1, 3, 32, 32)
    spike[..., 16, 16] = 1.0
    discriminator(spike)
    assert seen[0].shape == (1, 6, 32, 32)
    assert torch.equal(seen[0][:, :3], 2 * spike - 1)
    details = seen[0][0, 3, 16, 15:17].tolist()  # four times what a 5×5 mean leaves of 2: −2/25, and 2 − 2/25
    assert details == pytest.approx([-0.32, 7.68], abs=1e-5)
