"""The parts of `rcodsr bench`: counts, ratios, pictures, and that no speed is reported for a wrong result."""

import copy

import pytest
import torch
from torch import nn

from rcodsr.bench.ceilings import Ceilings
from rcodsr.bench.clock import Lap, ratio, summary, take_turns
from rcodsr.bench.contenders import Contender, agreement, plain_copy, plain_runner
from rcodsr.bench.cost import flops, trainable_parameters
from rcodsr.bench.natural import natural_batch, natural_picture
from rcodsr.bench.speed import SpeedRequest, _case, _Gate
from rcodsr.engine.runner import prepare
from rcodsr.engine.runtime import choose_runtime
from rcodsr.messages import silent
from rcodsr.models.one_step import OneStepSR
from rcodsr.models.rewrites import REWRITES, DoublingConv
from rcodsr.variants import RCOD_O, RCOD_S, VariantSpec
from tests.conftest import shake

CPU = torch.device("cpu")


def test_operations_of_the_papers_size_are_the_published_counts() -> None:
    """512×512: the U-Net's 821.8 GFLOP and the decoder's 2,514.5 are what others have counted (1,257 GMACs)."""
    counted = flops(RCOD_O, 512, 1)
    assert {name: round(count / 1e9, 1) for name, count in counted.items()} == {
        "condition": 162.6,
        "encode": 1116.7,
        "unet": 821.8,
        "decode": 2514.5,
    }


def test_operations_grow_with_the_batch_and_with_lora_that_stays(small_s_spec: VariantSpec, small_sd_spec: VariantSpec) -> None:
    one, two = flops(small_s_spec, 32, 1), flops(small_s_spec, 32, 2)
    assert two["unet"] == 2 * one["unet"]
    assert flops(small_sd_spec, 32, 1)["unet"] < one["unet"]


def test_trainable_parameters_are_the_papers() -> None:
    assert trainable_parameters(RCOD_O)["total"] == 5_486_508  # 9.5 M with the regulariser's LoRA
    assert trainable_parameters(RCOD_S)["total"] == 35_524_720


def test_turns_and_ratios() -> None:
    order: list[str] = []
    blocks = take_turns({name: lambda name=name: order.append(name) for name in "ABC"}, rounds=2, calls=2, device=CPU)  # type: ignore[misc]
    assert "".join(order) == "AABBCC" * 2
    assert [len(block) for block in blocks["A"]] == [2, 2]
    slow = [[Lap(4, 8), Lap(6, 8)], [Lap(9, 8)]]
    fast = [[Lap(1, 2), Lap(3, 2)], [Lap(3, 4)]]
    assert ratio(slow, fast) == 2.75  # (5/2 + 9/3) / 2
    assert ratio(slow, fast, cpu=True) == 3.0
    assert summary(slow) == {"median": 6, "p10": 4, "p90": 9, "n": 3, "cpu_median": 8}


def test_agreement_by_hand() -> None:
    expected = torch.tensor([0.0, 1.0, 2.0, 1.0])
    psnr, rel_l2, largest = agreement(expected + torch.tensor([0.02, -0.02, 0.02, -0.02]), expected)
    assert psnr == pytest.approx(40)  # range 2, error 0.02
    assert (rel_l2, largest) == pytest.approx((0.04 / 6**0.5, 0.02), rel=1e-5)
    assert agreement(expected, expected)[0] == pytest.approx(200)
    assert agreement(expected * float("nan"), expected)[0] == 0


def test_procedural_pictures_are_like_photos() -> None:
    """Seeded, full of edges and flat parts, most energy at low frequencies."""
    a, b = natural_batch(2, 64, seed=5)
    assert torch.equal(a, natural_picture(64, 5000))
    assert not torch.equal(a, b)
    assert a.shape == (3, 64, 64)
    assert a.float().std() > 25
    power = torch.fft.rfft2(a.float().mean(0)).abs().square()
    assert power[1:5, 1:5].mean() > 50 * power[16:32, 16:32].mean()


@pytest.fixture
def contenders(small_s_model: OneStepSR) -> tuple[Contender, Contender]:
    runtime = choose_runtime("cpu", "fp32")
    unchanged = plain_copy(small_s_model.requires_grad_(False))
    ours = Contender(prepare(small_s_model, runtime, frozenset({*REWRITES, "channels-last"})), tiled=True)
    return ours, Contender(plain_runner(unchanged, runtime), tiled=False)


def test_both_contenders_give_the_same_pictures(contenders: tuple[Contender, Contender]) -> None:
    ours, plain = contenders
    lr = natural_batch(2, 16, seed=1)
    found, expected = ours(lr, 0.5), plain(lr, 0.5)
    assert found.dtype == torch.uint8
    assert found.shape == (2, 3, 64, 64)
    assert (found.int() - expected.int()).abs().max() <= 1
    assert (ours.tiles(64), ours.tiles(256), plain.tiles(256)) == (1, 9, 1)
    assert ours(natural_batch(1, 64, seed=1), 0.5).shape == (1, 3, 256, 256)


def test_the_plain_contender_is_left_as_it_was(contenders: tuple[Contender, Contender]) -> None:
    ours, plain = contenders

    def kinds(contender: Contender) -> set[type[nn.Module]]:
        return {type(module) for module in contender.model.modules()}

    assert DoublingConv in kinds(ours)
    assert DoublingConv not in kinds(plain)
    kernels = [p for p in plain.model.unet.parameters() if p.dim() == 4 and p.shape[-1] == 3 and p.shape[1] > 1]
    assert all(kernel.is_contiguous() for kernel in kernels)
    # what both hold is in memory once
    name = "time_embedding.linear_1.weight"
    again = plain_copy(plain.model)
    assert again.unet.get_parameter(name).data_ptr() == plain.model.unet.get_parameter(name).data_ptr()


def test_a_path_that_is_wrong_has_no_speed(small_sd_model: OneStepSR) -> None:
    runtime = choose_runtime("cpu", "fp32")
    shake(small_sd_model.requires_grad_(True).parameters(), by=0.03)
    small_sd_model.requires_grad_(False)
    lines: list[str] = []
    gate = _Gate(small_sd_model, runtime, 32, 0.5, silent)
    wrong = copy.deepcopy(small_sd_model)
    wrong.autoencoder.get_parameter("decoder.conv_out.weight").data.mul_(1.5)
    for model, passes in ((small_sd_model, True), (wrong, False)):
        ours = Contender(prepare(model, runtime, frozenset({"upsample"})), tiled=True)
        verdict = gate.judge(ours)
        assert verdict["passed"] is passes
        row = _case(ours, ours, 32, 1, SpeedRequest(runs=1), Ceilings(1e9, 1e9, 1e9), verdict, lines.append)
        assert ("ours" in row, "speedup" in row) == (passes, passes)
    assert "no speed is reported" in lines[-1]
