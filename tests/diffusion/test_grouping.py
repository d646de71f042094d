import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rcodsr.diffusion.grouping import group_timestep, latent_metric, regularizer_timestep
from rcodsr.errors import UsageError
from rcodsr.options import parse_realism
from rcodsr.parts import GroupingSpec

PAPER = GroupingSpec()


@pytest.mark.parametrize(
    ("metric", "timestep"),
    # 0.621 is the paper's Fig. S6; the others are the bounds, the inner borders, and values outside
    [(0.621, 500), (0.25, 750), (1.0, 250), (0.5, 500), (0.75, 250), (0.4999, 750), (-0.3, 750), (1.7, 250)],
)
def test_eq_5(metric: float, timestep: int) -> None:
    assert group_timestep(torch.tensor([metric]), PAPER).tolist() == [timestep]


def test_eq_5_takes_nan_for_the_lower_bound() -> None:
    assert group_timestep(torch.tensor([math.nan, 0.9]), PAPER).tolist() == [750, 250]


def test_eq_5_never_leaves_the_training_schedule() -> None:
    assert group_timestep(torch.tensor([0.0]), GroupingSpec(n=4, metric_min=0.0)).tolist() == [999]


@given(st.floats(-1, 1), st.floats(-1, 1), st.integers(1, 4))
def test_eq_5_falls_with_the_metric(a: float, b: float, n: int) -> None:
    t = group_timestep(torch.tensor([min(a, b), max(a, b)], dtype=torch.float64), GroupingSpec(n=n)).tolist()
    assert t[0] >= t[1]
    assert set(t) <= {min(999, 250 * (i + 1)) for i in range(n)}


def test_eq_6_by_hand() -> None:
    z_l = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    z_h = torch.tensor([4.0, 3.0]).view(1, 2, 1, 1)
    assert latent_metric(z_l, z_h).item() == pytest.approx(24 / 25)


def test_eq_6_properties() -> None:
    z = torch.randn(4, 3, 8, 8, requires_grad=True)
    torch.testing.assert_close(latent_metric(z, 3 * z), torch.ones(4))
    torch.testing.assert_close(latent_metric(z, -z), -torch.ones(4))
    assert not latent_metric(z, z).requires_grad
    assert latent_metric(torch.zeros(1, 3, 2, 2), z[:1, :, :2, :2]).isnan().all()


def test_channel_cosine_by_hand() -> None:
    """Agreement of 1 in a strong channel and of 0 in a weak one: 0.5, whatever their strengths and means."""
    strong, a, b = (torch.tensor(x) for x in ([1.0, -1, 1, -1], [1.0, -1, 1, -1], [1.0, 1, -1, -1]))
    z_l = torch.stack((50 * strong + 7, 0.1 * a, torch.full((4,), 3.0))).view(1, 3, 2, 2)
    z_h = torch.stack((20 * strong - 3, 9.0 * b, torch.randn(4))).view(1, 3, 2, 2)
    channels = latent_metric(z_l[:, :2], z_h[:, :2], "channel-cosine")
    assert channels.item() == pytest.approx(0.5)
    lacking = latent_metric(z_l, z_h, "channel-cosine")  # flat only in z_L: counts as 0
    assert lacking.item() == pytest.approx(1 / 3)
    assert latent_metric(z_h, z_l, "channel-cosine").item() == pytest.approx(0.5)  # flat in the truth: skipped
    assert latent_metric(torch.randn(1, 3, 4, 4), torch.ones(1, 3, 4, 4), "channel-cosine").isnan()


@pytest.mark.parametrize("kind", ["cosine", "channel-cosine", "l1", "mse"])
def test_every_metric_falls_with_degradation(kind: str) -> None:
    z, noise = torch.randn(1, 3, 16, 16), torch.randn(1, 3, 16, 16)
    values = [latent_metric(z + share * noise, z, kind).item() for share in (0.1, 0.5, 2.0)]  # type: ignore[arg-type]
    assert values[0] > values[1] > values[2]


@pytest.mark.parametrize(("t", "low", "high"), [(250, 20, 500), (500, 250, 750), (750, 500, 980)])
def test_eq_7_draws_from_the_whole_window_and_never_outside(t: int, low: int, high: int) -> None:
    drawn = regularizer_timestep(torch.full((100_000,), t), 250, torch.Generator().manual_seed(0))
    assert drawn.min() == low
    assert drawn.max() == high
    assert drawn.double().mean().item() == pytest.approx((low + high) / 2, abs=1.5)


def test_eq_7_is_per_sample() -> None:
    drawn = regularizer_timestep(torch.tensor([250, 750] * 1000), 250)
    assert drawn[::2].max() <= 500 <= drawn[1::2].min()


@pytest.mark.parametrize(("realism", "timestep"), [(0, 250), (0.25, 375), (0.5, 500), (0.75, 625), (1, 750)])
def test_realism_to_timestep_and_back(realism: float, timestep: int) -> None:
    assert PAPER.realism_timestep(realism) == timestep
    assert PAPER.timestep_realism(timestep) == realism


def test_levels_have_names() -> None:
    assert [PAPER.level(t) for t in (250, 300, 500, 700, 750)] == ["fidelity", "fidelity", "neutral", "realism", "realism"]


def test_four_groups_end_at_the_last_timestep() -> None:
    assert GroupingSpec(n=4).realism_timestep(1) == 999


@pytest.mark.parametrize(("text", "value"), [("0.5", 0.5), ("fidelity", 0), ("Neutral", 0.5), (" realism ", 1), ("1", 1)])
def test_parse_realism(text: str, value: float) -> None:
    assert parse_realism(text) == value


@pytest.mark.parametrize("text", ["50", "50%", "-0.1", "nan", "much", ""])
def test_parse_realism_refuses_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError, match="--realism.*;"):
        parse_realism(text)


def test_percentages_are_met_with_the_right_number() -> None:
    with pytest.raises(UsageError, match=r"did you mean 0\.5"):
        parse_realism("50")
