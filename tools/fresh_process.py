"""Load weights, enlarge a few pictures, and print times and peak memory as JSON: python fresh_process.py WEIGHTS DEVICE SIDE.

One process per size, because memory reserved on a GPU stays reserved for the life of a process.
"""

import gc
import json
import sys
import time

import torch

import rcodsr
from rcodsr.bench.machine import gpu_state
from rcodsr.bench.memory import peak_resident
from rcodsr.bench.natural import natural_picture
from rcodsr.checkpoints.load import load_weights
from rcodsr.engine.fast import choose
from rcodsr.engine.runner import prepare
from rcodsr.engine.runtime import choose_runtime
from rcodsr.engine.upscaler import Upscaler
from rcodsr.images.picture import Picture
from rcodsr.options import WeightsRequest

_PICTURES = 4


def _load(weights: str, device: str) -> Upscaler:
    """Same as `rcodsr.load`, but draws random weights on the device; memory for drawing is not counted."""
    runtime = choose_runtime(device)
    loaded = load_weights(WeightsRequest(weights), drawn_on=runtime.device)
    runner = prepare(loaded.model, runtime, choose(runtime.device.type))
    if runtime.device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return Upscaler(runner.model, runtime, loaded.id, runner=runner)


def main(weights: str, device: str, side: int) -> None:
    before, started = gpu_state(), time.perf_counter()
    upscaler = _load(weights, device)
    loaded = time.perf_counter() - started
    seconds, tiles = [], 0
    for i in range(_PICTURES):
        picture = Picture(natural_picture(side // upscaler.model.spec.scale, i).float() / 255)
        done = upscaler.run(picture, rcodsr.UpscaleOptions())
        seconds.append(done.seconds)
        tiles = done.tiles
    found = {"side": side, "tiles": tiles, "load_seconds": loaded, "picture_seconds": seconds}
    found |= {"gpu_before": before, "gpu_after": gpu_state()}
    found["peak_resident"] = peak_resident()
    if upscaler.runtime.device.type == "cuda":
        found["peak_allocated"] = torch.cuda.max_memory_allocated()
        found["peak_reserved"] = torch.cuda.max_memory_reserved()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
