"""`rcodsr bench`: our path compared with plain modules on the same weights, and with the peak rates of this machine.

The float32 reference of the plain modules and the correctness check come before any timing. Blocks then alternate: ours, plain,
ours. A speed difference counts only if it exceeds the difference between the two halves of ours.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcodsr.bench.ceilings import Ceilings, measure_ceilings
from rcodsr.bench.clock import Lap, lap, ratio, summary, take_turns
from rcodsr.bench.contenders import Contender, agreement, plain_copy, plain_runner
from rcodsr.bench.cost import PUBLISHED, flops, trainable_parameters, weight_bytes
from rcodsr.bench.machine import gpu_state, machine
from rcodsr.bench.memory import peak_resident
from rcodsr.bench.natural import natural_batch
from rcodsr.checkpoints.load import load_weights
from rcodsr.engine.fast import choose
from rcodsr.engine.runner import CudaRunner, Runner, prepare
from rcodsr.engine.runtime import Runtime, choose_runtime, exact_convolutions, is_out_of_memory
from rcodsr.errors import DeviceError, UsageError
from rcodsr.messages import Log, Watch, unwatched
from rcodsr.models.one_step import OneStepSR
from rcodsr.options import Dtype, WeightsRequest
from rcodsr.parts import KlSpec
from rcodsr.variants import VariantSpec

LEAST_PSNR = 42.0
"""PSNR in dB against float32; below it, no speed is reported."""
_INPUTS = 8
"""Number of different pictures, used in rotation."""
_GATE_SIDE = 512
"""Maximum side of the pictures for the correctness check."""


@dataclass(frozen=True)
class SpeedRequest:
    """Settings of a measurement; None uses defaults for the device and the weights."""

    weights: str = "random:rcod-o:0"
    sizes: tuple[int, ...] | None = None
    """Sides of the enlarged pictures."""
    batches: tuple[int, ...] | None = None
    device: str = "auto"
    dtype: Dtype = "auto"
    realism: float = 0.5
    warmup: int | None = None
    """Untimed calls of each contender before the measurement."""
    runs: int | None = None
    """Rounds, each with a block of ours, one of plain modules, and one of ours."""
    items: tuple[str, ...] | None = None
    """Items of `engine.fast`; None uses the device's defaults."""
    gpu: bool = False
    """Refuse to run without an accelerator."""


def measure_speed(request: SpeedRequest, log: Log, model: OneStepSR | None = None, watch: Watch = unwatched) -> dict[str, Any]:
    """Measure correctness and speed; returns a JSON-ready report.

    Args:
        request: settings.
        log: receives progress lines.
        model: replaces the request's weights: float32, on the device; modified in place.
        watch: notified between blocks of calls, never while one is timed.

    Raises:
        DeviceError: when an accelerator is required but not available.
        UsageError: when the variant does not support a size.
        WeightsError: as in `load_weights`.
    """
    runtime = _runtime(request)
    items = choose(runtime.device.type, request.items)
    if model is None:
        model = load_weights(WeightsRequest(request.weights), drawn_on=runtime.device, log=log).model.to(runtime.device)
    runtime = choose_runtime(request.device, request.dtype, model.spec)
    log(f"{request.weights} on {runtime.reason}; items: {', '.join(sorted(items)) or 'none'}")
    before = gpu_state()
    ceilings = measure_ceilings(runtime.device, runtime.dtype)
    planned = cases(request, model.spec, runtime)
    gate = _Gate(model, runtime, min(_GATE_SIDE, min(side for side, _ in planned)), request.realism, log)
    unchanged = plain_copy(model)
    ours = Contender(prepare(model, runtime, items, log), tiled=True)  # first, since it rewrites in float32
    plain = Contender(plain_runner(unchanged, runtime), tiled=False)
    verdict = gate.judge(ours)
    rows = [_case(ours, plain, side, batch, request, ceilings, verdict, log, watch) for side, batch in planned]
    spec = ours.model.spec
    return {
        "command": "bench",
        "weights": request.weights,
        "device": str(runtime.device),
        "dtype": runtime.dtype_name,
        "realism": request.realism,
        "items": sorted(items),
        "machine": machine(runtime.device),
        "gpu_before": before,
        "gpu_after": gpu_state(),
        "ceilings": asdict(ceilings),
        "trainable_parameters": trainable_parameters(spec),
        "published": {"seconds": PUBLISHED, "what": "512x512 on one A100, the paper's own figures, not measured here"},
        "results": rows,
    }


