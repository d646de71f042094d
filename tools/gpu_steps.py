"""Measurements of tools/gpu_check.sh, step by step; gpu_check.py runs them in a separate process.

    python tools/gpu_steps.py --out OUT [--tiny] [--dry-run] STEP…

A step is a function of a `Bench` that returns its key figures. Full reports go to OUT/speed.jsonl, progress to log.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gpu_bench import Bench, Figures, log

if TYPE_CHECKING:
    import torch

_ROOT = Path(__file__).resolve().parents[1]
_ITEMS = (
    "graph",
    "norm",
    "upsample",
    "channels-last",
    "stream",
    "sdpa",
    "context",
    "time",
    "vae-attention",
    "batch",
    "device",
)
_TILED = {"batch", "device"}
"""Items that only affect pictures of several tiles."""


# ---- steps


def machine(bench: Bench) -> Figures:
    """Versions, the state of the GPU, and whether the Triton kernel compiles here."""
    import importlib.metadata

    import diffusers

    from rcodsr.bench.machine import gpu_state, machine

    found: Figures = machine(bench.runtime.device)
    for name in ("peft", "numpy", "huggingface_hub", "safetensors", "accelerate"):
        try:
            found["packages"][name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found["packages"][name] = None
    found |= {"runtime": bench.runtime.reason, "diffusers_at": str(diffusers.__file__), "gpu_state": gpu_state()}
    if bench.runtime.device.type == "cuda":
        text = subprocess.run(["nvidia-smi", "-q"], capture_output=True, text=True, timeout=15).stdout
        (bench.out / "nvidia-smi.txt").write_text(text)
        found["triton_norm"] = _triton_norm(bench.runtime.device)
    return found


def _triton_norm(device: torch.device) -> str:
    from rcodsr.models.norms import _agrees

    try:
        return "works" if _agrees(device) else "differs from torch"
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}".partition("\n")[0]


def tests(bench: Bench) -> Figures:
    """Tests marked gpu; in a rehearsal, which skips them, the tests they share with the CPU."""
    files = [path for path in (_ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()]
    files.sort(key=lambda path: (path.parent.name != "training", path))  # the longest first
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "default", "--tb", "short", "-rf"]
    if bench.tiny:
        command += [str(path) for path in files if path.parent.name in {"engine", "models"}]
    else:
        command += ["-m", "gpu", *map(str, files)]
        if find_spec("xdist") and not bench.dry:
            command += ["-n", "5", "--dist", "worksteal"]
    if bench.dry:
        command.append("--collect-only")
    with tempfile.TemporaryDirectory() as scratch, (bench.out / "tests.txt").open("w") as output:
        report = Path(scratch) / "report.xml"
        code = subprocess.run([*command, f"--junitxml={report}"], cwd=_ROOT, stdout=output, stderr=subprocess.STDOUT).returncode
        return {"exit_code": code, **(_outcome(report) if report.is_file() else {})}


def _outcome(report: Path) -> Figures:
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    printed = {each.get("name"): each.get("value") for case in cases for each in case.iter("property")}
    slowest = sorted(cases, key=lambda case: -float(case.get("time", 0)))[:3]
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": [str(case.get("name")) for case in failed],
        "skipped": len(skipped),
        "slowest": {str(case.get("name")): float(case.get("time", 0)) for case in slowest},
        **{str(name): value for name, value in printed.items()},
    }


def speed(bench: Bench, name: str, batches: tuple[int, ...]) -> Figures:
    """`rcodsr bench` against plain modules, with the fidelity check."""
    from rcodsr.bench.speed import SpeedRequest, cases, measure_speed

    packaged = name == "rcod-tiny"
    weights, runs, warmup = name if packaged else f"random:{name}:0", 1 if bench.tiny else 5, 1 if bench.tiny else 5
    request = SpeedRequest(weights, (bench.side,), batches, bench.device, warmup=warmup, runs=runs, gpu=bench.device == "cuda")
    if bench.dry:
        cases(request, bench.spec(name), bench.runtime)
        return bench.rehearse(name, (bench.side,), batches)
    report = measure_speed(request, log, None if packaged else bench.model(name))
    with (bench.out / "speed.jsonl").open("a") as output:
        output.write(json.dumps({"step": f"speed-{name}"} | report) + "\n")
    figures: Figures = {"exit_code": 0 if all(row["passed"] for row in report["results"]) else 1}
    for row in report["results"]:
        figures[f"psnr_{row['batch']}"] = row["psnr"]
        if row["passed"]:
            figures |= {f"ms_{row['batch']}": 1000 * row["ours"]["median"], f"speedup_{row['batch']}": row["speedup"]}
            figures |= {f"per_second_{row['batch']}": row["images_per_second"], f"noise_{row['batch']}": row["noise"]}
            figures |= {f"floors_{row['batch']}": row["times_floor"]}
            figures |= {f"stages_ms_{row['batch']}": {k: 1000 * v for k, v in (row["stages"] or {}).items()}}
    return figures


def tiled(bench: Bench) -> Figures:
    """A picture of many tiles, against plain modules on the same tiles."""
    from rcodsr.bench.clock import ratio, summary, take_turns
    from rcodsr.bench.contenders import agreement
    from rcodsr.bench.natural import natural_batch

    if bench.dry:
        return bench.rehearse("rcod-o", (bench.large,), (4,))
    fast, plain, device = bench.fast, bench.plain, bench.runtime.device
    lr = natural_batch(1, bench.large // fast.model.spec.scale, 5).to(device)
    found = [c(lr, 0.5).float() for c in (plain, fast, fast, fast)]  # the first calls capture graphs
    blocks = take_turns({"ours": lambda: fast(lr, 0.5), "plain": lambda: plain(lr, 0.5)}, 3, 1, device)
    figures = {"tiles": fast.tiles(bench.large), "picture_seconds": summary(blocks["ours"])["median"]}
    figures |= {"speedup": ratio(blocks["plain"], blocks["ours"]), "psnr_to_plain": agreement(found[3], found[0])[0]}
    return figures | {"psnr_replayed_to_eager": agreement(found[3], found[1])[0]}


def without(bench: Bench, item: str) -> Figures:
    """Gain of an item: alternates the full path with the path without it, and compares their pictures."""
    from rcodsr.bench.clock import ratio, take_turns
    from rcodsr.bench.contenders import agreement
    from rcodsr.bench.natural import natural_batch

    side = bench.large if item in _TILED else bench.side
    if bench.dry:
        return bench.rehearse("rcod-o", (side,), (1,), [f"-{item}"])
    less, fast, device = bench.contender([f"-{item}"]), bench.fast, bench.runtime.device
    lr = natural_batch(1, side // fast.model.spec.scale, 7).to(device)
    for _ in range(1 if bench.tiny else 4):
        whole, other = fast(lr, 0.5).float(), less(lr, 0.5).float()
    contenders: dict[str, Callable[[], object]] = {
        "whole": lambda: fast(lr, 0.5),
        "less": lambda: less(lr, 0.5),
        "again": lambda: fast(lr, 0.5),
    }
    calls = 1 if bench.tiny or item in _TILED else 10
    blocks = take_turns(contenders, 1 if bench.tiny else 3, calls, device)
    both = [a + b for a, b in zip(blocks["whole"], blocks["again"], strict=True)]
    noise = abs(ratio(blocks["again"], blocks["whole"]) - 1)
    return {"side": side, "gain": ratio(blocks["less"], both) - 1, "noise": noise, "psnr": agreement(whole, other)[0]}


def directory(bench: Bench) -> Figures:
    """A directory of small pictures in the batch pipeline with rcod-o: pictures per second, and GPU utilisation."""
    from rcodsr.batch.pipeline import run
    from rcodsr.batch.plan import plan, prepare_outputs
    from rcodsr.batch.results import WriteOptions
    from rcodsr.options import UpscaleOptions

    count = 4 if bench.tiny or bench.dry else 200
    with tempfile.TemporaryDirectory() as scratch:
        _album(Path(scratch) / "album", count, 32 if bench.tiny else 128)

        def enlarge(name: str, some: int) -> float:
            jobs = plan([Path(scratch) / "album"], str(Path(scratch) / name))[:some]
            prepare_outputs(jobs)
            if bench.dry:
                return 0.0
            started = time.perf_counter()
            results = list(run(jobs, bench.fast.upscaler, UpscaleOptions(), WriteOptions(), None))
            assert {result.status for result in results} == {"done"}, results[0]
            return time.perf_counter() - started

        enlarge("first", max(4, count // 4))  # captures graphs
        seconds = enlarge("second", count)
        figures: Figures = {"pictures": count}
        if not bench.dry:
            figures["per_second"] = count / seconds
        if bench.device == "cuda":
            figures["busy_share"] = _busy(partial(enlarge, "third", count // 2))
        return figures


def _busy(call: Callable[[], object]) -> float:
    """Share of a call's time during which a kernel or copy runs on the GPU. Profiling slows the call a little."""
    from torch.autograd import DeviceType  # type: ignore[attr-defined]
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        started = time.perf_counter()
        call()
        seconds = time.perf_counter() - started
    events = [event.time_range for event in seen.events() or () if event.device_type == DeviceType.CUDA]
    busy, end = 0.0, 0.0
    for span in sorted(events, key=lambda span: span.start):  # in microseconds
        busy += max(0.0, span.end - max(end, span.start))
        end = max(end, span.end)
    return busy / 1e6 / seconds


