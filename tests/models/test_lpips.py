"""LPIPS on AlexNet and VGG16, and DISTS, against the networks written out layer by layer. LPIPS-squeeze: bench/test_quality."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcodsr.models.dists import Dists
from rcodsr.models.lpips import Lpips, LpipsAlex, LpipsSqueeze, LpipsVgg

MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
Build = Callable[[], Lpips]


def seeded(build: Build) -> Lpips:
    """Random weights whose activations neither vanish nor explode with depth; positive heads, like the published ones."""
    torch.manual_seed(7)
    network = build()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.1)
    for i in range(len(network.WIDTHS)):
        network.get_parameter(f"lin{i}.weight").abs_()
    return network


@pytest.fixture(scope="module")
def alex() -> Lpips:
    return seeded(LpipsAlex)


@pytest.fixture(scope="module")
def vgg() -> Lpips:
    return seeded(LpipsVgg)


@pytest.fixture(scope="module")
def dists(vgg: LpipsVgg) -> Dists:
    network = Dists(vgg)
    for share in network.shares.values():
        share.uniform_(generator=torch.Generator().manual_seed(1))
    return network


@pytest.fixture(scope="module")
def pictures() -> tuple[Tensor, Tensor]:
    """Two batches of two, of odd sides, in [0, 1]; the second is the first with noise."""
    generator = torch.Generator().manual_seed(3)
    smooth = F.interpolate(torch.rand(2, 3, 9, 8, generator=generator), (67, 61), mode="bicubic").clamp(0, 1)
    return smooth, (smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)


def alex_maps(network: Lpips, x: Tensor) -> list[Tensor]:
    """torchvision's `alexnet.features`, after each rectifier."""
    x = (x - MEAN.view(3, 1, 1)) / DEVIATION.view(3, 1, 1)
    w = network.state_dict()
    one = F.conv2d(x, w["conv0.weight"], w["conv0.bias"], stride=4, padding=2).clamp(min=0)
    two = F.conv2d(F.max_pool2d(one, 3, 2), w["conv1.weight"], w["conv1.bias"], padding=2).clamp(min=0)
    three = F.conv2d(F.max_pool2d(two, 3, 2), w["conv2.weight"], w["conv2.bias"], padding=1).clamp(min=0)
    four = F.conv2d(three, w["conv3.weight"], w["conv3.bias"], padding=1).clamp(min=0)
    return [one, two, three, four, F.conv2d(four, w["conv4.weight"], w["conv4.bias"], padding=1).clamp(min=0)]


def vgg_maps(network: Lpips, x: Tensor, pool: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """torchvision's `vgg16.features`, at the end of each block."""
    x = (x - MEAN.view(3, 1, 1)) / DEVIATION.view(3, 1, 1)
    w, maps, number = network.state_dict(), [], 0
    for layer in [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "end"]:
        if isinstance(layer, int):
            x = F.conv2d(x, w[f"conv{number}.weight"], w[f"conv{number}.bias"], padding=1).clamp(min=0)
            number += 1
        else:
            maps.append(x)
            x = pool(x)
    return maps


def lpips_of(network: Lpips, first: list[Tensor], second: list[Tensor]) -> Tensor:
    total = torch.zeros(2)
    for i, (f, g) in enumerate(zip(first, second, strict=True)):
        f, g = (m / (m.norm(dim=1, keepdim=True) + 1e-10) for m in (f, g))
        total += F.conv2d((f - g) ** 2, network.state_dict()[f"lin{i}.weight"]).mean((1, 2, 3))
    return total


def test_lpips_alex_is_the_network_written_out(alex: Lpips, pictures: tuple[Tensor, Tensor]) -> None:
    expected = lpips_of(alex, *(alex_maps(alex, x) for x in pictures))
    assert expected.min() > 0.01
    torch.testing.assert_close(alex(*pictures), expected, rtol=1e-4, atol=1e-6)


def test_lpips_vgg_is_the_network_written_out(vgg: Lpips, pictures: tuple[Tensor, Tensor]) -> None:
    expected = lpips_of(vgg, *(vgg_maps(vgg, x, nn.MaxPool2d(2)) for x in pictures))
    assert expected.min() > 0.01
    torch.testing.assert_close(vgg(*pictures), expected, rtol=1e-4, atol=1e-6)


def root_mean_square(x: Tensor) -> Tensor:
    """Root mean square under the window 1 2 1 in both directions, at each position."""
    padded = F.pad(x**2, (1, 1, 1, 1))
    out = torch.zeros(*x.shape[:2], (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2)
    for row, down in enumerate((1, 2, 1)):
        for column, across in enumerate((1, 2, 1)):
            seen = padded[:, :, row : row + x.shape[2] : 2, column : column + x.shape[3] : 2]
            out += down * across / 16 * seen
    return (out + 1e-12).sqrt()


def test_dists_is_the_statistics_written_out(dists: Dists, pictures: tuple[Tensor, Tensor]) -> None:
    first, second = ([x, *vgg_maps(dists.vgg, x, root_mean_square)] for x in pictures)
    alpha, beta = dists.shares["alpha"], dists.shares["beta"]
    shared, start = torch.zeros(2), 0
    for f, g in zip(first, second, strict=True):
        here = slice(start, start := start + f.shape[1])
        covariance = ((f - f.mean((2, 3), True)) * (g - g.mean((2, 3), True))).mean((2, 3))
        variances = f.var((2, 3), unbiased=False) + g.var((2, 3), unbiased=False)
        f, g = f.mean((2, 3)), g.mean((2, 3))
        shared += (alpha[here] * (2 * f * g + 1e-6) / (f**2 + g**2 + 1e-6)).sum(1)
        shared += (beta[here] * (2 * covariance + 1e-6) / (variances + 1e-6)).sum(1)
    expected = 1 - shared / (alpha.sum() + beta.sum())
    assert start == 1475
    assert expected.min() > 0.01
    torch.testing.assert_close(dists(*pictures), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        ("alpha", 1 - 2 * 0.25 * 0.5 / (0.25**2 + 0.5**2)),  # means 1/4 and 1/2
        ("beta", 1 - 2 * 2 / (1 + 4)),  # the same structure at twice the contrast
    ],
)
def test_dists_of_the_pixels_alone(vgg: LpipsVgg, share: str, expected: float) -> None:
    dists = Dists(vgg)
    for name, value in dists.shares.items():
        value.zero_()
        if name == share:
            value[:3] = 0.2  # of the picture's own channels
    checks = torch.tensor([-1.0, 1.0]).repeat(16, 8).expand(1, 3, 16, 16)
    faint, strong = 0.25 + 0.1 * checks, 0.5 + 0.2 * checks
    assert dists(faint, strong).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["alex", "vgg", "dists"])
