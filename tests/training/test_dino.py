"""S3Diff's discriminator: its input, its gradients, and the published file."""

import math
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rcodsr.checkpoints.bases import load_dino
from rcodsr.checkpoints.resolve import ResolvedWeights
from rcodsr.errors import WeightsError
from rcodsr.models.dino import DinoDiscriminator, DinoSpec
from rcodsr.training.augment import augment
from rcodsr.training.draws import Draws
from rcodsr.training.losses import cross_entropy
from rcodsr.training.objectives import DinoObjective, Generated

Array = npt.NDArray[np.float64]
SMALL = DinoSpec(image_side=32, patch=8, width=16, layers=3, heads=2, levels=(0, 1), hidden=8)


def _made(picture: Tensor) -> Generated:
    zeros = torch.zeros(2, 1, 1, 1)
    target, timestep = torch.rand_like(picture), torch.tensor([250, 750])
    tokens, weight = torch.zeros(2, 1, 1), torch.ones(2)
    return Generated(zeros, picture, target, target, target, timestep, tokens, weight, weight, Draws(0, (4, 5)))


def test_the_real_shape_is_dinos() -> None:
    with torch.device("meta"):
        dino = DinoDiscriminator()
        scores = dino(torch.rand(2, 3, 512, 512))
    assert sum(p.numel() for p in dino.backbone.parameters()) == 85_798_656  # ViT-B/16 without pooler and classifier
    assert [tuple(s.shape) for s in scores] == [(2, 9), (2, 9), (2, 1)]
    assert {n.partition(".")[0] for n, p in dino.named_parameters() if p.requires_grad} == {"heads"}


def _numpy_patch_head(x: Array, wide: tuple[Array, Array], narrow: tuple[Array, Array]) -> Array:
    """Vision-aided GAN's patch head: blur, 3×3 with stride 2, leaky ReLU, blur, 1×1 with stride 2. (C, n, n) → (m, m)."""
    x = _numpy_convolution(_numpy_blur(x, 2), *wide)[:, ::2, ::2]
    x = _numpy_blur(np.where(x > 0, x, 0.2 * x), 1)[:, ::2, ::2]
    return _numpy_convolution(x, *narrow)[0]


def _numpy_blur(x: Array, pad: int) -> Array:
    kernel = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    weight = np.zeros((len(x), len(x), 4, 4))
    weight[range(len(x)), range(len(x))] = kernel
    return _numpy_convolution(np.pad(x, ((0, 0), (pad, pad), (pad, pad))), weight, np.zeros(len(x)))


def _numpy_convolution(x: Array, weight: Array, bias: Array) -> Array:
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (1, 2))
    out: Array = np.einsum("cijuv,ocuv->oij", windows, weight) + bias[:, None, None]
    return out


def _layers(head: nn.Module) -> list[nn.Module]:
    return list(head.children())


def _effective(layer: nn.Module) -> tuple[Array, Array]:
    weight, bias = (getattr(layer, name).detach().double().numpy() for name in ("weight", "bias"))
    return weight, bias


