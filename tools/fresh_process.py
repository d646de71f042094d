"""Load weights, enlarge a few pictures, and print times and peak memory as JSON: python fresh_process.py WEIGHTS DEVICE SIDE.

One process per size, because what a process once reserved on a GPU stays reserved.
"""

import json
import resource
import sys
import time

import torch

import rcodsr
from rcodsr.bench.machine import gpu_state
from rcodsr.bench.natural import natural_picture
from rcodsr.images.picture import Picture

_PICTURES = 4


def main(weights: str, device: str, side: int) -> None:
    before, started = gpu_state(), time.perf_counter()
    upscaler = rcodsr.load(weights, device)
    loaded = time.perf_counter() - started
    seconds, tiles = [], 0
    for i in range(_PICTURES):
        picture = Picture(natural_picture(side // upscaler.model.spec.scale, i).float() / 255)
        done = upscaler.run(picture, rcodsr.UpscaleOptions())
        seconds.append(done.seconds)
        tiles = done.tiles
    found = {"side": side, "tiles": tiles, "load_seconds": loaded, "seconds": seconds}
    found |= {"gpu_before": before, "gpu_after": gpu_state()}
    found["peak_resident"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    if upscaler.runtime.device.type == "cuda":
        found["peak_allocated"] = torch.cuda.max_memory_allocated()
        found["peak_reserved"] = torch.cuda.max_memory_reserved()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
