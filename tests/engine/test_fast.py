"""Speedups can be selected one by one and do not change the visible result."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rcodsr.engine.fast import ITEMS, choose
from rcodsr.engine.graphs import Graphs
from rcodsr.engine.runner import CudaRunner, Runner, prepare
from rcodsr.engine.runtime import Runtime, choose_runtime, tiles_at_once
from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import UsageError
from rcodsr.images.picture import Picture
from rcodsr.models.one_step import OneStepSR
from rcodsr.models.rewrites import REWRITES
from rcodsr.options import Level, UpscaleOptions
from tests.conftest import shake

MakeAgain = Callable[[], OneStepSR]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_items_are_chosen_by_device_and_by_name() -> None:
    assert choose("cpu") == {"channels-last", "upsample"}
    assert choose("cuda") == ITEMS.keys() - {"compile"}
    assert choose("mps") == {"channels-last"}
    assert choose("cuda", ["none"]) == frozenset()
    assert choose("cpu", ["time", "norm"]) == {"time", "norm"}
    assert choose("cuda", ["-graph"]) == ITEMS.keys() - {"compile", "graph"}
    assert choose("cpu", ["all", "time", "-upsample"]) == {"channels-last", "time"}
    with pytest.raises(UsageError, match="'magic' is not a valid item"):
        choose("cpu", ["magic"])


def test_every_rewrite_is_an_item() -> None:
    assert {name for name, item in ITEMS.items() if item.rewrites} == REWRITES.keys()


def _restored(model: OneStepSR, runtime: Runtime, items: frozenset[str]) -> Tensor:
    """Four tiles, twice, so that graphs are replayed."""
    runner = prepare(model, runtime, items)
    upscaler = Upscaler(runner.model, runtime, "test", runner=runner)
    rgb = torch.rand(2, 3, 48, 40, generator=torch.Generator().manual_seed(3))
    options = UpscaleOptions(Level(1), tile=32, tile_overlap=8)
    for _ in range(2):
        upscaler.run(Picture(rgb[1]), options)
    done = upscaler.run(Picture(rgb[0]), options)
    assert done.tiles >= 4
    return done.picture.rgb


@pytest.mark.parametrize("items", [frozenset(REWRITES), frozenset(choose("cpu"))], ids=["rewrites", "own"])
def test_the_engine_gives_the_same_picture(
    small_s_model: OneStepSR, items: frozenset[str], make_again: Callable[[], OneStepSR]
) -> None:
    runtime = choose_runtime("cpu", "fp32")
    plain = _restored(make_again(), runtime, frozenset())
    torch.testing.assert_close(_restored(make_again(), runtime, items), plain, atol=2e-5, rtol=0)


class _Together(CudaRunner):
    """Four tiles at once, as on a GPU, but on the CPU."""

    home = Runner.home

    def at_once(self, pixels: int) -> int:
        return 4


@pytest.mark.parametrize(
    "items", [frozenset(), frozenset(REWRITES), frozenset({"context"})], ids=["plain", "rewrites", "context"]
)
@pytest.mark.parametrize("kind", ["small_model", "small_sd_model", "small_s_model"])
def test_tiles_computed_together_are_the_single_tiles(request: pytest.FixtureRequest, kind: str, items: frozenset[str]) -> None:
    """Tiles have their own timesteps and positions and share the picture's tokens and modulation."""
    model: OneStepSR = request.getfixturevalue(kind).requires_grad_(False)
    shake(model.unet.requires_grad_().parameters(), by=0.02)
    runner = prepare(model.requires_grad_(False), choose_runtime("cpu", "fp32"), items)
    picture = Picture(torch.rand(3, 48, 40, generator=torch.Generator().manual_seed(3)))
    found = []
    for each in (runner, _Together(runner.model, runner.runtime, items)):
        upscaler = Upscaler(runner.model, runner.runtime, "test", runner=each)
        done = upscaler.run(picture, UpscaleOptions(Level(1), tile=32, tile_overlap=8))
        assert done.tiles >= 4
        found.append(done.picture.rgb)
    torch.testing.assert_close(*found, atol=2e-5, rtol=0)


@pytest.fixture
def make_again(small_s_model: OneStepSR) -> MakeAgain:
    """Copies of one model: making it fast changes it in place."""
    small_s_model.requires_grad_(False)
    return lambda: copy.deepcopy(small_s_model)


def test_the_gpu_runner_says_what_the_plain_one_says(small_sd_model: OneStepSR) -> None:
    """Its stages and the order of attention backends, as far as they can be tested on a CPU."""
    runtime = choose_runtime("cpu", "fp32")
    shake(small_sd_model.requires_grad_(True).parameters(), by=0.03)
    x = torch.rand(2, 3, 32, 32)
    found = []
    for runner in (Runner(small_sd_model, runtime), CudaRunner(small_sd_model, runtime, frozenset({"sdpa"}))):
        with torch.no_grad():
            condition = replace(runner.condition(x, x[..., ::4, ::4]), timestep=torch.tensor([250, 700]))
            found.append(runner.forward(x, condition))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_tiles_are_computed_together_on_a_gpu_only() -> None:
    gpu = Runtime(torch.device("cuda"), torch.bfloat16, "test")
    assert [tiles_at_once(gpu, side**2) for side in (256, 512, 768, 4096)] == [8, 8, 3, 1]
    assert tiles_at_once(choose_runtime("cpu"), 256**2) == 1


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("name", ["own", *(name for name, item in ITEMS.items() if item.cuda)])
def test_every_item_on_a_gpu_gives_the_same_picture(
    small_s_model: OneStepSR, make_again: Callable[[], OneStepSR], name: str
) -> None:
    runtime = choose_runtime("cuda", "fp32")
    items = choose("cuda") if name == "own" else frozenset({name})
    plain = _restored(make_again(), runtime, frozenset())
    torch.testing.assert_close(_restored(make_again(), runtime, items), plain, atol=1e-3, rtol=0)


@needs_cuda
@pytest.mark.gpu
def test_a_recording_follows_its_inputs() -> None:
    lines: list[str] = []
    graphs = Graphs(lines.append)
    for i in range(4):
        graphs.poison()
        found = graphs("double", lambda x: 2 * x, torch.full((3,), float(i), device="cuda"))
        assert found.tolist() == [2.0 * i] * 3
    assert lines == []


@needs_cuda
@pytest.mark.gpu
def test_what_cannot_be_recorded_runs_plainly() -> None:
    lines: list[str] = []
    graphs = Graphs(lines.append)
    for _ in range(3):
        assert graphs("sync", lambda x: x * x.sum().item(), torch.ones(2, device="cuda")).tolist() == [2.0, 2.0]
    assert len(lines) == 1