def _runtime(request: SpeedRequest) -> Runtime:
    if request.gpu and request.device.startswith("cpu"):
        raise UsageError("--gpu", "contradicts --device cpu", "leave one of them out")
    if request.gpu and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise DeviceError("--gpu", "no accelerator is available here", "leave --gpu out to measure the CPU")
    return choose_runtime(request.device, request.dtype)


def cases(request: SpeedRequest, spec: VariantSpec, runtime: Runtime) -> list[tuple[int, int]]:
    """Sides and batch sizes; batches above 1 only if a picture is one tile.

    Raises:
        UsageError: when the variant does not support a side, or no picture fits in one tile for the batches.
    """
    large = runtime.device.type != "cpu"
    small = 256 if isinstance(spec.autoencoder, KlSpec) else 512
    sizes = request.sizes or ((512, 2048, 4096) if large else (small,))
    batches = request.batches or ((1, 8) if large else (1,))
    for side in sizes:
        if side % spec.multiple:
            nearest = max(1, round(side / spec.multiple)) * spec.multiple
            raise UsageError("--sizes", f"{side} is not a multiple of {spec.multiple}, as {spec.name} needs", f"use {nearest}")
    found = [(side, batch) for side in sizes for batch in batches if batch == 1 or side <= spec.tile * spec.scale]
    if not found:
        raise UsageError("--batch", f"pictures with side {sizes[0]} do not fit in one tile", "use --batch 1, or a smaller size")
    return found