def test_heads_are_vision_aided_gans() -> None:
    """Patches of the raw blocks, normalised by the last LayerNorm, through heads reproduced in plain numpy."""
    dino = DinoDiscriminator(DinoSpec(image_side=56, patch=4, width=8, layers=2, heads=2, levels=(0,), hidden=6)).eval()
    norm = dino.backbone.get_submodule("layernorm")
    with torch.no_grad():
        norm.get_parameter("weight").uniform_(0.5, 2)
        norm.get_parameter("bias").normal_()
    seen: list[Tensor] = []
    blocks = [m for m in dino.backbone.modules() if type(m).__name__ == "ViTLayer"]
    blocks[0].register_forward_hook(lambda m, i, out: seen.append(out[0] if isinstance(out, tuple) else out))
    norm.register_forward_hook(lambda m, i, out: seen.append(out))
    with torch.no_grad():
        patches, token = dino(torch.rand(1, 3, 60, 50))
    raw = seen[0][0, 1:].double().numpy()
    weight, bias = _effective(norm)
    normed = (raw - raw.mean(1, keepdims=True)) / np.sqrt(raw.var(1, keepdims=True) + norm.eps) * weight + bias
    maps = normed.T.reshape(8, 14, 14)
    head = dino.heads[0]
    expected = _numpy_patch_head(maps, *(_effective(layer) for layer in _layers(head) if isinstance(layer, nn.Conv2d)))
    assert expected.shape == (3, 3)
    np.testing.assert_allclose(patches[0].numpy(), expected.ravel(), atol=1e-4)
    last = seen[1][0, 0].double().numpy()  # the class token, which the backbone itself normalises, unlike other states
    (wide, wide_bias), (narrow, narrow_bias) = (_effective(m) for m in _layers(dino.heads[1]) if isinstance(m, nn.Linear))
    hidden = wide @ last + wide_bias
    assert token.item() == pytest.approx((narrow @ np.where(hidden > 0, hidden, 0.2 * hidden) + narrow_bias).item(), abs=1e-4)


def test_every_layer_of_the_heads_is_spectrally_normalised() -> None:
    dino = DinoDiscriminator(SMALL).eval()
    layers = [m for m in dino.heads.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 6
    for layer in layers:
        with torch.no_grad():
            layer.parametrizations.weight.original.mul_(30)  # type: ignore[union-attr, operator]
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)


def test_levels_are_outputs_of_their_blocks() -> None:
    dino = DinoDiscriminator(SMALL).eval()
    blocks = [m for m in dino.backbone.modules() if type(m).__name__ == "ViTLayer"]
    outputs: list[Tensor] = []
    for block in blocks:
        block.register_forward_hook(lambda m, i, out: outputs.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        scores = dino(torch.rand(2, 3, 48, 40))
        for level, head, seen in zip(SMALL.levels, dino.heads, scores, strict=False):
            normed = dino.backbone.get_submodule("layernorm")(outputs[level])
            patches = normed[:, 1:].transpose(1, 2).reshape(2, 16, 4, 4)
            torch.testing.assert_close(head(patches).flatten(1), seen)


def test_cross_entropy_by_hand() -> None:
    """Logit 0 costs ln 2 for either target; "real" is best at probability 0.8."""
    zeros = [torch.zeros(2, 4), torch.zeros(2, 1)]
    torch.testing.assert_close(cross_entropy(zeros, real=False), torch.full((2,), 2 * 0.6931472))
    best = torch.tensor([[1.3862944]], requires_grad=True)  # ln (0.8 / 0.2)
    cross_entropy([best], real=True).sum().backward()
    assert best.grad is not None
    assert best.grad.abs().max() < 1e-6


def test_gradients_stay_on_their_side() -> None:
    objective = DinoObjective(DinoDiscriminator(SMALL))
    picture = torch.rand(2, 3, 32, 32).requires_grad_()
    made = _made(picture)
    term, _ = objective.generator_term(made)
    assert term.shape == (2,)
    term.mean().backward()
    assert picture.grad is not None
    assert all(picture.grad[i].any() for i in range(2))
    assert all(p.grad is None for p in objective.discriminator.parameters())
    picture.grad = None
    objective.own_loss(made.detached()).mean().backward()
    assert picture.grad is None
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in objective.trained().values())
    assert all(p.grad is None for p in objective.discriminator.backbone.parameters())
    assert all(p.requires_grad for p in objective.trained().values())


