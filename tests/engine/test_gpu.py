"""Tests that need a GPU: graphs, streams, batches of tiles and memory, with small models of the paper's kind.

python -m pytest -m gpu
"""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import rcodsr
from rcodsr.batch.shared import SharedUpscaler
from rcodsr.bench.natural import natural_batch, natural_picture
from rcodsr.engine.fast import choose
from rcodsr.engine.graphs import Graphs
from rcodsr.engine.runner import CudaRunner, prepare
from rcodsr.engine.runtime import Runtime, choose_runtime
from rcodsr.engine.upscaler import Upscaler
from rcodsr.images import io
from rcodsr.images.exchange import to_srgb_image
from rcodsr.images.picture import Picture
from rcodsr.models.build import random_model
from rcodsr.models.one_step import OneStepSR
from rcodsr.options import Level, UpscaleOptions
from rcodsr.variants import VariantSpec
from tests.conftest import shake

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

Make = Callable[..., Upscaler]


def _engine(model: OneStepSR, dtype: str, items: list[str] | None) -> Upscaler:
    runtime = choose_runtime("cuda", dtype)
    lines: list[str] = []
    runner = prepare(copy.deepcopy(model), runtime, choose("cuda", items), lines.append)
    exact = copy.deepcopy(model)
    upscaler = Upscaler(runner.model, runtime, "test", lambda: runtime.place(exact, torch.float32), runner)
    upscaler.lines = lines  # type: ignore[attr-defined]
    return upscaler


@pytest.fixture
def model(small_s_model: OneStepSR) -> OneStepSR:
    return small_s_model.requires_grad_(False)


def _picture(height: int, width: int, seed: int) -> Picture:
    return Picture(natural_picture(max(height, width), seed)[:, :height, :width].float() / 255)


def _rgb(upscaler: Upscaler, picture: Picture, **options: object) -> Tensor:
    return upscaler.run(picture, UpscaleOptions(Level(1), **options)).picture.rgb  # type: ignore[arg-type]


def _decibels(found: Tensor, expected: Tensor) -> float:
    return float(-10 * torch.log10((found.double() - expected.double()).square().mean().clamp(min=1e-20)))


def test_recordings_replay_the_eager_result_for_three_sizes_in_turn(model: OneStepSR) -> None:
    recorded, eager = _engine(model, "fp32", None), _engine(model, "fp32", ["-graph"])
    assert isinstance(recorded.runner, CudaRunner) and recorded.runner.graphs is not None
    for turn in range(4):
        for size in ((24, 24), (32, 20), (13, 31)):
            picture = _picture(*size, seed=turn)
            recorded.runner.poison()
            torch.testing.assert_close(_rgb(recorded, picture), _rgb(eager, picture), atol=1e-3, rtol=0)
    kept = recorded.runner.graphs._recorded
    assert len(kept) >= 6 and None not in kept.values()
    assert recorded.lines == []  # type: ignore[attr-defined]


def test_recordings_hold_after_a_picture_fell_back_to_float32(small_sd_model: OneStepSR) -> None:
    """The encoder's first convolution overflows float16 on bright pictures, but not on grey ones."""
    shake(small_sd_model.requires_grad_(True).parameters(), by=0.03)
    kernel = small_sd_model.requires_grad_(False).autoencoder.get_parameter("encoder.conv_in.weight")
    kernel.copy_((1 + 0.2 * torch.rand_like(kernel)) * 2e5 / kernel[0].numel())
    grey = Picture(0.5 + 0.05 * (_picture(24, 24, 1).rgb - 0.5))
    bright = Picture(0.85 + 0.15 * _picture(24, 24, 2).rgb)
    half, exact = _engine(small_sd_model, "fp16", None), _engine(small_sd_model, "fp32", ["none"])
    options = UpscaleOptions(Level(1))
    before = [half.run(grey, options) for _ in range(3)][-1]
    assert before.dtype == "fp16"
    fallen = half.run(bright, options)
    assert fallen.dtype == "fp32"
    torch.testing.assert_close(fallen.picture.rgb, exact.run(bright, options).picture.rgb, atol=1e-3, rtol=0)
    after = half.run(grey, options)
    assert after.dtype == "fp16"
    torch.testing.assert_close(after.picture.rgb, before.picture.rgb, atol=2e-3, rtol=0)


def test_another_function_is_recorded_after_one_that_cannot_be() -> None:
    lines: list[str] = []
    graphs = Graphs(lines.append)
    for _ in range(3):
        graphs("sync", lambda x: x * x.sum().item(), torch.ones(2, device="cuda"))
    for i in range(3):
        graphs.poison()
        assert graphs("add", lambda x: x + 1, torch.full((3,), float(i), device="cuda")).tolist() == [i + 1.0] * 3
    assert [line.split()[0] for line in lines] == ["sync"]


def test_two_recorders_in_two_threads_do_not_meet() -> None:
    """One thread captures and waits for the GPU while another does the same."""
    lines: list[str] = []

    def work(number: int) -> None:
        graphs, stream = Graphs(lines.append), torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for side in range(100, 110):
                x = torch.full((side, side), float(number), device="cuda")
                for _ in range(3):
                    assert graphs(f"{side}", lambda y: (y @ y).sum(0), x)[0].item() == number**2 * side**2

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(1, 5)))
    assert lines == []