def _album(album: Path, count: int, side: int) -> None:
    from PIL import Image

    from rcodsr.bench.natural import natural_picture

    album.mkdir()
    several = [Image.fromarray(natural_picture(side, i).permute(1, 2, 0).numpy()) for i in range(min(count, 20))]
    for i in range(count):
        several[i % len(several)].save(album / f"{i:04}.png")


def command_line(bench: Bench) -> Figures:
    """Same as `directory`, with the packaged weights and `rcodsr upscale`, including start and loading."""
    count = 4 if bench.tiny or bench.dry else 200
    with tempfile.TemporaryDirectory() as scratch:
        _album(Path(scratch) / "album", count, 32 if bench.tiny else 128)
        command = [
            sys.executable,
            "-m",
            "rcodsr",
            "upscale",
            "album",
            "-o",
            "enlarged",
            "-y",
            "--device",
            bench.device,
            "--json",
        ]
        if bench.dry:
            command[-4:] = ["--device", "cuda", "--json", "--dry-run"]
        started = time.perf_counter()
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        log(done.stderr)
        written = len(list((Path(scratch) / "enlarged").glob("*.png")))
    return {"exit_code": done.returncode, "written": written, "seconds_in_all": seconds}


def memory(bench: Bench, side: int) -> Figures:
    """Peak memory, and time to the first and to later pictures, in a separate process."""
    if bench.dry:
        return bench.rehearse("rcod-o", (side,), (1,))
    weights = "random:rcod-tiny:0" if bench.tiny else "random:rcod-o:0"
    command = [sys.executable, str(_ROOT / "tools" / "fresh_process.py"), weights, bench.device, str(side)]
    done = subprocess.run(command, capture_output=True, text=True)
    log(done.stderr)
    return {"exit_code": done.returncode, **(json.loads(done.stdout) if done.returncode == 0 else {})}


