"""Time the default weights beside Real-ESRGAN's whole generator: one process, float32, the same tiles.

    python dev/beside_real_esrgan.py realesrgan_x4plus.safetensors PICTURE [--runs 5]

Prints wall and CPU seconds (median of the runs, in turn) and their ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import rcodsr
from rcodsr.images.tiling import plan_tiles
from rcodsr.models.real_esrgan import RealEsrgan


def generator(weights: str) -> RealEsrgan:
    """Real-ESRGAN x4plus in float32, channels last."""
    model = RealEsrgan().eval()
    model.load_state_dict({model.module_name(key): value.float() for key, value in load_file(weights).items()})
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def enlarge(model: RealEsrgan, x: Tensor, tile: int, overlap: int, multiple: int) -> Tensor:
    """(1, 3, h, w) in [0, 1] → (3, 4h, 4w), in the tiles that the engine would take."""
    height, width = 4 * x.shape[-2], 4 * x.shape[-1]
    whole = torch.zeros(3, height, width)
    for rows, columns, weight in plan_tiles(height, width, 4 * tile, 4 * overlap, multiple):
        part = x[..., rows.start // 4 : rows.stop // 4, columns.start // 4 : columns.stop // 4]
        whole[:, rows, columns] += model(part.contiguous(memory_format=torch.channels_last))[0] * weight
    return whole


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("weights")
    parser.add_argument("picture")
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    torch.set_grad_enabled(False)
    image = Image.open(asked.picture, formats=["PNG", "JPEG"]).convert("RGB")
    x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    model, ours = generator(asked.weights), rcodsr.load("rcod-small", device="cpu", dtype="fp32")
    spec = ours.model.spec
    calls = {
        "rcod-small": lambda: ours.upscale(image, realism=1),
        "Real-ESRGAN": lambda: enlarge(model, x, spec.tile, spec.tile_overlap, spec.multiple),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(asked.runs):
        for name, call in calls.items():
            times[name].append(timed(call))
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    for name, (wall, cpu) in medians.items():
        print(f"{name}  {wall:.2f} s  CPU {cpu:.2f} s")
    first, second = medians.values()
    print(f"ratio  {first[0] / second[0]:.2f}  CPU {first[1] / second[1]:.2f}")


if __name__ == "__main__":
    main()
