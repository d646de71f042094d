import copy

import pytest
import torch
from torch import Tensor

from rcodsr.models.build import build_model
from rcodsr.models.modulation import Modulation
from rcodsr.models.one_step import Condition, OneStepSR
from rcodsr.variants import VariantSpec


def _picture(batch: int = 1, side: int = 64) -> Tensor:
    return torch.rand(batch, 3, side, side)


def test_fresh_model_returns_its_input(small_spec: VariantSpec) -> None:
    model = build_model(small_spec)
    x = _picture()
    restored = model(x, model.condition(x, torch.tensor([750])))
    torch.testing.assert_close(restored, x, atol=1e-5, rtol=0)


def test_the_timestep_steers(small_model: OneStepSR) -> None:
    x = _picture()
    a, b = (small_model(x, small_model.condition(x, torch.tensor([t]))) for t in (250, 750))
    assert (a - b).abs().mean() > 1e-4


def test_the_visual_tokens_steer(small_model: OneStepSR) -> None:
    x, other = _picture(), _picture().square()
    t = torch.tensor([500])
    a, b = (small_model(x, small_model.condition(source, t)) for source in (x, other))
    assert (a - b).abs().max() > 1e-7


def test_a_batch_equals_its_samples(small_model: OneStepSR) -> None:
    x, t = _picture(3), torch.tensor([250, 500, 750])
    together = small_model(x, small_model.condition(x, t))
    for i in range(3):
        alone = small_model(x[i : i + 1], small_model.condition(x[i : i + 1], t[i : i + 1]))
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_one_condition_serves_all_tiles(small_model: OneStepSR) -> None:
    x = _picture(2)
    condition = small_model.condition(x[:1], torch.tensor([500]))
    assert len(condition.expand(2)) == 2
    torch.testing.assert_close(small_model(x, condition)[1:], small_model(x[1:], condition), atol=1e-5, rtol=1e-5)


def test_conditions_are_indexed_by_tile_and_never_mixed() -> None:
    condition = Condition(torch.tensor([250, 750]), torch.randn(2, 3, 4), Modulation((torch.randn(2, 4, 4),)))
    second = condition[1:2]
    assert second.timestep.tolist() == [750]
    assert torch.equal(second.tokens, condition.tokens[1:])
    assert torch.equal(second.modulation.matrices[0], condition.modulation.matrices[0][1:])
    assert torch.equal(second.expand(3).modulation.matrices[0][2:], condition.modulation.matrices[0][1:])
    with pytest.raises(ValueError, match="2 conditions do not fit 3 tiles"):
        condition.expand(3)


def test_the_network_depends_on_its_neighbourhood_only(small_model: OneStepSR) -> None:
    """No statistic over the picture: a change in one corner must not reach the other."""
    x = _picture(side=256)
    changed = x.clone()
    changed[..., :16, :16] = 1
    condition = small_model.condition(x, torch.tensor([750]))
    a, b = (small_model(picture, condition) for picture in (x, changed))
    torch.testing.assert_close(a[..., 160:, 160:], b[..., 160:, 160:], atol=1e-6, rtol=0)
    assert (a - b)[..., :32, :32].abs().max() > 0.1


def test_bfloat16_network_keeps_float32_latents(small_model: OneStepSR) -> None:
    x, t = _picture(), torch.tensor([500])
    reference = small_model(x, small_model.condition(x, t))
    half = copy.deepcopy(small_model)
    half.unet.bfloat16()
    restored = half(x, half.condition(x, t))
    assert restored.dtype == torch.float32
    assert (restored - reference).abs().mean() < 0.02


def test_every_weight_receives_a_gradient(small_spec: VariantSpec) -> None:
    model = build_model(small_spec)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.02)
    x = _picture(2)
    model(x, model.condition(x, torch.tensor([250, 750]))).square().mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()] == []
