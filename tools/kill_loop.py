"""Kill a batch at random moments, run it again, and compare with an undisturbed run.

    python tools/kill_loop.py --kill 100 --term 50 --int 50          # signals
    python tools/kill_loop.py --parallel 4 --times 20                # several processes on one folder

After each signal every file under its final name must be intact; after the rerun the folder must equal the undisturbed one byte
for byte, without temporary files. Prints one JSON line with the counts; exits 1 if anything failed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

COUNT = 25
CODES = {signal.SIGKILL: {-9, 0}, signal.SIGTERM: {143, 0}, signal.SIGINT: {130, 0}}


def start(album: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rcodsr", "upscale", str(album), "-o", str(out), "--device", "cpu", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def broken(out: Path, whole: dict[str, bytes]) -> list[str]:
    """Files under their final names that differ from the undisturbed run."""
    found = contents(out) if out.exists() else {}
    return [name for name, data in found.items() if not name.startswith(".") and data != whole[name]]


def disturb(
    album: Path, out: Path, whole: dict[str, bytes], sent: signal.Signals, length: float, rng: random.Random
) -> list[str]:
    shutil.rmtree(out, ignore_errors=True)
    process = start(album, out)
    deadline = time.monotonic() + 60  # the model is loaded when the first part or picture appears
    while not (out.is_dir() and any(out.iterdir())) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(rng.random() * length)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=60)
    trouble = [f"{sent.name}: broken {name}" for name in broken(out, whole)]
    if process.returncode not in CODES[sent] or "Traceback" in stderr:
        trouble.append(f"{sent.name}: exit {process.returncode}: {stderr[-500:]}")
    if sent != signal.SIGKILL and list(out.glob(".*")):
        trouble.append(f"{sent.name}: left a temporary file")
    again = start(album, out)
    again.communicate(timeout=120)
    if again.returncode != 0 or contents(out) != whole:
        trouble.append(f"{sent.name}: the rerun exits {again.returncode} or differs")
    return trouble


def together(album: Path, out: Path, whole: dict[str, bytes], processes: int) -> list[str]:
    shutil.rmtree(out, ignore_errors=True)
    running = [start(album, out) for _ in range(processes)]
    errors = [process.communicate(timeout=300)[1] for process in running]
    trouble = [
        f"exit {process.returncode}: {error[-300:]}"
        for process, error in zip(running, errors, strict=True)
        if process.returncode
    ]
    return trouble + ([] if contents(out) == whole else ["the folder differs from the undisturbed one"])


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("kill", "term", "int", "parallel", "times"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as directory:
        album, out = Path(directory, "album"), Path(directory, "out")
        album.mkdir()
        for i in range(COUNT):
            pixels = np.random.default_rng(i).integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((48, 40)).save(album / f"{i:02}.{('png', 'jpg', 'tif', 'webp')[i % 4]}")
        started = time.monotonic()
        first = start(album, out)
        _, stderr = first.communicate(timeout=300)
        whole = contents(out)
        assert len(whole) == COUNT, stderr
        length = max(0.5, time.monotonic() - started - 2.5)
        trouble: list[str] = []
        sent = {signal.SIGKILL: options.kill, signal.SIGTERM: options.term, signal.SIGINT: options.int}
        for number, count in sent.items():
            for _ in range(count):
                trouble += disturb(album, out, whole, number, length, rng)
        for _ in range(options.times if options.parallel else 0):
            trouble += together(album, out, whole, options.parallel)
    counts = {number.name: count for number, count in sent.items()} | {"parallel": options.parallel, "times": options.times}
    print(json.dumps({**counts, "broken": len(trouble), "first": trouble[:3]}))
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
