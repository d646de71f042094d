"""Measure the cost of a directory beyond the network, and the memory of a picture.

    python dev/measure_batch.py time PHOTOS --count 200      # wall time of a directory against the engine's own time
    python dev/measure_batch.py memory PHOTOS --sides 128,512,2048

`time` runs the whole pipeline from reading to writing, and for comparison only the engine on the same pictures in memory, one
half before and one half after; loading is not included. `memory` runs the command line, in a new process for each size. One
JSON line per figure.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

import rcodsr
from rcodsr.options import UpscaleOptions

if TYPE_CHECKING:
    from rcodsr.engine.upscaler import Upscaler
    from rcodsr.images.picture import Picture


def make_album(photos: Path, album: Path, count: int, side: int) -> list[Path]:
    """Pictures of `side` pixels: shrunk squares of photos, alternately from one corner and the other."""
    sources = sorted(path for path in photos.iterdir() if path.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"})
    album.mkdir()
    made = []
    for i in range(count):
        with Image.open(sources[i % len(sources)], formats=("PNG", "JPEG", "WEBP")) as photo:
            width, height = photo.size
            square = min(photo.size)
            left, top = ((0, 0), (width - square, height - square))[i // len(sources) % 2]
            crop = photo.convert("RGB").crop((left, top, left + square, top + square))
        made.append(album / f"{i:04}.png")
        crop.resize((side, side), Image.Resampling.LANCZOS).save(made[-1])
    return made


def engine_alone(engine: "Upscaler", decoded: "list[Picture]") -> tuple[float, float]:
    """Wall and CPU seconds of the engine alone."""
    started = time.process_time()
    return sum(engine.run(picture, UpscaleOptions()).seconds for picture in decoded), time.process_time() - started


def measure_time(photos: Path, directory: Path, count: int, together: int | None) -> None:
    import torch

    from rcodsr.batch.pipeline import run
    from rcodsr.batch.plan import plan, prepare_outputs
    from rcodsr.batch.results import WriteOptions
    from rcodsr.images import io

    made, options = make_album(photos, directory / "album", count, 128), UpscaleOptions()
    engine = rcodsr.load()
    decoded = [io.read(path) for path in made]
    engine.run(decoded[0], options)  # the first call prepares the network's kernels
    halves = [engine_alone(engine, decoded[: count // 2])]
    jobs = plan([directory / "album"], str(directory / "out"))
    prepare_outputs(jobs)
    real = engine.run
    inside: list[float] = []

    def timed(picture, options, *others):  # type: ignore[no-untyped-def]
        upscaled = real(picture, options, *others)
        inside.append(upscaled.seconds)
        return upscaled

    engine.run = timed  # type: ignore[method-assign]
    started, before = time.perf_counter(), time.process_time()
    results = list(run(jobs, engine, options, WriteOptions(), None, together=together))
    wall, cpu = time.perf_counter() - started, time.process_time() - before
    engine.run = real  # type: ignore[method-assign]
    halves.append(engine_alone(engine, decoded[count // 2 :]))
    alone, cpu_alone = (sum(values) for values in zip(*halves, strict=True))
    assert {result.status for result in results} == {"done"}
    figures = {"count": count, "threads": torch.get_num_threads(), "wall_s": wall, "engine_inside_s": sum(inside)}
    figures |= {"engine_alone_s": alone, "wall_to_inside": wall / sum(inside), "wall_to_alone": wall / alone}
    figures |= {"cpu_s": cpu, "cpu_alone_s": cpu_alone}  # meaningful on a busy machine, too
    print(json.dumps({key: round(value, 3) for key, value in figures.items()}))


def measure_memory(photos: Path, directory: Path, sides: list[int]) -> None:
    first = None
    for side in sides:
        (path,) = make_album(photos, directory / str(side), 1, side)
        started = time.perf_counter()
        command = [sys.executable, "-m", "rcodsr", "upscale", str(path), "-q", "-y"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        peak, pixels = usage.ru_maxrss << 10, (4 * side) ** 2
        first = first or peak
        figures = {"output": 4 * side, "exit": status >> 8, "seconds": round(time.perf_counter() - started, 1)}
        print(json.dumps(figures | {"peak_mb": peak >> 20, "limit_mb": int(1.5 * first + 40 * pixels) >> 20}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("time", "memory"))
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--together", type=int, help="pictures that share network calls")
    parser.add_argument("--sides", default="128,512,2048")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in the command line
    with tempfile.TemporaryDirectory() as directory:
        if options.what == "time":
            measure_time(options.photos, Path(directory), options.count, options.together)
        else:
            measure_memory(options.photos, Path(directory), [int(side) for side in options.sides.split(",")])


if __name__ == "__main__":
    main()
