"""Faults of disks, streams and names, in real processes: one line, the right code, nothing half-written, nothing lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import RunCli

# fails the n-th call of one function on a temporary file, as a full or dying disk does
_SHIM = """
import errno, os, pathlib, sys
kind, number, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
calls = 0
def fails(real):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == number:
            raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
        return real(*arguments, **options)
    return call
if kind == "fsync":
    os.fsync = fails(os.fsync)
elif kind == "rename":
    pathlib.Path.replace = fails(pathlib.Path.replace)
else:
    real = pathlib.Path.open
    def opened(self, *a, **k):
        handle = real(self, *a, **k)
        if "rcodsr-part" in self.name:
            class Failing:
                def __getattr__(self, name): return fails(handle.write) if name == "write" else getattr(handle, name)
                def __enter__(self): return self
                def __exit__(self, *_): handle.close()
            return Failing() if kind == "write" else fails(lambda: handle)()
        return handle
    pathlib.Path.open = opened
from rcodsr.cli import app
sys.exit(app.run(["upscale", "album", "-o", "out", "--json"]))
"""


@pytest.fixture
def album(photo: Image.Image, tmp_path: Path) -> Path:
    directory = tmp_path / "album"
    directory.mkdir()
    for name in "abc":
        photo.resize((12, 10)).save(directory / f"{name}.png")
    return directory


def _run(album: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _SHIM, *arguments]
    return subprocess.run(command, cwd=album.parent, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "number", "name"),
    [
        ("write", 1, "ENOSPC"),
        ("fsync", 1, "EIO"),
        ("fsync", 3, "EDQUOT"),
        ("rename", 2, "EROFS"),
        ("open", 1, "EMFILE"),
    ],
)
def test_a_dying_disk_stops_the_batch_and_leaves_whole_files(album: Path, kind: str, number: int, name: str) -> None:
    done = _run(album, kind, str(number), name)
    assert done.returncode == 7, done.stderr
    assert sum(line.startswith("rcodsr: ") for line in done.stderr.splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert os.strerror(getattr(__import__("errno"), name)) in done.stderr
    assert "not started" in done.stderr
    out = album.parent / "out"
    assert not list(out.glob(".*"))
    for path in out.iterdir():
        with Image.open(path) as image:
            image.load()
    again = _run(album, "fsync", "0", "EIO")
    assert again.returncode == 0
    assert len(list(out.iterdir())) == 3


def test_a_folder_in_an_outputs_place_costs_that_picture_only(run_cli: RunCli, album: Path) -> None:
    (album.parent / "out" / "b.png" / "inner").mkdir(parents=True)
    done = run_cli("upscale", "album", "-o", "out", "-y")
    assert done.returncode == 7
    assert sorted(path.name for path in (album.parent / "out").iterdir() if path.is_file()) == ["a.png", "c.png"]
    assert "album/b.png" in done.stderr or "out/b.png" in done.stderr


def test_a_batch_stops_after_so_many_failures(run_cli: RunCli, album: Path) -> None:
    (album / "a.png").write_text("no picture")
    done = run_cli("upscale", "album", "--fail-fast", "--json")
    *rows, summary = (json.loads(line) for line in done.stdout.splitlines())
    assert [row["status"] for row in rows] == ["failed"]
    assert summary["summary"] == {"done": 0, "skipped": 0, "failed": 1, "not_started": 2}
    assert done.returncode == 1
    done = run_cli("upscale", "album", "--max-failures", "2", "--report", "r.jsonl")
    assert done.returncode == 1
    rows = [json.loads(line) for line in (album.parent / "r.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["failed", "done", "done"]


def test_a_report_never_overwrites_an_input_or_output(run_cli: RunCli, album: Path) -> None:
    before = (album / "a.png").read_bytes()
    for report in ("album/a.png", "album_x4/a.png"):
        done = run_cli("upscale", "album", "--report", report)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert (album / "a.png").read_bytes() == before
    assert run_cli("upscale", "album", "--report", "nowhere/r.jsonl").returncode == 7


def test_a_picture_on_standard_input(album: Path) -> None:
    data = (album / "a.png").read_bytes()
    command = [sys.executable, "-m", "rcodsr", "upscale", "-", "-q"]
    done = subprocess.run(command, input=data, capture_output=True, timeout=120)
    assert done.stderr == b""
    (album.parent / "out.png").write_bytes(done.stdout)
    with Image.open(album.parent / "out.png") as image:
        assert image.size == (48, 40)
    for given, words in ((b"", b"empty"), (b"hello there", b"text")):
        done = subprocess.run(command, input=given, capture_output=True, timeout=120)
        assert done.returncode == 1
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_stripped_outputs_count_as_done_by_their_size_and_age(run_cli: RunCli, album: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    with Image.open(album / "a.png") as image:
        image.save(album / "a.png", exif=exif, dpi=(300, 300))
    for status in ("done", "skipped"):
        done = run_cli("upscale", "album/a.png", "--metadata", "strip", "--json")
        assert json.loads(done.stdout.splitlines()[0])["status"] == status
    with Image.open(album / "a_x4.png") as image:
        assert not image.getexif()
        assert "dpi" not in image.info


def test_the_background_shows_through(run_cli: RunCli, tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert run_cli("upscale", "clear.png", "-f", "jpg", "--background", "#20ff00").returncode == 0
    with Image.open(tmp_path / "clear_x4.jpg") as image:
        red, green, blue = image.getpixel((16, 16))  # type: ignore[misc]
    assert (abs(red - 32) < 4, green > 250, blue < 4) == (True, True, True)
    assert run_cli("upscale", "clear.png", "--background", "colourful").returncode == 2


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on memory")
def test_a_picture_that_cannot_fit_is_refused_before_decoding(album: Path) -> None:
    Image.new("L", (3000, 3000)).save(album / "large.png")
    code = (
        "import resource, sys\n"
        "from rcodsr.cli import app\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "sys.exit(app.run(['upscale', 'album/large.png', '-n']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=album.parent, capture_output=True, text=True, timeout=60)
    assert "needs about 6.3 GB of memory" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", "2>&1 | true"])
def test_nobody_listening_to_errors_changes_nothing(album: Path, closed: str) -> None:
    command = f"{sys.executable} -m rcodsr upscale album -o out {closed}"
    subprocess.run(command, shell=True, cwd=album.parent, capture_output=True, timeout=120)
    assert sorted(path.name for path in (album.parent / "out").iterdir()) == ["a.png", "b.png", "c.png"]
