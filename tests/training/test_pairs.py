"""The discriminator that compares each picture with its own ground truth: its gradients and its targets."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rcodsr.errors import UsageError
from rcodsr.models.discriminator import PairDiscriminator
from rcodsr.models.lpips import LpipsSqueeze
from rcodsr.training.augment import shift
from rcodsr.training.draws import Draws
from rcodsr.training.losses import pair_loss
from rcodsr.training.objectives import Generated, PairObjective
from rcodsr.training.recipe import PerceptualSettings, Recipe


@pytest.fixture
def objective() -> PairObjective:
    torch.manual_seed(0)
    return PairObjective(PairDiscriminator(LpipsSqueeze(), hidden=8).eval())  # its singular vectors stay fixed


def _made(picture: Tensor, target: Tensor) -> Generated:
    zeros, t = torch.zeros(2, 1, 1, 1), torch.tensor([250, 750])
    weight = torch.tensor([0.0, 1.0])
    return Generated(zeros, picture, target, target, torch.rand_like(target), t, zeros[:, 0], weight, weight, Draws(0, (4, 5)))


def test_pair_loss_by_hand() -> None:
    """log(1 + e^0) = 0.693; a margin of ln 3 costs the generator ln 4 and the discriminator ln 4/3."""
    margins = [torch.zeros(1, 5), torch.full((1, 2), 3.0).log()]
    assert pair_loss(margins, real_wins=False).tolist() == pytest.approx([(0.6931472 + 1.3862944) / 2])
    assert pair_loss(margins, real_wins=True).tolist() == pytest.approx([(0.6931472 + 0.2876821) / 2])


def test_a_picture_that_is_its_ground_truth_has_no_margin(objective: PairObjective) -> None:
    truth, x_l = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    margins = objective.discriminator(truth, truth, x_l)
    assert [m.shape for m in margins] == [(2, side**2) for side in (31, 15)]
    assert not any(m.any() for m in margins)
    other = objective.discriminator(truth.roll(1, 0), truth, x_l)
    assert all(m.any() for m in other)
    swapped = objective.discriminator(truth.roll(1, 0), truth, x_l.roll(1, 0))
    assert not any(torch.equal(a, b) for a, b in zip(other, swapped, strict=True))  # it depends on the input


def test_gradients_stay_on_their_side(objective: PairObjective) -> None:
    picture = torch.rand(2, 3, 64, 64).requires_grad_()
    made = _made(picture, torch.rand(2, 3, 64, 64))
    term, facts = objective.generator_term(made)
    assert term.shape == (2,)
    assert set(facts) == {"margin"}
    term.mean().backward()
    assert picture.grad is not None
    assert not picture.grad[0].any()  # at the fidelity timestep texture does not count
    assert picture.grad[1].any()
    assert all(p.grad is None for p in objective.discriminator.parameters())
    picture.grad = None
    own = objective.own_loss(made.detached())
    assert own[0] == 0  # nor does the discriminator learn from it
    own.mean().backward()
    assert picture.grad is None
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in objective.trained().values())
    assert all(p.grad is None for p in objective.discriminator.eyes.parameters())


def test_the_heads_learn_to_tell_apart() -> None:
    """Noise is real here, smoothness is not: a few steps suffice."""
    torch.manual_seed(0)
    objective = PairObjective(PairDiscriminator(LpipsSqueeze(), hidden=8))
    smooth = torch.full((2, 3, 64, 64), 0.5)
    made = replace(_made(smooth, 0.5 + 0.25 * torch.randn(2, 3, 64, 64)), weight=torch.ones(2), texture=torch.ones(2))
    optimizer = torch.optim.Adam(objective.trained().values(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        objective.own_loss(made).mean().backward()
        optimizer.step()
    before, after = objective.generator_term(made)[0].mean(), objective.own_loss(made).mean()
    assert after < 0.6 < before


def test_a_shift_is_the_samples_own() -> None:
    x = torch.rand(3, 3, 64, 64)
    moved = shift(x, Draws(1, (7, 8, 9)))
    torch.testing.assert_close(moved[1:], shift(x[1:], Draws(1, (8, 9))))
    assert torch.equal(moved, shift(x, Draws(1, (7, 8, 9))))
    assert not torch.equal(moved, x)


def test_it_needs_the_network_it_sees_through(recipe: Recipe) -> None:
    phases = (replace(recipe.phases[0], pairs=0.1),)
    with pytest.raises(UsageError, match="lpips-squeeze"):
        replace(recipe, phases=phases, perceptual=PerceptualSettings("wavelet"))
    with pytest.raises(UsageError, match=r"perceptual\.weights"):
        replace(recipe, phases=phases, perceptual=PerceptualSettings("lpips-squeeze"))


def test_what_a_shift_brings_in_is_grey() -> None:
    """The fill is 0.5, zero to the networks: a white picture stays white or becomes grey."""
    moved = shift(torch.ones(4, 3, 64, 64), Draws(1, (7, 8, 9, 10)))
    assert set(moved.unique().tolist()) == {0.5, 1.0}
