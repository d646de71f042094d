"""Pictures to enlarge, and how a refusal looks."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rcodsr.cli import app

Done = subprocess.CompletedProcess[str]


RunHere = Callable[..., Done]


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunHere:
    """Run `rcodsr ...` in tmp_path and in this process: a tenth of a second, for what ends before the work begins."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Done:
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = app.run([*map(str, arguments)])
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        out, err = capsys.readouterr()
        return Done([*map(str, arguments)], code, out, err)

    return run


@pytest.fixture
def picture(photo: Image.Image, tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    photo.resize((20, 16)).save(path)
    return path


@pytest.fixture
def folder(photo: Image.Image, tmp_path: Path) -> Path:
    directory = tmp_path / "album"
    directory.mkdir()
    photo.resize((20, 16)).save(directory / "a.png")
    photo.resize((16, 12)).save(directory / "b.JPG", quality=90)
    photo.resize((12, 12)).convert("L").save(directory / "c.webp")
    (directory / "notes.txt").write_text("not a picture")
    return directory


def one_error_line(done: Done, code: int, *words: str) -> None:
    """Exactly one line of ours on stderr, the right code, no traceback."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("rcodsr: ")]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]
    assert "; " in lines[0]  # cause; remedy
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr


def load(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def leftovers(directory: Path) -> list[Path]:
    return list(directory.rglob("*.rcodsr-part"))