class _Gate:
    """The float32 output of the plain modules, computed before casting and rewriting.

    Args:
        model: float32, on the device.
        runtime: the device.
        side: side of the enlarged pictures.
        realism: the level.
        log: receives a line before the computation.
    """

    def __init__(self, model: OneStepSR, runtime: Runtime, side: int, realism: float, log: Log) -> None:
        log(f"reference: plain modules in float32 at {side}x{side}")
        exact = Contender(Runner(model, Runtime(runtime.device, torch.float32, "reference")), tiled=False)
        count = 4 if runtime.device.type == "cuda" else 1
        self.realism, self.pictures = realism, natural_batch(count, side // model.spec.scale, seed=99).to(runtime.device)
        with exact_convolutions():
            self.expected = [exact.network(lr[None], realism) for lr in self.pictures]

    def judge(self, ours: Contender) -> dict[str, Any]:
        """Return the worst agreement over the pictures: eager calls, captured graphs, and replays into poisoned buffers."""
        found = []
        for lr, expected in zip(self.pictures, self.expected, strict=True):
            if isinstance(ours.runner, CudaRunner):
                ours.runner.poison()
            found.append(agreement(ours.network(lr[None], self.realism), expected))
        psnr, rel_l2, largest = min(found)
        return {"psnr": psnr, "rel_l2": rel_l2, "max_abs": largest, "passed": psnr >= LEAST_PSNR}


def _case(
    ours: Contender,
    plain: Contender,
    side: int,
    batch: int,
    request: SpeedRequest,
    ceilings: Ceilings,
    verdict: dict[str, Any],
    log: Log,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    spec, device = ours.model.spec, ours.runtime.device
    row: dict[str, Any] = {"size": side, "batch": batch, "tiles": ours.tiles(side), **verdict}
    if not verdict["passed"]:
        log(f"{side}x{side}: {verdict['psnr']:.1f} dB against float32 is below {LEAST_PSNR:g} dB; no speed is reported")
        return row
    log(f"{side}x{side}, batch {batch}: measuring")
    pictures = [natural_batch(batch, side // spec.scale, seed).to(device) for seed in range(1 if batch > 1 else _INPUTS)]
    plain_fits = _fits(plain, pictures[0], request.realism)
    plain.tiled = not plain_fits
    on_gpu = device.type == "cuda"
    warmup = request.warmup if request.warmup is not None else (20 if on_gpu else 0)
    rounds = request.runs if request.runs is not None else (5 if on_gpu else 2)
    calls = max(2, 20 // batch) if on_gpu and side <= 1024 else 1
    contenders = {
        name: _rotating(c, pictures, request.realism) for name, c in {"ours": ours, "plain": plain, "again": ours}.items()
    }
    for name in ("ours", "plain"):
        for _ in range(warmup):
            lap(contenders[name], device)
    blocks = take_turns(contenders, rounds, calls, device, partial(watch, f"{side}x{side}, batch {batch}"))
    counted = flops(spec, side, batch)
    memory = {name: _peak(contenders[name], device) for name in (("ours", "plain") if on_gpu else ("ours",))}
    floor = ceilings.floor(sum(counted.values()), weight_bytes(ours.model))
    return (
        row
        | _speeds(blocks, batch, sum(counted.values()), floor, ceilings)
        | {
            "plain_tiles": plain.tiles(side),
            "flops": counted,
            "floor_seconds": floor,
            "stages": _stages(ours.model, pictures[0], request.realism, device) if row["tiles"] == 1 else None,
            "peak_bytes": memory,
            "weights_bytes": weight_bytes(ours.model),
        }
    )


def _speeds(
    blocks: dict[str, list[list[Lap]]], batch: int, operations: int, floor: float, ceilings: Ceilings
) -> dict[str, Any]:
    both = [a + b for a, b in zip(blocks["ours"], blocks["again"], strict=True)]
    fast = summary(both)
    return {
        "ours": fast,
        "plain": summary(blocks["plain"]),
        "speedup": ratio(blocks["plain"], both),
        "speedup_cpu_time": ratio(blocks["plain"], both, cpu=True),
        "noise": abs(ratio(blocks["again"], blocks["ours"]) - 1),
        "images_per_second": batch / fast["median"],
        "flops_per_second": operations / fast["median"],
        "share_of_matmul": operations / fast["median"] / ceilings.matmul,
        "times_floor": fast["median"] / floor,
    }


def _rotating(contender: Contender, pictures: list[Tensor], realism: float) -> Callable[[], object]:
    """Return a function that enlarges the next picture at each call."""
    turn = iter(range(sys.maxsize))
    return lambda: contender(pictures[next(turn) % len(pictures)], realism)


def _fits(plain: Contender, lr: Tensor, realism: float) -> bool:
    """Whether the plain modules can process the whole picture; on a CPU, where trying may kill the process, only one tile."""
    spec = plain.model.spec
    if lr.shape[-1] <= spec.tile:
        return True
    if plain.runtime.device.type != "cuda":
        return False
    try:
        plain(lr, realism)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        torch.cuda.empty_cache()
        return False
    return True


def _stages(model: OneStepSR, lr: Tensor, realism: float, device: torch.device) -> dict[str, float]:
    """Seconds of each stage alone, run in sequence; they do not add up to the total if stages overlap."""
    from rcodsr.images.resize import upsample
    from rcodsr.models.one_step import Condition

    t = torch.full((len(lr),), model.spec.grouping.realism_timestep(realism), device=device)
    made: dict[str, Any] = {}

    def keep(name: str, call: Callable[[], object]) -> float:
        seconds = [lap(lambda: made.update({name: call()}), device).seconds for _ in range(5 if device.type == "cuda" else 1)]
        return sorted(seconds)[len(seconds) // 2]

    with torch.no_grad():
        pictures = lr.float() / 255
        times = {"upsample": keep("x", lambda: upsample(pictures, model.spec.scale))}
        times["condition"] = keep("condition", lambda: model.condition(made["x"], t, pictures))
        condition: Condition = made["condition"]
        with model.modulator.using(condition.modulation):
            times["encode"] = keep("z", lambda: model.encode(made["x"]))
            times["unet"] = keep("restored", lambda: model.restore(made["z"], condition))
            times["decode"] = keep("picture", lambda: model.decode(made["restored"]))
    return times


def _peak(call: Callable[[], object], device: torch.device) -> dict[str, int]:
    """Peak memory during a call, including everything loaded: allocated and reserved on a GPU, otherwise resident."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return {"allocated": torch.cuda.max_memory_allocated(device), "reserved": torch.cuda.max_memory_reserved(device)}
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: reset the peak
    call()
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return {"resident": int(line.split()[1]) << 10}
    return {"resident": peak_resident()}
