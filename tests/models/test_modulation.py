"""RCOD_S: LoRA modulated by each picture's own degradation."""

import threading
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from rcodsr.images.resize import resize
from rcodsr.models.build import build_metric_estimator, build_model
from rcodsr.models.degradation_estimator import DegradationEstimator
from rcodsr.models.lora import add_lora
from rcodsr.models.modulation import DegradationModulation, LoraSteering, Modulation
from rcodsr.models.one_step import OneStepSR
from rcodsr.parts import LoraSpec, ModulationSpec
from rcodsr.training.setup import metric_spec
from rcodsr.variants import RCOD_S, VariantSpec
from tests.conftest import shake


def _lr(batch: int = 1) -> Tensor:
    """Pictures whose scores differ: noise of growing strength."""
    noise = torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    return (0.5 + noise * torch.linspace(0.05, 0.5, batch).view(-1, 1, 1, 1)).clamp(0, 1)


def _x_l(batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(6))


def _run(model: OneStepSR, x_l: Tensor, lr: Tensor, t: int = 500) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(x_l, model.condition(x_l, torch.tensor([t]).expand(len(x_l)), lr))
    return out


def test_the_estimator_has_the_published_files_parameters() -> None:
    estimator = DegradationEstimator(ModulationSpec())
    expected = {f"conv_first.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}
    expected |= {f"body.{i}.6.{kind}" for i in (0, 1) for kind in ("weight", "bias")}
    expected |= {
        f"body.{i}.{block}.{conv}.{kind}"
        for i in (0, 1)
        for block in (0, 1, 2, 3, 4, 5, 7, 8)
        for conv in ("conv1", "conv2")
        for kind in ("weight", "bias")
    }
    expected |= {f"fc_degree.{i}.{layer}.{kind}" for i in (0, 1) for layer in (0, 2) for kind in ("weight", "bias")}
    state = estimator.state_dict()
    assert state.keys() == expected
    assert len(state) == 80
    assert sum(value.numel() for value in state.values()) == 2_351_362
    assert state["body.1.6.weight"].shape == (128, 64, 3, 3)
    assert state["fc_degree.0.0.weight"].shape == (512, 128)


@pytest.mark.parametrize("size", [(1, 1), (17, 30)])
def test_scores_lie_between_0_and_1_and_features_are_pooled(size: tuple[int, int]) -> None:
    estimator = DegradationEstimator(ModulationSpec())
    with torch.no_grad():
        scores, features = estimator(torch.rand(3, 3, *size))
    assert scores.shape == (3, 2)
    assert features.shape == (3, 256)
    assert ((scores > 0) & (scores < 1)).all()


@pytest.mark.parametrize("height", [256, 257, 519])
def test_a_tall_picture_is_seen_whole(height: int) -> None:
    estimator = DegradationEstimator(ModulationSpec(estimator_channels=(4, 6), estimator_hidden=8))
    lr = torch.rand(1, 3, height, 9)
    with torch.no_grad():
        scores, features = estimator(lr)
        estimator.STRIP = 10_000
        whole_scores, whole_features = estimator(lr)
    torch.testing.assert_close(features, whole_features, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scores, whole_scores, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        direct = estimator.body[1](estimator.conv_first[1](lr)).mean((2, 3))
    torch.testing.assert_close(features[:, 6:], direct, rtol=1e-5, atol=1e-6)


def test_a_fresh_modulation_is_the_identity() -> None:
    steering = LoraSteering(ModulationSpec(), LoraSpec(32, 16), 4, 4)
    matrices = steering(torch.rand(2, 2))
    assert [m.shape[1] for m in matrices] == [16] * 6 + [32] * 10
    assert all(torch.equal(m, torch.eye(m.shape[1]).expand(2, -1, -1)) for m in matrices)


@pytest.mark.parametrize(
    ("layer", "index"),
    [
        ("autoencoder.encoder.down_blocks.3.resnets.0.conv1", 3),
        ("autoencoder.encoder.mid_block.attentions.0.to_q", 4),
        ("autoencoder.encoder.conv_in", 5),
        ("autoencoder.encoder.conv_out", 5),
        ("unet.down_blocks.0.attentions.0.proj_in", 6),
        ("unet.mid_block.resnets.1.conv2", 10),
        ("unet.up_blocks.0.resnets.0.conv1", 11),
        ("unet.up_blocks.3.resnets.2.conv_shortcut", 14),
        ("unet.conv_out", 15),
    ],
)
def test_every_layer_follows_its_blocks_matrix(layer: str, index: int) -> None:
    assert LoraSteering(ModulationSpec(), LoraSpec(32, 16), 4, 4).index(layer) == index


def test_scores_come_before_blocks_where_they_are_fused() -> None:
    """S3Diff's layers in plain numpy: M = W [relu(score layers), relu(block layers)] + b."""
    steering = LoraSteering(ModulationSpec(frequencies=2, block_width=3), LoraSpec(2, 2), 1, 1)
    shake(steering.parameters(), by=0.5)
    features = torch.randn(2, 8)

    def layer(module: nn.Module, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        weight, bias = (module.get_parameter(name).detach().numpy() for name in ("weight", "bias"))
        out: npt.NDArray[np.float32] = x @ weight.T + bias
        return out

    network = steering.unet
    scores = np.maximum(layer(network.de_mlp[0], features.numpy()), 0)
    blocks = np.maximum(layer(network.block_mlp[0], network.block_embeddings.weight.detach().numpy()), 0)
    expected = [[layer(network.fuse_mlp, np.concatenate([s, b])).reshape(2, 2) for b in blocks] for s in scores]
    np.testing.assert_allclose(network(features).detach().numpy(), np.array(expected), rtol=1e-5, atol=1e-6)


def test_fourier_features_by_hand() -> None:
    """The sines of each score, then its cosines; one score after the other."""
    steering = LoraSteering(ModulationSpec(frequencies=2), LoraSpec(2, 2), 1, 1)
    steering.w.copy_(torch.tensor([0.25, 1.0]))
    seen: list[Tensor] = []
    steering.vae.de_mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    steering(torch.tensor([[1.0, 0.5]]))
    half = 0.5**0.5
    expected = torch.tensor([[1.0, 0.0, 0.0, 1.0, half, 0.0, half, -1.0]])  # angles π/2, 2π; π/4, π
    torch.testing.assert_close(seen[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["unet.conv_out", "unet.mid_block.attentions.0.proj_in", "autoencoder.encoder.conv_in"])
def test_a_layer_computes_b_m_a(small_s_model: OneStepSR, name: str) -> None:
    layer = small_s_model.get_submodule(name)
    (a,), (b,) = (layer.get_submodule(f"lora_{side}").children() for side in "AB")
    base = layer.get_submodule("base_layer")
    rank, scale = (4, 2.0) if name.startswith("autoencoder") else (6, 8 / 6)
    matrix = torch.randn(2, rank, rank)
    index = small_s_model.modulator.steering.index(name)  # type: ignore[attr-defined]
    others = 5 + 6  # two levels more than the autoencoder's three, twice the U-Net's two and two
    modulation = Modulation(tuple(matrix if i == index else torch.full((2, 9, 9), torch.nan) for i in range(others)))
    weight = base.get_parameter("weight")
    convolution = weight.dim() == 4
    x = torch.randn((2, weight.shape[1], 8, 8) if convolution else (2, 3, weight.shape[1]))
    with torch.no_grad():
        with small_s_model.modulator.using(modulation):
            out = layer(x)
        middle = torch.stack(
            [  # the row vector of ranks times M, position by position
                torch.tensordot(a(x)[i].movedim(0, -1) if convolution else a(x)[i], matrix[i], dims=1) for i in range(2)
            ]
        )
        expected = base(x) + scale * b(middle.movedim(-1, 1) if convolution else middle)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_identity_is_plain_lora(small_s_spec: VariantSpec) -> None:
    torch.manual_seed(3)
    steered = build_model(small_s_spec).eval()
    torch.manual_seed(3)
    plain = build_model(replace(small_s_spec, modulation=None)).eval()
    plain.load_state_dict(steered.state_dict(), strict=False)
    assert small_s_spec.lora is not None
    for model in (steered, plain):
        torch.manual_seed(4)
        add_lora(model, small_s_spec.lora)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    a, b = (_run(model, _x_l(), _lr()) for model in (steered, plain))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert a.std() > 1e-3


def test_the_picture_steers(small_s_model: OneStepSR) -> None:
    lr = _lr(2)
    a, b = (_run(small_s_model, _x_l(), lr[i : i + 1]) for i in range(2))
    assert (a - b).abs().max() > 1e-4


def test_two_pictures_together_are_two_pictures_alone(small_s_model: OneStepSR) -> None:
    x_l, lr = _x_l(2), _lr(2)
    together = _run(small_s_model, x_l, lr)
    for i in range(2):
        alone = _run(small_s_model, x_l[i : i + 1], lr[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)
    swapped = _run(small_s_model, x_l, lr.flip(0))
    assert (together - swapped).abs().max() > 1e-4


def test_tiles_share_their_pictures_modulation(small_s_model: OneStepSR) -> None:
    """One condition for several tiles, as used by the engine: each tile as if it were alone."""
    tiles = _x_l(3)
    with torch.no_grad():
        condition = small_s_model.condition(_x_l(), torch.tensor([500]), _lr())
        together = small_s_model(tiles, condition)
        for i in range(3):
            alone = small_s_model(tiles[i : i + 1], condition)
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)
        assert len(condition.modulation.matrices) == 11
        assert all(len(m) == 1 for m in condition.modulation.matrices)


def test_the_metric_estimator_sees_degradation_features_and_the_pictures_own_latents(small_s_model: OneStepSR) -> None:
    model = small_s_model
    model.spec = replace(model.spec, metric_estimator=metric_spec(model.spec))
    model.metric_estimator = build_metric_estimator(model.spec)
    x_l = torch.rand(2, 3, 64, 64)
    z_l, features = model.evidence(x_l)
    modulation = model.modulator.measure(resize(x_l, 16, 16))
    assert torch.equal(features, modulation.features[0])
    with model.modulator.using(modulation):
        torch.testing.assert_close(z_l, model.encode(x_l))
    assert not torch.allclose(z_l, model.encode(x_l), atol=1e-3)
    assert model.estimate(x_l).shape == (2,)
    torch.testing.assert_close(model.similarity(x_l, x_l), torch.ones(2))


def test_threads_do_not_see_each_others_modulation(small_s_model: OneStepSR) -> None:
    x_l, lr = _x_l(), _lr(2)
    alone = [_run(small_s_model, x_l, lr[i : i + 1]) for i in range(2)]
    found: dict[int, list[Tensor]] = {0: [], 1: []}

    def work(i: int) -> None:
        found[i] = [_run(small_s_model, x_l, lr[i : i + 1]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert len(found[i]) == 5
        for out in found[i]:
            torch.testing.assert_close(out, alone[i], rtol=1e-5, atol=1e-5)


def test_only_the_steering_learns(small_s_model: OneStepSR) -> None:
    x_l, lr = _x_l(2), _lr(2)
    small_s_model(x_l, small_s_model.condition(x_l, torch.tensor([250, 750]), lr)).square().mean().backward()
    modulator = small_s_model.modulator
    assert isinstance(modulator, DegradationModulation)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in modulator.steering.parameters())
    assert all(p.grad is None for p in modulator.estimator.parameters())


def test_modulation_survives_a_smaller_dtype(small_s_model: OneStepSR) -> None:
    exact = _run(small_s_model, _x_l(), _lr())
    half = small_s_model.to_dtype(torch.bfloat16)
    assert isinstance(half.modulator, DegradationModulation)
    assert half.modulator.steering.w.dtype == torch.float32
    out = _run(half, _x_l(), _lr())
    assert out.dtype == torch.float32
    assert (out - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.slow
def test_one_step_at_the_real_size() -> None:
    """1.3 billion random weights and unmerged LoRA, 128×128 pixels."""
    from rcodsr.models.build import random_model

    model = random_model(RCOD_S, seed=0)
    assert RCOD_S.lora is not None
    add_lora(model, RCOD_S.lora)
    out = _run(model, torch.rand(1, 3, 128, 128), torch.rand(1, 3, 32, 32), 750)
    assert out.shape == (1, 3, 128, 128)
    assert torch.isfinite(out).all()
    assert out.std() > 1e-3
