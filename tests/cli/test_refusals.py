"""Bad input, full disks and signals: one line, the right exit code, the others done, nothing half-written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

from rcodsr.checkpoints.manifest import PACKAGE
from tests.cli.conftest import leftovers, load, one_error_line
from tests.conftest import RunCli
from tests.pngs import grey_header, png


def _truncated(path: Path, photo: Image.Image) -> None:
    photo.save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:5000])


def _bomb(path: Path) -> None:
    """A valid PNG header of 30000×30000 pixels in a few bytes."""
    path.write_bytes(png(grey_header(30_000, 30_000, bits=1), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")))


def test_a_missing_file_does_not_stop_the_others(run_cli: RunCli, picture: Path) -> None:
    done = run_cli("upscale", "nope.png", "photo.png", "--json")
    one_error_line(done, 1, "nope.png", "no such file")
    assert [json.loads(line).get("status") for line in done.stdout.splitlines()[:2]] == ["failed", "done"]
    assert picture.with_name("photo_x4.png").exists()


def test_bad_files_in_a_folder_are_named_and_the_others_done(run_cli: RunCli, folder: Path, photo: Image.Image) -> None:
    (folder / "text.png").write_text("hello, I am text")
    _truncated(folder / "cut.jpg", photo)
    _bomb(folder / "bomb.png")
    (folder / "empty.webp").touch()
    done = run_cli("upscale", "album", "--json")
    assert done.returncode == 1
    *rows, summary = (json.loads(line) for line in done.stdout.splitlines())
    assert summary == {"summary": {"done": 3, "skipped": 0, "failed": 4, "ignored": 1}}
    errors = {Path(row["input"]).name: row["error"] for row in rows if row["error"]}
    assert "looks like text" in errors["text.png"]
    assert "cut short" in errors["cut.jpg"]
    assert "900 megapixels" in errors["bomb.png"]
    assert "empty" in errors["empty.webp"]
    assert sorted(path.name for path in (folder.parent / "album_x4").iterdir()) == ["a.png", "b.JPG", "c.webp"]
    assert "Traceback" not in done.stderr
    assert all(f"rcodsr: {row['error']}" in done.stderr for row in rows if row["error"])


def test_a_directory_without_pictures(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    one_error_line(run_cli("upscale", "void"), 6, "void", "no pictures found")


def test_output_over_the_limit(run_cli: RunCli, picture: Path) -> None:
    one_error_line(run_cli("upscale", "photo.png", "--max-pixels", "1000"), 1, "80×64", "--max-pixels")


def test_output_equal_to_input(run_cli: RunCli, picture: Path) -> None:
    before = picture.read_bytes()
    one_error_line(run_cli("upscale", "photo.png", "-o", "photo.png", "-y"), 2, "would overwrite an input")
    assert picture.read_bytes() == before


def test_output_that_cannot_be_written(run_cli: RunCli, picture: Path) -> None:
    picture.with_name("file").write_text("in the way")
    started = time.monotonic()
    one_error_line(run_cli("upscale", "photo.png", "-o", "file/x.png"), 7, "cannot be written")
    assert time.monotonic() - started < 20
    assert picture.with_name("file").read_text() == "in the way"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_stops_the_batch(run_cli: RunCli, folder: Path) -> None:
    """The temporary file is a link to a device that is always full."""
    out = folder.parent / "out"
    out.mkdir()
    code = (
        "import os, sys; from pathlib import Path; from rcodsr.cli import app\n"
        "real = Path.open\n"
        "def full(self, *a, **k): return real(Path('/dev/full') if 'rcodsr-part' in self.name else self, *a, **k)\n"
        "Path.open = full\n"
        "sys.exit(app.run(['upscale', 'album', '-o', 'out']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder.parent, capture_output=True, text=True, timeout=120)
    one_error_line(done, 7, "No space left", "0 done, 2 not started")
    assert list(out.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", ["", "-o -"])
def test_standard_output_on_a_full_disk(picture: Path, arguments: str) -> None:
    command = f"{sys.executable} -m rcodsr upscale photo.png {arguments} -q > /dev/full"
    done = subprocess.run(command, shell=True, cwd=picture.parent, capture_output=True, text=True, timeout=60)
    one_error_line(done, 7, "standard output")


def test_a_reader_that_leaves_does_not_stop_the_work(folder: Path) -> None:
    command = f"{sys.executable} -m rcodsr upscale album -q | head -c 1"
    done = subprocess.run(command, shell=True, cwd=folder.parent, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert len(list((folder.parent / "album_x4").iterdir())) == 3


def test_closed_standard_output(picture: Path) -> None:
    command = f"{sys.executable} -m rcodsr upscale photo.png -q >&-"
    done = subprocess.run(command, shell=True, cwd=picture.parent, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert picture.with_name("photo_x4.png").exists()


def test_memory_that_never_suffices_has_its_own_code(picture: Path) -> None:
    code = (
        "import sys, torch; from rcodsr.engine.tiled import TiledNetwork; from rcodsr.cli import app\n"
        "def fail(*_): raise torch.OutOfMemoryError('CUDA out of memory')\n"
        "TiledNetwork._over_tiles = fail\n"
        "sys.exit(app.run(['upscale', 'photo.png']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=picture.parent, capture_output=True, text=True, timeout=60)
    one_error_line(done, 5, "photo.png", "memory")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-r", "50"], ["--realism", "did you mean 0.5"]),
        (["-r", "lots"], ["--realism", "fidelity"]),
        (["-a", "-r", "1"], ["contradicts"]),
        (["-t", "many"], ["--tile"]),
        (["-s", "0"], ["--scale"]),
        (["-o", "x.xyz"], ["x.xyz", ".png"]),
        (["-o", "-", "--json"], ["-o -"]),
        (["-t", "²"], ["--tile"]),
        (["-o", ""], ["empty name"]),
        ([""], ["empty name"]),
        (["--color-fix", "sepia"], ["--color-fix", "wavelet"]),
    ],
)
def test_usage_errors(run_cli: RunCli, picture: Path, arguments: list[str], words: list[str]) -> None:
    one_error_line(run_cli("upscale", "photo.png", *arguments), 2, *words)


def test_no_arguments_show_the_help(run_cli: RunCli) -> None:
    for arguments in ([], ["bench", "--help"]):  # `bench` alone measures
        done = run_cli(*arguments)
        assert "Usage:" in done.stdout
        assert done.stderr == ""


def test_unknown_option_and_command(run_cli: RunCli, picture: Path) -> None:
    for arguments in (["upscale", "photo.png", "--sharpness", "3"], ["enlarge"], ["upscale"]):
        done = run_cli(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("rcodsr: ")
        assert len(done.stderr.splitlines()) == 1


def test_unknown_and_unpublished_weights(run_cli: RunCli, picture: Path) -> None:
    one_error_line(run_cli("upscale", "photo.png", "--weights", "nonsense"), 3, "nonsense", "rcod-tiny")
    one_error_line(run_cli("upscale", "photo.png", "--weights", "rcod-o"), 3, "rcod-o", "no weights are published")


def test_damaged_weights(run_cli: RunCli, picture: Path, tmp_path: Path) -> None:
    copy = tmp_path / "weights"
    shutil.copytree(PACKAGE / "assets" / "rcod-tiny", copy)
    unet = copy / "unet.safetensors"
    unet.write_bytes(unet.read_bytes()[:-1000])
    one_error_line(run_cli("upscale", "photo.png", "--weights", "weights"), 3, "unet.safetensors", "damaged")
    assert not picture.with_name("photo_x4.png").exists()


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [("--device", "cuda:7", 4), ("--dtype", "fp16", 4), ("--device", "abacus", 2), ("--dtype", "fp8", 2)],
)
def test_missing_device_or_dtype(run_cli: RunCli, picture: Path, option: str, value: str, code: int) -> None:
    one_error_line(run_cli("upscale", "photo.png", "--device", "cpu", option, value), code, option)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_batch_leaves_whole_files_only(folder: Path, photo: Image.Image, sent: signal.Signals, code: int) -> None:
    for i in range(40):
        photo.resize((64, 64)).save(folder / f"{i:02}.png")
    out = folder.parent / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "rcodsr", "upscale", str(folder), "-o", str(out)], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (out.is_dir() and len(list(out.iterdir())) > 2) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert "stopped; finished pictures are complete" in stderr
    assert "Traceback" not in stderr
    assert leftovers(out) == []
    for path in out.iterdir():
        load(path)


def test_killed_batch_goes_on_where_it_was(run_cli: RunCli, folder: Path, photo: Image.Image) -> None:
    for i in range(30):
        photo.resize((64, 64)).save(folder / f"{i:02}.png")
    out = folder.parent / "album_x4"
    process = subprocess.Popen(
        [sys.executable, "-m", "rcodsr", "upscale", str(folder)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not (out.is_dir() and len(list(out.glob("*.png"))) > 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path.name: path.read_bytes() for path in out.glob("[!.]*")}
    done = run_cli("upscale", "album", "--json")
    assert done.returncode == 0
    summary = json.loads(done.stdout.splitlines()[-1])["summary"]
    assert summary["skipped"] >= len(finished) > 0
    assert all((out / name).read_bytes() == data for name, data in finished.items())
    assert leftovers(out) == []