def test_equal_pictures_are_at_no_distance(name: str, pictures: tuple[Tensor, Tensor], request: pytest.FixtureRequest) -> None:
    distance = request.getfixturevalue(name)
    x, noisy = pictures
    assert distance(x, x).tolist() == pytest.approx([0, 0], abs=1e-6)
    one = distance(x[:1], noisy[:1])
    assert one.shape == (1,)
    assert one.item() == pytest.approx(distance(x, noisy)[0].item(), rel=1e-4)


@pytest.mark.parametrize("name", ["alex", "vgg", "dists"])
def test_bfloat16_and_channels_last_change_little(
    name: str, pictures: tuple[Tensor, Tensor], request: pytest.FixtureRequest
) -> None:
    distance = request.getfixturevalue(name)
    with torch.autocast("cpu", torch.bfloat16):
        rough = distance(*(x.contiguous(memory_format=torch.channels_last) for x in pictures))
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, distance(*pictures), rtol=0.03, atol=1e-3)


@pytest.mark.parametrize("build", [LpipsSqueeze, LpipsAlex, LpipsVgg, Dists])
@pytest.mark.parametrize("bf16", [False, True])
def test_where_no_channel_answers_distance_and_gradient_are_finite(
    build: Callable[[], nn.Module], bf16: bool, pictures: tuple[Tensor, Tensor]
) -> None:
    distance = build()
    first = next(layer for layer in distance.modules() if isinstance(layer, nn.Conv2d))
    assert first.bias is not None
    first.bias.fill_(-1e3)  # the first rectifier shuts everything off
    for layer in distance.modules():
        if isinstance(layer, nn.Conv2d) and layer is not first and layer.bias is not None:
            layer.bias.zero_()
    x = pictures[0].clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = distance(x, pictures[1])
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(("build", "convolutions", "count"), [(LpipsAlex, 5, 2_469_696), (LpipsVgg, 13, 14_714_688)])
def test_names_and_sizes_are_those_of_the_files(build: Build, convolutions: int, count: int) -> None:
    """The counts are those of torchvision's `features`."""
    state = build().state_dict()
    names = {f"conv{i}.{kind}" for i in range(convolutions) for kind in ("weight", "bias")}
    assert set(state) == names | {f"lin{i}.weight" for i in range(5)}
    assert sum(state[name].numel() for name in names) == count


@pytest.mark.parametrize("build", [LpipsAlex, LpipsVgg, Dists])
def test_judges_are_frozen(build: Callable[[], nn.Module]) -> None:
    network = build()
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("build", [LpipsSqueeze, LpipsAlex, LpipsVgg])
def test_the_smallest_picture_is_scored_and_a_smaller_one_is_not(build: Build) -> None:
    network = seeded(build)
    side = network.SMALLEST
    a, b = torch.rand(2, 1, 3, side, side, generator=torch.Generator().manual_seed(0))
    assert network(a, b).item() > 0
    with pytest.raises(RuntimeError, match="too small"):
        network(a[..., 1:], b[..., 1:])


def test_fewer_maps_are_the_finest(vgg: Lpips, pictures: tuple[Tensor, Tensor]) -> None:
    some = vgg.maps(pictures[0], 2)
    assert [m.shape[1:] for m in some] == [(64, 67, 61), (128, 33, 30)]
    assert all(torch.equal(f, g) for f, g in zip(some, vgg.maps(pictures[0]), strict=False))