@dataclass(frozen=True)
class Step:
    """A measurement and its time limit."""

    measure: Callable[[Bench], Figures]
    limit: float
    """Limit in seconds."""


STEPS = {
    "machine": Step(machine, 30),
    "tests": Step(tests, 75),
    "speed-rcod-o": Step(partial(speed, name="rcod-o", batches=(1, 8)), 60),
    "tiled": Step(tiled, 40),
    "speed-rcod-s": Step(partial(speed, name="rcod-s", batches=(1,)), 40),
    "speed-packaged": Step(partial(speed, name="rcod-tiny", batches=(1, 8)), 30),
    **{f"without-{item}": Step(partial(without, item=item), 20) for item in _ITEMS},
    "directory": Step(directory, 40),
    "command-line": Step(command_line, 30),
    "memory": Step(lambda bench: memory(bench, bench.side), 40),
    "memory-tiled": Step(lambda bench: memory(bench, bench.large), 40),
}
"""In this order, so that an early end still reports the most important figures."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("steps", nargs="+", choices=STEPS)
    chosen = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries goes to the log
    bench = Bench(chosen.out, chosen.tiny, chosen.dry_run)

    def answer(**figures: object) -> None:
        answers.write(json.dumps(figures) + "\n")
        answers.flush()

    import torch

    import rcodsr.bench.speed  # takes seconds, which no step should include

    if bench.device == "cuda" and not torch.cuda.is_available():
        answer(exit_code=4, error="no CUDA device is available here; use TINY=1 to rehearse on the CPU, or --dry-run")
        return
    answer(ready=rcodsr.__version__)
    for name in chosen.steps:
        log(f"---- {name}")
        try:
            answer(**{"exit_code": 0} | STEPS[name].measure(bench))
        except Exception as error:
            traceback.print_exc()
            answer(exit_code=1, ended=True, error=f"{type(error).__name__}: {error}".partition("\n")[0])
            return


if __name__ == "__main__":
    main()