def test_the_two_sides_of_its_loss_by_hand() -> None:
    """Heads that always return logit 1: real costs 0.5·3·(ln(1 + e) − 0.8), generated 0.5·3·ln(1 + e), together or in turn."""
    dino = DinoDiscriminator(SMALL)
    for head in dino.heads:
        last = head[-1]  # type: ignore[index]
        last.register_forward_hook(lambda m, i, out: torch.ones_like(out))
    made = _made(torch.rand(2, 3, 32, 32))
    one = math.log(1 + math.e)
    real, fake = 1.5 * (one - 0.8), 1.5 * one
    joint, apart = DinoObjective(dino), DinoObjective(dino, apart=True)
    assert (joint.turns, apart.turns) == (1, 2)
    assert joint.own_loss(made).tolist() == pytest.approx([real + fake] * 2, rel=1e-5)
    assert apart.own_loss(made, 0).tolist() == pytest.approx([real] * 2, rel=1e-5)
    assert apart.own_loss(made, 1).tolist() == pytest.approx([fake] * 2, rel=1e-5)
    assert joint.generator_term(made)[0].tolist() == pytest.approx([3 * (one - 0.8)] * 2, rel=1e-5)  # asks for "real"


def test_the_heads_learn_to_tell_apart() -> None:
    objective = DinoObjective(DinoDiscriminator(SMALL), augmented=False)
    made = _made(torch.full((2, 3, 32, 32), 0.5))
    optimizer = torch.optim.AdamW(objective.trained().values(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = objective.own_loss(made).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_augmentation_is_each_samples_own_and_differentiable() -> None:
    x = torch.rand(3, 3, 32, 48).requires_grad_()
    whole = augment(x, Draws(1, (7, 8, 9)))
    assert whole.shape == x.shape
    assert torch.equal(augment(x[1:2], Draws(1, (8,))), whole[1:2])
    assert not torch.equal(augment(x, Draws(2, (7, 8, 9))), whole)
    blank = (whole == 0.5).all(1).flatten(1).float().mean(1)
    assert ((blank > 0.05) & (blank < 0.6)).all()  # the hole, partly outside, and the fill of a shift
    whole.sum().backward()
    assert x.grad is not None
    assert x.grad.any()


def _as_published(dino: DinoDiscriminator) -> dict[str, Tensor]:
    old = {
        r"^layers\.": "encoder.layer.",
        r"\.attention\.(q|k|v)_proj\.": lambda m: f".attention.attention.{ {'q': 'query', 'k': 'key', 'v': 'value'}[m[1]] }.",
        r"\.attention\.o_proj\.": ".attention.output.dense.",
        r"\.mlp\.fc1\.": ".intermediate.dense.",
        r"\.mlp\.fc2\.": ".output.dense.",
    }
    tensors = {}
    for key, value in dino.backbone.state_dict().items():
        for pattern, name in old.items():
            key = re.sub(pattern, name, key)  # type: ignore[call-overload]
        tensors[key] = torch.randn_like(value)
    return tensors


def test_the_published_file_is_read_strictly(tmp_path: Path) -> None:
    dino = DinoDiscriminator(SMALL)
    tensors = _as_published(dino)
    assert "encoder.layer.2.attention.attention.query.weight" in tensors
    base = ResolvedWeights("dino-vitb16", tmp_path, {})
    save_file({**tensors, "pooler.dense.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    load_dino(dino.backbone, base)
    expected = [v for k, v in tensors.items() if k.endswith("0.intermediate.dense.bias")]
    assert any(torch.equal(p, expected[0]) for p in dino.backbone.parameters())
    save_file({**tensors, "surprise": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="unexpected surprise"):
        load_dino(dino.backbone, base)


def test_it_sees_pixels_as_its_origin_standardises_them() -> None:
    """Mean 0.481 and deviation 0.229 of red in [0, 1]: white is 2.264, the fill grey of augmentation is 0.081."""
    dino = DinoDiscriminator(SMALL)
    seen: list[Tensor] = []
    dino.backbone.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    for level in (1.0, 0.5):
        dino(torch.full((1, 3, 48, 40), level))
    assert [x.shape for x in seen] == [(1, 3, 32, 32)] * 2
    assert [x[0, 0].mean().item() for x in seen] == pytest.approx([2.2644, 0.0810], abs=1e-3)
