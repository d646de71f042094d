"""Pack the data for a training on another machine: photos as AVIF, the frozen networks at 8 bits per weight.

python tools/pack_training.py OUT PHOTOS JUDGES

JUDGES contains lpips_vgg16.safetensors and, for TEACHER=1, realesrgan_x4plus.safetensors (docs/weights.md). Prints the error of
the packed weights. `tools/gpu_train.py` unpacks them.
"""

import io
import lzma
import os
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

from rcodsr.data.photos import PhotoCache

NETWORKS = ("realesrgan_x4plus", "lpips_vgg16")
_MOST = 15 << 20
"""Maximum bytes of all photos together."""


def pack_network(source: Path, target: Path) -> float:
    """Store each output channel as 8-bit integers and a scale; returns the relative error of the weights."""
    packed: dict[str, Tensor] = {}
    missed = total = 0.0
    for name, value in load_file(source).items():
        value = value.float()
        if value.dim() < 2:
            packed[name] = value.half()
            continue
        scale = (value.flatten(1).abs().amax(1).clamp(min=1e-8) / 127).view(-1, *[1] * (value.dim() - 1))
        packed[name] = (value / scale).round().to(torch.int8)
        packed[f"{name}/scale"] = scale
        missed += float((packed[name] * scale - value).square().sum())
        total += float(value.square().sum())
    target.write_bytes(lzma.compress(save(packed)))
    return float((missed / total) ** 0.5)


def unpack_network(source: Path, target: Path) -> None:
    """Write a packed network as a regular safetensors file, float32."""
    packed = load(lzma.decompress(source.read_bytes()))
    values = {name: value.float() for name, value in packed.items() if not name.endswith("/scale")}
    for name in values:
        if f"{name}/scale" in packed:
            values[name] = values[name] * packed[f"{name}/scale"]
    save_file({name: value.contiguous() for name, value in values.items()}, target)


def pack_photos(photos: list[Path], target: Path) -> int:
    """Store photos as AVIF at the highest quality that fits into the limit; returns their total bytes."""
    target.mkdir(parents=True, exist_ok=True)
    sample = photos[:: max(1, len(photos) // 16)]
    share = len(photos) / len(sample)
    quality = next(q for q in range(90, 0, -3) if sum(len(_encoded(path, q)) for path in sample) * share < 0.97 * _MOST)
    total = 0
    for path in photos:
        data = _encoded(path, quality)
        (target / f"{path.stem}.avif").write_bytes(data)
        total += len(data)
    return total


def _encoded(path: Path, quality: int) -> bytes:
    data = io.BytesIO()
    photo = PhotoCache(0).read(path)  # as in training: upright, in sRGB, composited on white
    Image.fromarray(photo).save(data, "AVIF", quality=quality, speed=8, subsampling="4:4:4")
    return data.getvalue()


def main(out: Path, photos: Path, judges: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS if os.environ.get("TEACHER") == "1" else NETWORKS[1:]:
        error = pack_network(judges / f"{name}.safetensors", out / f"{name}.xz")
        print(f"{name}: {(out / f'{name}.xz').stat().st_size / 2**20:.1f} MiB, weights {error:.2%} off")
    found = sorted(path for path in photos.iterdir() if path.suffix.lower() in {".webp", ".png", ".jpg", ".jpeg"})
    print(f"{len(found)} photos: {pack_photos(found, out / 'photos') / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
