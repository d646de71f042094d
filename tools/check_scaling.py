"""Prove that a batch yields the same bytes in any distribution: one process, `-j 2`, three shards, Ray with a killed node.

    python tools/check_scaling.py PHOTOS --count 200 [--ray] [--keep DIRECTORY]

Makes seeded crops of 48 to 64 pixels from photos, enlarges them in each way with one thread per process, compares the folders
byte by byte, and times them, together with one process of two threads. `--ray` needs the extra `ray`.
"""

import argparse
import filecmp
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

WAYS: dict[str, list[list[str]]] = {
    "local": [[]],
    "jobs": [["-j", "2"]],
    "shards": [["--shard", f"{number}/3"] for number in (1, 2, 3)],
}


def crops(photos: Path, count: int, into: Path) -> None:
    """Seeded crops, mostly PNG, some JPEG and WebP."""
    draw = random.Random(0)
    found = sorted(path for path in photos.rglob("*") if path.suffix.lower() in {".png", ".jpg", ".webp"})
    into.mkdir(parents=True)
    for number in range(count):
        with Image.open(found[number % len(found)], formats=("PNG", "JPEG", "WEBP")) as image:
            width, height = draw.randint(48, 64), draw.randint(48, 64)
            left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
            crop = image.convert("RGB").crop((left, top, left + width, top + height))
        crop.save(into / f"p{number:04d}{('.jpg', '.webp', '.png')[min(2, number % 10)]}")


def enlarge(source: Path, target: Path, options: list[str], threads: int = 1) -> None:
    command = [sys.executable, "-m", "rcodsr", "upscale", str(source), "-o", str(target), "-q", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": str(threads)})


def on_ray(source: Path, target: Path) -> None:
    """Two nodes of one CPU each; one is killed when a quarter is done."""
    from ray.cluster_utils import Cluster

    total = len(list(source.iterdir()))
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200 << 20})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=200 << 20) for _ in range(2)]
    command = [sys.executable, "-m", "rcodsr", "upscale", str(source), "-o", str(target), "-q", "--json"]
    running = subprocess.Popen([*command, "--engine", "ray", "--address", cluster.address], stdout=subprocess.PIPE, text=True)
    while running.poll() is None and (not target.is_dir() or len(list(target.iterdir())) < total // 4):
        time.sleep(0.05)
    print(f"  killed one of two nodes after {len(list(target.iterdir()))} of {total} files")
    cluster.remove_node(nodes[0], allow_graceful=False)
    last = running.communicate()[0].splitlines()[-1]
    cluster.shutdown()
    print(f"  {last}, exit code {running.returncode}")


def same(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    if names != sorted(path.name for path in other.iterdir()):
        return False
    return not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])


@contextmanager
def timed(name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - started:.1f} s, load average {os.getloadavg()[0]:.1f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--keep", type=Path, help="work here instead of in a temporary directory")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        top = given.keep or Path(temporary)
        source = top / "in"
        if not source.is_dir():
            crops(given.photos, given.count, source)
        for name, runs in WAYS.items():
            with timed(name):
                for options in runs:
                    enlarge(source, top / name, options)
        with timed("one process, two threads"):
            enlarge(source, top / "threads", [], threads=2)
        if given.ray:
            with timed("ray"):
                on_ray(source, top / "ray")
        results = {name: same(top / "local", top / name) for name in [*WAYS, *(["ray"] if given.ray else [])]}
    print("\n".join(f"{name}: {'identical' if equal else 'DIFFERENT'}" for name, equal in results.items()))
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
