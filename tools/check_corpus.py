"""Enlarge a folder of foreign pictures and check every result: the right pixels, or a one-line error.

    python tools/check_corpus.py FOLDER --max-pixels 4000000

Runs `rcodsr upscale FOLDER -R` once, then the rejected files again to measure their cost. A picture is right when its output,
downscaled by box averaging, matches Pillow's decoding. Prints findings, then one JSON line with the counts; exits 1 if there
were any findings.
"""

import argparse
import hashlib
import io
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps

BOUND = 0.02
"""Mean error in [0, 1] over cells; misread 16-bit, inverted CMYK and lost alpha are far above it."""
SMALL = 24
"""Minimum side in pixels; in smaller pictures a cell covers most of it, and models smooth single pixels."""
SILENCE = 30
"""Seconds without a result that count as a hang."""
REFUSAL_SECONDS, REFUSAL_BYTES = 2, 150 << 20
Pixels = np.ndarray[Any, np.dtype[Any]]


def truths(path: Path) -> Iterator[Pixels]:
    """Valid readings of a file: (h, w, 3 or 4) in [0, 1]; for CMYK with a profile, by the profile or by the plain rule."""
    srgb, lab = (ImageCms.createProfile(space) for space in ("sRGB", "LAB"))
    with Image.open(path) as opened:
        stored = opened.tile[0].args if opened.tile and isinstance(opened, ImageFile.ImageFile) else None
        opened.load()
        # Pillow scales the pixels of such a PNG, but not its transparent grey
        if opened.format == "PNG" and stored in {"L;2", "L;4"} and "transparency" in opened.info:
            opened.info["transparency"] *= 85 if stored == "L;2" else 17
        image = ImageOps.exif_transpose(opened)
        profile = opened.info.get("icc_profile")
        white_is_zero = opened.format == "TIFF" and getattr(opened, "tag_v2", {}).get(262) == 0
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        values = np.asarray(image).astype(np.float64)
        # Pillow honours white-is-zero for 8 bits only
        if image.mode.startswith("I;16") and white_is_zero:
            values = 65535 - values
        low, high = min(0.0, float(values.min())), float(values.max())
        clear = image.info.get("transparency")
        alpha = [] if clear is None else [(values != clear)[..., None]]
        usual = (
            (65535.0,) if image.mode.startswith("I;16") else (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        )
        for top in (*usual, high - low):
            if low < 0 or high <= top:
                grey = ((values - low) / max(top, 1e-9))[..., None]
                yield np.concatenate([grey, grey, grey, *alpha], -1)
        return
    if image.mode == "CMYK" and profile:
        with suppress(ImageCms.PyCMSError, OSError, ValueError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            yield np.asarray(ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")) / 255
    if image.mode == "LAB":
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None
        image = converted
    image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))
    transparent = image.mode in {"LA", "PA", "RGBA"} or "transparency" in image.info
    yield np.asarray(image.convert("RGBA" if transparent else "RGB")) / 255


def cells(pixels: Pixels, level: float) -> Pixels:
    """Composite on a grey level and average over cells of up to eight pixels: a model may smooth grain, but not tones."""
    flat = pixels if pixels.shape[2] == 3 else pixels[..., :3] * pixels[..., 3:] + (1 - pixels[..., 3:]) * level
    for axis in (0, 1):
        starts = np.linspace(0, flat.shape[axis], max(1, flat.shape[axis] // 8), endpoint=False).astype(int)
        lengths = np.diff([*starts, flat.shape[axis]])
        flat = np.add.reduceat(flat, starts, axis) / np.expand_dims(lengths, tuple(i for i in range(3) if i != axis))
    return flat


def wrong(source: Path, output: Path) -> str:
    """Describe the error of an output; empty if there is none."""
    found = next(truths(output))
    height, width = found.shape[:2]
    levels = (0.0, 1.0) if found.shape[2] == 4 else (1.0,)  # a format without alpha has it laid on white
    errors = []
    for truth in truths(source):
        if (width, height) != (4 * truth.shape[1], 4 * truth.shape[0]):
            return f"is {width}×{height} for {truth.shape[1]}×{truth.shape[0]}"
        shrunk = found.reshape(height // 4, 4, width // 4, 4, -1).mean((1, 3))
        errors.append(max(float(np.abs(cells(shrunk, level) - cells(truth, level)).mean()) for level in levels))
    bound = BOUND if min(height, width) >= 4 * SMALL else 4 * BOUND
    return "" if min(errors) < bound else f"shows a different picture: mean error {min(errors):.3f}"


def upscale(arguments: list[str], log: Path) -> tuple[list[dict[str, Any]], str, int]:
    """Rows, standard error and exit code of a run; a hung run is killed and reported as a row."""
    rows: list[dict[str, Any]] = []
    with log.open("w") as stderr:
        command = [sys.executable, "-m", "rcodsr", "upscale", *arguments, "--json", "--device", "cpu"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        lines: queue.Queue[str] = queue.Queue()

        def listen() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.put(line)
            lines.put("")

        threading.Thread(target=listen, daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=SILENCE + (300 if not rows else 0))
            except queue.Empty:
                process.kill()
                rows.append({"input": f"after {rows[-1].get('input', 'the end') if rows else 'the start'}", "status": "hang"})
                break
            if not line:
                break
            rows.append(json.loads(line))
    return [row for row in rows if "summary" not in row], log.read_text(), process.wait()


_MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
sys.stdout.buffer.write(done.stdout)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak(listed: list[Path], place: Path, max_pixels: int) -> tuple[int, list[dict[str, Any]]]:
    """Peak memory in bytes of a run over rejected files, and its rows."""
    names = place / "list.txt"
    names.write_bytes(b"\0".join(os.fsencode(path) for path in listed) + b"\0")
    options = ["--json", "--device", "cpu", "-o", f"{place / 'refused'}/", "--max-pixels", str(max_pixels)]
    command = [sys.executable, "-c", _MEASURED, sys.executable, "-m", "rcodsr", "upscale", f"@{names}", *options]
    *rows, _, size = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return int(size) << 10, [json.loads(row) for row in rows]


def refusals(refused: list[Path], place: Path, max_pixels: int) -> Iterator[str]:
    """Rejected files that cost too much."""
    empty = place / "empty.png"
    empty.touch()
    idle, _ = peak([empty], place, max_pixels)
    # files of the same name would clash in one output folder
    by_name = {path.name.casefold(): path for path in refused}
    most, rows = peak(list(by_name.values()), place, max_pixels) if by_name else (idle, [])
    if most - idle > REFUSAL_BYTES:
        yield f"refused files take {(most - idle) >> 20} MB"
    yield from (f"{row['input']}: refused after {row['seconds']} s" for row in rows if row["seconds"] > REFUSAL_SECONDS)


def check(folder: Path, place: Path, max_pixels: int) -> tuple[dict[str, int], list[str]]:
    """Return counts and findings."""
    out, report = place / "out", place / "report.jsonl"
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}
    arguments = [str(folder), "-R", "-o", str(out), "--max-pixels", str(max_pixels), "--report", str(report)]
    rows, stderr, code = upscale(arguments, place / "stderr.txt")
    found = [f"exit code {code}"] if code not in {0, 1} else []
    found += [line for line in stderr.splitlines() if "Traceback" in line or "unexpected" in line]
    found += [row["input"] for row in rows if row["status"] == "hang"]
    said = {json.loads(line)["input"] for line in report.read_text().splitlines()}
    visible = (path for path in before if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    found += [f"{path}: lost" for path in visible if str(path) not in said]
    lines = stderr.splitlines()
    for row in rows:
        if row["status"] == "failed" and sum(line.startswith(f"rcodsr: {row['input']}: ") for line in lines) != 1:
            found.append(f"{row['input']}: failed without a one-line error")
        if row["status"] == "done" and (trouble := wrong(Path(row["input"]), Path(row["output"]))):
            found.append(f"{row['input']}: {trouble}")
    written = {str(path) for path in out.rglob("*") if path.is_file()}
    found += [f"{path}: left over" for path in written - {row["output"] for row in rows if row["status"] == "done"}]
    found += [f"{path}: changed" for path, digest in before.items() if hashlib.sha256(path.read_bytes()).digest() != digest]
    found += refusals([Path(row["input"]) for row in rows if row["status"] == "failed"], place, max_pixels)
    counts = {status: sum(row["status"] == status for row in rows) for status in ("done", "failed", "hang")}
    return {"files": len(before), **counts, "ignored": len(said) - len(rows)}, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--max-pixels", type=int, default=4_000_000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = None
    with tempfile.TemporaryDirectory() as directory:
        counts, found = check(options.folder, Path(directory), options.max_pixels)
    print("\n".join(found))
    print(json.dumps({**counts, "findings": len(found)}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
