"""The generated corpus through the command line, in one batch: upscaled with the right pixels, or one clean line."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from rcodsr.images import io
from tests.conftest import RunCli
from tests.corpus import Pixels, Specimen, specimens

_BOUND = 0.02
"""Mean error in [0, 1]; a white 16-bit picture, inverted CMYK or lost alpha is far above."""


def _shrunk(path: Path) -> Pixels:
    """The output as the file's own values, averaged over 4×4."""
    from rcodsr.images.profiles import from_working

    picture = from_working(io.read(path))
    planes = [*picture.rgb.numpy()] + ([] if picture.alpha is None else [picture.alpha[0].numpy()])
    height, width = planes[0].shape
    return np.stack([plane.reshape(height // 4, 4, width // 4, 4).mean((1, 3)) for plane in planes], -1)


def _laid_on(pixels: Pixels, level: float) -> Pixels:
    return pixels if pixels.shape[2] == 3 else pixels[..., :3] * pixels[..., 3:] + (1 - pixels[..., 3:]) * level


def _cells(pixels: Pixels) -> Pixels:
    """Means over cells of up to eight pixels: a model may smooth the grain of a dithered picture, not its tones."""
    rows, columns = (max(1, side // 8) for side in pixels.shape[:2])
    parts = [part for band in np.array_split(pixels, rows) for part in np.array_split(band, columns, axis=1)]
    return np.stack([part.mean((0, 1)) for part in parts])


def _check_output(specimen: Specimen, path: Path) -> None:
    assert specimen.truth is not None
    height, width = specimen.truth.shape[:2]
    assert io.read_header(path).size == (4 * width, 4 * height), specimen.name
    found = _shrunk(path)
    assert found.shape == specimen.truth.shape, specimen.name
    for level in (0.0, 1.0):
        error = float(np.abs(_cells(_laid_on(found, level)) - _cells(_laid_on(specimen.truth, level))).mean())
        assert error < _BOUND, (specimen.name, error)


@pytest.mark.slow
def test_every_file_is_upscaled_with_the_right_pixels_or_refused_in_one_line(run_cli: RunCli, tmp_path: Path) -> None:
    corpus = {specimen.name: specimen for specimen in specimens()}
    album = tmp_path / "album"
    album.mkdir()
    for name, specimen in corpus.items():
        (album / name).write_bytes(specimen.data)
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in album.iterdir()}
    done = run_cli("upscale", "album", "-o", "out", "--json", "--report", "report.jsonl")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    *rows, _ = (json.loads(line) for line in done.stdout.splitlines())
    assert rows == [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert sorted(Path(row["input"]).name for row in rows) == sorted(corpus)  # nothing is lost
    for row in rows:
        specimen = corpus[Path(row["input"]).name]
        if specimen.truth is None:
            assert row["status"] == "failed", row
            assert sum(f"rcodsr: {row['input']}: " in line for line in done.stderr.splitlines()) == 1
            assert row["seconds"] is None or row["seconds"] < 10  # most are refused before any work
        else:
            assert row["status"] == "done", row
            _check_output(specimen, tmp_path / row["output"])
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {Path(row["output"]).name for row in rows if row["status"] == "done"}
    assert before == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in album.iterdir()}
