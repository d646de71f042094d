"""`-j N`: several processes that behave like one, whatever becomes of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.conftest import RunCli

# processes that are born from this script run it as well: one picture kills whoever decodes it
_POISONED = """
import os, signal
from rcodsr.images import io
real = io.read
def read(source, *arguments, **options):
    if source.stem == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(source, *arguments, **options)
io.read = read
if __name__ == "__main__":
    from rcodsr.cli import app
    raise SystemExit(app.run(["upscale", "album", "-o", "out", "-j", "2", "--json"]))
"""


@pytest.fixture
def album(photo: Image.Image, tmp_path: Path) -> Path:
    directory = tmp_path / "album"
    directory.mkdir()
    for number in range(8):
        photo.resize((12 + number, 10)).save(directory / f"{number}.png")
    return directory


def _contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _started(album: Path, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """A batch in two processes, and its first line of results."""
    command = [sys.executable, "-m", "rcodsr", "upscale", "album", "-o", "out", "-j", "2", "--json", *arguments]
    process = subprocess.Popen(command, cwd=album.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline()


def _workers(parent: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(parent).children() if "spawn_main" in " ".join(child.cmdline())]


def test_two_processes_report_like_one(run_cli: RunCli, album: Path) -> None:
    (album / "3.png").write_text("no picture")
    alone = run_cli("upscale", "album", "-o", "alone", "--json", "--report", "alone.jsonl")
    both = run_cli("upscale", "album", "-o", "both", "--json", "--report", "both.jsonl", "-j", "2")
    assert alone.returncode == both.returncode == 1
    assert _contents(album.parent / "alone") == _contents(album.parent / "both")

    def rows(text: str) -> list[dict[str, object]]:
        return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in text.splitlines()]

    assert rows(alone.stdout) == rows(both.stdout.replace("both/", "alone/"))
    assert rows((album.parent / "alone.jsonl").read_text()) == rows(alone.stdout)[:-1]
    assert "2 processes with 1 thread each" in both.stderr
    again = run_cli("upscale", "album", "-o", "both", "--json", "-j", "2", "--fail-fast")
    assert [json.loads(line).get("status") for line in again.stdout.splitlines()] == [*["skipped"] * 3, "failed", None]
    assert again.returncode == 1


def test_what_every_process_would_refuse_is_said_once(run_cli: RunCli, album: Path) -> None:
    done = run_cli("upscale", "album", "-j", "2", "--weights", "nowhere/at-all", "--offline")
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1), done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_picture_that_kills_its_process_fails_alone(album: Path) -> None:
    (album / "2.png").rename(album / "poison.png")
    script = album.parent / "poisoned.py"
    script.write_text(_POISONED)
    done = subprocess.run([sys.executable, script], cwd=album.parent, capture_output=True, text=True, timeout=120)
    *rows, summary = (json.loads(line) for line in done.stdout.splitlines())
    assert (done.returncode, summary["summary"]) == (1, {"done": 7, "skipped": 0, "failed": 1}), done.stderr
    assert [row["input"] for row in rows] == [f"album/{name}.png" for name in (0, 1, 3, 4, 5, 6, 7, "poison")]
    assert "killed by SIGKILL" in rows[-1]["error"]
    assert "Traceback" not in done.stderr
    assert not list((album.parent / "out").glob(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_killed_process_costs_nothing(run_cli: RunCli, album: Path) -> None:
    process, first = _started(album)
    _workers(process.pid)[0].kill()
    rest, errors = process.communicate(timeout=120)
    *rows, summary = (json.loads(line) for line in (first + rest).splitlines())
    assert (process.returncode, summary["summary"]["done"]) == (0, 8), errors
    assert [row["status"] for row in rows] == ["done"] * 8
    run_cli("upscale", "album", "-o", "alone")
    assert _contents(album.parent / "out") == _contents(album.parent / "alone")


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_stopping_leaves_no_process_and_no_half_file(run_cli: RunCli, album: Path, name: str) -> None:
    shutil.copytree(album, album.parent / "out")  # what -y replaces
    process, first = _started(album, "-y")
    workers = _workers(process.pid)
    assert len(workers) == 2
    os.kill(process.pid, signal.Signals[name])
    rest, errors = process.communicate(timeout=30)
    assert process.returncode == {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}[name], errors
    deadline = time.monotonic() + 15
    while any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers):
        assert time.monotonic() < deadline, "a process outlives its parent"
        time.sleep(0.05)
    assert not list((album.parent / "out").glob(".*"))
    for path in (album.parent / "out").iterdir():
        with Image.open(path) as image:
            image.load()
    if name != "SIGKILL":
        replaced = {path for path, data in _contents(album.parent / "out").items() if data != _contents(album)[path]}
        *rows, summary = (json.loads(line) for line in (first + rest).splitlines())
        assert {Path(row["output"]).name for row in rows} == replaced
        assert summary["summary"]["done"] == len(replaced)
