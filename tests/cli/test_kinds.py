"""Files of odd kinds through the command line: what is planned, made, skipped and said is one and the same."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Done, load, one_error_line
from tests.conftest import RunCli
from tests.pngs import chunks, png
from tests.tiffs import Page, tiff_of


def results(done: Done) -> list[dict[str, Any]]:
    """What `--json` says of each picture."""
    assert "Traceback" not in done.stderr
    return [line for line in map(json.loads, done.stdout.splitlines()) if "input" in line]


@pytest.fixture
def turned(photo: Image.Image, tmp_path: Path) -> Path:
    """20×16, on its side by an EXIF block that stands behind the pixels."""
    photo.resize((20, 16)).save(tmp_path / "turned.png")
    *parts, end = chunks((tmp_path / "turned.png").read_bytes())
    exif = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1" + struct.pack(">HH", 6, 0) + bytes(4)
    (tmp_path / "turned.png").write_bytes(png(*parts, (b"eXIf", exif), end))
    return tmp_path / "turned.png"


def test_a_turn_behind_the_pixels_is_minded_by_plan_skip_and_mask(run_cli: RunCli, turned: Path, tmp_path: Path) -> None:
    planned = run_cli("upscale", "turned.png", "-n", "--json", "-o", "out.bmp")
    assert [results(planned)[0][key] for key in ("width", "height")] == [64, 80]
    assert run_cli("upscale", "turned.png", "-q", "-o", "out.bmp").returncode == 0
    assert load(tmp_path / "out.bmp").size == (64, 80)
    again = run_cli("upscale", "turned.png", "--json", "-o", "out.bmp")
    assert results(again)[0]["status"] == "skipped", again.stderr
    Image.fromarray(np.full((20, 16), 90, np.uint8)).save(tmp_path / "mask.png")
    assert run_cli("upscale", "turned.png", "-q", "--realism-map", "mask.png", "-o", "masked.png").returncode == 0


def test_raw_is_refused_and_a_damaged_chunk_is_said(run_cli: RunCli, picture: Path, tmp_path: Path) -> None:
    sensor, preview = np.zeros((40, 60), np.uint16), np.zeros((8, 12, 3), np.uint8)
    (tmp_path / "raw.jpg").write_bytes(tiff_of(Page(preview, {254: (1,)}, (Page(sensor, {262: (32803,)}),))))
    data = bytearray(picture.read_bytes())
    first, *others = chunks(bytes(data))
    data = bytearray(png(first, (b"tEXt", b"Software\0scanner"), *others))
    data[data.index(b"scanner")] ^= 1
    (tmp_path / "odd.png").write_bytes(data)
    done = run_cli("upscale", "raw.jpg", "odd.png", "-o", "out")
    one_error_line(done, 1, "raw.jpg", "a camera raw file", "develop it")
    assert "(its text (tEXt) is damaged (wrong checksum) and was dropped)" in done.stderr
    assert load(tmp_path / "out" / "odd_x4.png").size == (80, 64)
    assert not (tmp_path / "out" / "raw_x4.jpg").exists()


def test_what_the_output_has_no_place_for_is_said(run_cli: RunCli, picture: Path, tmp_path: Path) -> None:
    first, *others = chunks(picture.read_bytes())
    (tmp_path / "made.png").write_bytes(png(first, (b"tEXt", b"parameters\0a cat"), *others))
    done = run_cli("upscale", "made.png", "-o", "made.jpg")
    assert "(JPEG cannot store its text)" in done.stderr
    stripped = run_cli("upscale", "made.png", "--metadata", "strip", "-o", "stripped.jpg")
    assert stripped.returncode == 0
    assert "cannot store" not in stripped.stderr