def test_two_streams_say_what_one_says(model: OneStepSR) -> None:
    """Another picture and size each time, so that stale tokens of the previous picture would be detected."""
    two, one = _engine(model, "fp32", None), _engine(model, "fp32", ["-stream"])
    for seed in range(12):
        picture = _picture(24 + 4 * (seed % 3), 24, seed)
        torch.testing.assert_close(_rgb(two, picture), _rgb(one, picture), atol=1e-3, rtol=0)


@pytest.mark.parametrize("packaged", [False, True])
def test_a_batch_of_tiles_is_the_single_tiles(model: OneStepSR, packaged: bool) -> None:
    """Random weights in float32, the packaged ones in the GPU's default dtype."""
    choices = (None, ["-batch"])
    together, single = (rcodsr.load(device="cuda", items=c) if packaged else _engine(model, "fp32", c) for c in choices)
    picture = _picture(70, 90, 3)
    for _ in range(3):
        found, expected = (_rgb(engine, picture, tile=32, tile_overlap=8) for engine in (together, single))
    assert together.runner.at_once(128**2) > 1
    assert _decibels(found, expected) >= 50
    assert float((found - expected).abs().max()) <= 2 / 255


def test_tiles_halve_when_the_gpu_is_full(small_sd_spec: VariantSpec) -> None:
    """A real out-of-memory error: this process is limited to the memory of a small tile. Others may be using the same GPU."""
    spec = replace(small_sd_spec, tile=512)
    model = random_model(spec, 0)
    upscaler = _engine(model, "fp32", ["none"])
    picture = _picture(512, 512, 1)
    _rgb(upscaler, picture, tile=64)  # libraries allocate their memory
    torch.cuda.empty_cache()
    held, total = torch.cuda.memory_reserved(), torch.cuda.mem_get_info()[1]
    torch.cuda.reset_peak_memory_stats()
    _rgb(upscaler, picture, tile=256)
    needed = torch.cuda.max_memory_reserved() - held
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + needed // 2) / total)
    try:
        done = upscaler.run(picture, UpscaleOptions(Level(1), tile=512))
        assert done.tiles > 4  # 256 is too large as well
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    torch.testing.assert_close(
        done.picture.rgb, _rgb(upscaler, picture, tile=512 // (4 if done.tiles < 40 else 8)), atol=1e-2, rtol=0
    )


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_eight_threads_share_one_engine(model: OneStepSR, dtype: str) -> None:
    """Graphs are captured and replayed while other threads compute; every picture is as if it were alone."""
    upscaler, plain = _engine(model, dtype, None), _engine(model, "fp32", ["none"])
    pictures = [to_srgb_image(_picture(24 + 8 * (i % 2), 24, i)) for i in range(16)]
    expected = [io.from_image(plain.upscale(picture, 0.5)).rgb for picture in pictures]
    found: list[list[Tensor]] = [[] for _ in range(8)]
    with SharedUpscaler(upscaler, together=8) as shared:

        def work(number: int) -> None:
            for picture in pictures:
                found[number].append(io.from_image(shared.upscale(picture, realism=0.5)).rgb)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    least = 50 if dtype == "fp32" else 30
    for pictures_of_one in found:
        assert len(pictures_of_one) == 16
        assert min(_decibels(a, b) for a, b in zip(pictures_of_one, expected, strict=True)) >= least
    assert upscaler.lines == []  # type: ignore[attr-defined]


def test_threads_may_share_an_engine_itself(model: OneStepSR) -> None:
    upscaler = _engine(model, "fp32", None)
    pictures = [_picture(24, 24 + 4 * (i % 3), i) for i in range(12)]
    alone = _engine(model, "fp32", ["none"])
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for picture, found in zip(pictures, pool.map(lambda each: _rgb(upscaler, each), pictures), strict=True):
                torch.testing.assert_close(found, _rgb(alone, picture), atol=1e-3, rtol=0)
    assert upscaler.lines == []  # type: ignore[attr-defined]


def test_the_packaged_weights_say_on_a_gpu_what_they_say_on_a_cpu(
    default_upscaler: Upscaler, record_property: Callable[[str, object], None]
) -> None:
    picture = _picture(100, 77, 5)
    expected = _rgb(default_upscaler, picture)
    found = _rgb(rcodsr.load(device="cuda"), picture)
    record_property("packaged_psnr", round(_decibels(found, expected), 1))
    assert _decibels(found, expected) >= 42
    assert _decibels(_rgb(rcodsr.load(device="cuda", dtype="fp32"), picture), expected) >= 55


def test_graphs_work_where_the_device_has_an_index(model: OneStepSR) -> None:
    runtime = Runtime(torch.device("cuda:0"), torch.float32, "test")
    runner = prepare(copy.deepcopy(model), runtime, choose("cuda"))
    lr = natural_batch(1, 32, 1).cuda().float() / 255
    upscaler = Upscaler(runner.model, runtime, "test", runner=runner)
    first, *later = [upscaler.restore(lr[0], UpscaleOptions())[0] for _ in range(3)]
    for each in later:
        torch.testing.assert_close(each, first, atol=1e-3, rtol=0)
