"""How much a directory costs beyond the network, and how much memory a picture takes.

    python tools/measure_batch.py time PHOTOS --count 200      # wall time of a directory against the engine's own time
    python tools/measure_batch.py memory PHOTOS --sides 128,512,2048

`time` first lets the engine enlarge the same pictures in memory, with nothing beside it; then the whole pipeline, read to
written. Both after loading. `memory` runs the command line, a fresh process for each size. One JSON line per figure.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image


def make_album(photos: Path, album: Path, count: int, side: int) -> list[Path]:
    """Pictures of `side` pixels, shrunk squares of photos, taken in turn from one corner and the other."""
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


def measure_time(photos: Path, directory: Path, count: int, together: int | None) -> None:
    import torch

    from rcodsr.batch.pipeline import Output, run
    from rcodsr.batch.plan import plan, prepare_outputs
    from rcodsr.config import UpscaleOptions
    from rcodsr.engine.upscaler import Upscaler
    from rcodsr.images import io

    made, options = make_album(photos, directory / "album", count, 128), UpscaleOptions()
    engine = Upscaler.load()
    decoded = [io.read(path) for path in made]
    engine.run(decoded[0], options)  # the first call prepares the network's kernels
    alone = sum(engine.run(picture, options).seconds for picture in decoded)
    jobs = plan([directory / "album"], str(directory / "out"))
    prepare_outputs(jobs)
    started, real = time.perf_counter(), engine.run
    inside: list[float] = []

    def timed(picture, options):  # type: ignore[no-untyped-def]
        upscaled = real(picture, options)
        inside.append(upscaled.seconds)
        return upscaled

    engine.run = timed  # type: ignore[method-assign]
    results = list(run(jobs, engine, options, Output(), None, together=together))
    wall = time.perf_counter() - started
    assert {result.status for result in results} == {"done"}
    figures = {"count": count, "threads": torch.get_num_threads(), "wall_s": wall, "engine_inside_s": sum(inside)}
    figures |= {"engine_alone_s": alone, "wall_to_inside": wall / sum(inside), "wall_to_alone": wall / alone}
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
    with tempfile.TemporaryDirectory() as directory:
        if options.what == "time":
            measure_time(options.photos, Path(directory), options.count, options.together)
        else:
            measure_memory(options.photos, Path(directory), [int(side) for side in options.sides.split(",")])


if __name__ == "__main__":
    main()
