"""What a person sees: the bar, the pictures' own lines above it, and nothing that a name could do to a terminal."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from rcodsr.cli.app import _unexpected
from rcodsr.cli.progress import Progress
from tests.cli.conftest import one_error_line
from tests.conftest import RunCli
from tests.terminal import on_a_terminal


def _frames(said: str) -> list[str]:
    """States of the bar, without what moves the cursor."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    return [line for line in re.split(r"[\r\n]+", plain) if "━" in line]


@pytest.mark.parametrize("columns", [80, 40])
def test_a_single_picture_has_a_bar_by_tiles(photo: Image.Image, tmp_path: Path, columns: int) -> None:
    photo.resize((96, 96)).save(tmp_path / "a picture with a rather long name.png")
    code, said = on_a_terminal(
        columns, tmp_path, "upscale", "a picture with a rather long name.png", "-t", "32", "--tile-overlap", "8"
    )
    assert code == 0, said
    frames = _frames(said)
    assert max(map(len, frames)) <= columns
    counts = [re.search(r"(\d+)/(\d+) tiles", frame) for frame in frames]
    last = [found for found in counts if found is not None][-1]
    assert int(last[1]) <= int(last[2])
    assert int(last[2]) >= 9
    assert any("a pi" in frame for frame in frames)  # the name gives way, not the count
    assert any("a picture with a rather long name.png" in frame for frame in frames) == (columns == 80)


def test_every_picture_has_its_own_line_above_the_bar(photo: Image.Image, tmp_path: Path) -> None:
    photo.resize((16, 16)).save(tmp_path / "a.png")
    photo.resize((16, 16)).convert("RGBA").save(tmp_path / "b.png")
    evil = "evil\x1b]0;PWN\x07\x1b[31m.png"
    shutil.copy(tmp_path / "a.png", tmp_path / evil)
    with Image.open(tmp_path / "b.png") as image:
        image.putalpha(100)
        image.save(tmp_path / "b.png")
    code, said = on_a_terminal(80, tmp_path, "upscale", "a.png", "b.png", evil, "-f", "jpg", "-r", "1")
    assert code == 0, said
    plain = re.sub(r"\s+", " ", said)
    assert "[1/3] done a.png 64x64 realism 1 (timestep 750)" in plain
    assert "transparency flattened onto white" in plain
    assert "a_x4.jpg" in plain
    assert "\x1b]0;PWN" not in said
    assert "\x1b[31m" not in said
    assert "evil\\x1b]0;PWN\\x07" in plain


def test_a_picture_is_not_poured_into_a_terminal(photo: Image.Image, tmp_path: Path) -> None:
    photo.resize((16, 16)).save(tmp_path / "a.png")
    code, said = on_a_terminal(80, tmp_path, "upscale", "a.png", "-o", "-")
    assert code == 2
    assert "is a terminal" in said
    assert "\x89PNG" not in said


def test_notes_are_in_the_json(run_cli: RunCli, picture: Path) -> None:
    with Image.open(picture) as image:
        image.convert("CMYK").save(picture.with_suffix(".jpg"))
    done = run_cli("upscale", "photo.jpg", "--json")
    (note,) = json.loads(done.stdout.splitlines()[0])["notes"]
    assert "CMYK" in note


def test_off_a_terminal_a_long_picture_speaks_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("rcodsr.cli.progress.time.monotonic", lambda: clock[0])
    progress = Progress(2, quiet=False)
    for done in range(1, 8):
        clock[0] += 4
        progress.tile("a.png", done, 8)
    assert capsys.readouterr().err.splitlines() == ["[1/2] a.png  3/8 tiles  eta 52s", "[1/2] a.png  6/8 tiles  eta 40s"]


def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os; os.rmdir({str(gone)!r}); from rcodsr.cli.app import run; raise SystemExit(run(['upscale', '/a.png']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=gone, capture_output=True, text=True)
    one_error_line(done, 1, "the current directory is gone", "cd ")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
    ],
)
def test_every_word_for_too_little_memory_is_code_5(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert _unexpected(error) == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rcodsr: out of memory (")
    assert "; " in line


def test_after_an_interrupt_every_finished_file_is_counted(photo: Image.Image, tmp_path: Path) -> None:
    """The third picture is under way when the signal comes, whatever the first two have reported by then."""
    album = tmp_path / "album"
    album.mkdir()
    for name in "ab":
        photo.resize((12, 10)).save(album / f"{name}.png")
    photo.resize((300, 300)).save(album / "c.png")
    command = [sys.executable, "-m", "rcodsr", "upscale", "album", "-o", "out", "-t", "32"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "out" / "b.png").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    finished = sorted(str(Path("out") / path.name) for path in (tmp_path / "out").iterdir())
    assert sorted(out.splitlines()) == finished
    assert f"({len(finished)} done, {3 - len(finished)} not started)" in err
