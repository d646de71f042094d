"""Every rewrite of the networks matches diffusers' own modules."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcodsr.models.norms import FusedNorm, kernel_works
from rcodsr.models.one_step import OneStepSR
from rcodsr.models.passes import Guidance
from rcodsr.models.rewrites import REWRITES, DoublingConv, Slice, transposed
from tests.conftest import shake


@pytest.fixture(params=["merged", "modulated"])
def model(request: pytest.FixtureRequest, small_sd_model: OneStepSR, small_s_model: OneStepSR) -> OneStepSR:
    """Small versions of the paper's variants: merged LoRA (RCOD_O), modulated LoRA (RCOD_S)."""
    chosen = small_sd_model if request.param == "merged" else small_s_model
    shake(chosen.requires_grad_(True).parameters(), by=0.03)  # norms are neutral and biases zero at first
    return chosen.requires_grad_(False)


def _output(model: OneStepSR) -> Tensor:
    """Two different pictures at two timesteps."""
    x = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(x, model.condition(x, torch.tensor([300, 700])))


@pytest.mark.parametrize("names", [[name] for name in REWRITES] + [list(REWRITES), list(reversed(REWRITES))], ids="+".join)
def test_a_rewritten_model_says_the_same(model: OneStepSR, names: list[str]) -> None:
    expected, parameters = _output(model), sum(p.numel() for p in model.parameters())
    for name in names:
        assert REWRITES[name](model) > 0
    found = _output(model)
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(_output(copy.deepcopy(model)), found, atol=0, rtol=0)
    doubled = 16 / 9 if "upsample" in names else 1  # the transposed kernels are larger
    assert sum(p.numel() for p in model.parameters()) <= doubled * parameters  # nothing is kept twice


def test_doubling_and_convolving_is_one_transposed_convolution() -> None:
    """Exact up to rounding: float64, borders included, odd sizes."""
    conv = nn.Conv2d(5, 7, 3, padding=1).double()
    x = torch.randn(2, 5, 6, 9, dtype=torch.float64)
    merged = transposed(conv).double()  # taps are summed in float32
    torch.testing.assert_close(merged(x), conv(F.interpolate(x, scale_factor=2.0, mode="nearest")), atol=1e-6, rtol=1e-6)


def test_an_impulse_through_the_merged_doubling() -> None:
    """By hand: a single pixel becomes two, each read by the three taps 1, 2, 3 along a row."""
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    conv.weight.data = torch.tensor([[0.0, 0, 0], [1, 2, 3], [0, 0, 0]])[None, None]
    out = DoublingConv(transposed(conv))(torch.tensor([[0.0, 1, 0]])[None, None])
    assert out[0, 0].tolist() == [[0, 3, 5, 3, 1, 0]] * 2


def test_a_second_pass_with_other_tokens_is_projected_too(small_s_model: OneStepSR) -> None:
    small_s_model.passes = Guidance(1.5, torch.randn(1, 5, 24))
    expected = _output(small_s_model)
    REWRITES["context"](small_s_model)
    torch.testing.assert_close(_output(small_s_model), expected, atol=1e-5, rtol=1e-5)


def test_keys_and_values_are_computed_once_per_picture(small_sd_model: OneStepSR) -> None:
    REWRITES["context"](small_sd_model)
    tokens = small_sd_model.condition(torch.rand(1, 3, 32, 32), torch.tensor([500])).tokens
    slices = [module for module in small_sd_model.unet.modules() if isinstance(module, Slice)]
    assert tokens.shape[-1] == sum(part.stop - part.start for part in slices) > 24
    assert small_sd_model.context(tokens) is tokens


def test_rewrites_leave_other_networks_alone(small_model: OneStepSR) -> None:
    before = list(small_model.modules())
    assert [rewrite(small_model) for rewrite in REWRITES.values()] == [0] * len(REWRITES)
    assert list(small_model.modules()) == before


def test_the_fused_norm_keeps_channels_last() -> None:
    norm = nn.GroupNorm(4, 16)
    x = torch.randn(2, 16, 5, 3).contiguous(memory_format=torch.channels_last)
    found = FusedNorm(norm, silu=True)(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, F.silu(norm(x)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape",
    [(2, 96, 9, 7), (1, 320, 64, 64), (1, 128, 512, 512), (2, 2560, 8, 8), (1, 32, 1, 1), (3, 1920, 17, 33), (1, 512, 95, 67)],
)
def test_the_triton_norm_says_what_torch_says(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert kernel_works(torch.device("cuda", 0))
    norm = nn.GroupNorm(32, shape[1]).cuda()
    shake(norm.parameters(), by=0.5)
    x = (3 * torch.randn(shape, device="cuda") + 1).to(dtype).contiguous(memory_format=torch.channels_last)
    found = FusedNorm(norm.to(dtype), silu=True)(x)
    expected = F.silu(norm.float()(x.float()))
    tolerance = 1e-4 if dtype == torch.float32 else 4e-2
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)
