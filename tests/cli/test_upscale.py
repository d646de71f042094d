"""The command line as people and scripts meet it: streams, exit codes, files."""

import io
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
from tests.conftest import RunCli
from tests.pngs import grey_header, png

Done = subprocess.CompletedProcess[str]


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


def _one_error_line(done: Done, code: int, *words: str) -> None:
    """Exactly one line of ours on stderr, the right code, no traceback."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("rcodsr: ")]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]
    assert "; " in lines[0]  # cause; remedy
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr


def _load(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def _leftovers(directory: Path) -> list[Path]:
    return list(directory.rglob("*.rcodsr-part"))


def test_a_file_lands_beside_its_input(run_cli: RunCli, picture: Path) -> None:
    done = run_cli("upscale", "photo.png", "--realism", "0.5")
    assert (done.returncode, done.stdout) == (0, "photo_x4.png\n")
    assert _load(picture.with_name("photo_x4.png")).size == (80, 64)
    assert "photo.png" in done.stderr
    assert "timestep 500" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_size_in_the_place_of_a_factor(run_cli: RunCli, folder: Path) -> None:
    """Of 20×16, 16×12 and 12×12: each gets its own factor, what would be stretched fails alone, and done work is known."""
    done = run_cli("upscale", "album", "--size", "short=60", "-q")
    assert done.returncode == 0, done.stderr
    sizes = {path.name: _load(path).size for path in (folder.parent / "album_short60").iterdir()}
    assert sizes == {"a.png": (75, 60), "b.JPG": (80, 60), "c.webp": (60, 60)}
    again = run_cli("upscale", "album", "--size", "short=60", "--json")
    assert [json.loads(line).get("status") for line in again.stdout.splitlines()[:3]] == ["skipped"] * 3
    other = run_cli("upscale", "album", "-o", "album_short60", "-q")
    assert other.returncode == 1
    assert other.stderr.count("made differently") == 3
    stretched = run_cli("upscale", "album", "--size", "80x60", "-q")
    assert stretched.returncode == 1
    assert "a.png: 80x60 would stretch a picture of 20×16; use WIDTHx" in stretched.stderr
    assert [path.name for path in (folder.parent / "album_80x60").iterdir()] == ["b.JPG"]


def test_a_directory_lands_in_its_sibling(run_cli: RunCli, folder: Path) -> None:
    done = run_cli("upscale", "album", "-r", "fidelity")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (folder.parent / "album_x4").iterdir()) == ["a.png", "b.JPG", "c.webp"]
    assert done.stdout.splitlines() == ["album_x4/a.png", "album_x4/b.JPG", "album_x4/c.webp"]
    assert "3 done" in done.stderr


def test_same_pixels_alone_in_a_folder_and_twice(run_cli: RunCli, folder: Path) -> None:
    run_cli("upscale", "album")
    run_cli("upscale", "album", "-o", "again")
    run_cli("upscale", "album/b.JPG", "-o", "alone.png")
    run_cli("upscale", "album/b.JPG", "-o", "folder/", "-f", "png")
    base = folder.parent
    for name in ("a.png", "b.JPG", "c.webp"):
        assert (base / "album_x4" / name).read_bytes() == (base / "again" / name).read_bytes()
    assert (base / "alone.png").read_bytes() == (base / "folder" / "b_x4.png").read_bytes()


def test_levels_differ_and_are_recorded(run_cli: RunCli, picture: Path) -> None:
    outputs = []
    for realism in ("0", "1"):
        done = run_cli("upscale", "photo.png", "-r", realism, "-o", f"{realism}.png", "--json")
        result, summary = (json.loads(line) for line in done.stdout.splitlines())
        assert result["timestep"] == {"0": 250, "1": 750}[realism]
        assert (result["status"], result["width"], result["height"], result["unet_passes"]) == ("done", 80, 64, 1)
        assert result["weights"].startswith("rcod-tiny@")
        assert summary == {"summary": {"done": 1, "skipped": 0, "failed": 0}}
        outputs.append(_load(picture.with_name(f"{realism}.png")).tobytes())
    assert outputs[0] != outputs[1]


def test_done_work_is_skipped_and_other_work_never_overwritten(run_cli: RunCli, picture: Path) -> None:
    run_cli("upscale", "photo.png")
    output = picture.with_name("photo_x4.png")
    before = output.stat().st_mtime_ns
    again = run_cli("upscale", "photo.png", "--json")
    assert json.loads(again.stdout.splitlines()[0])["status"] == "skipped"
    assert again.returncode == 0
    other = run_cli("upscale", "photo.png", "-r", "1")
    _one_error_line(other, 1, "photo.png", "already exists", "-y")
    assert output.stat().st_mtime_ns == before
    forced = run_cli("upscale", "photo.png", "-r", "1", "-y")
    assert forced.returncode == 0
    assert output.stat().st_mtime_ns != before


def test_a_damaged_output_of_ours_is_made_again(run_cli: RunCli, picture: Path) -> None:
    run_cli("upscale", "photo.png")
    output = picture.with_name("photo_x4.png")
    whole = output.read_bytes()
    output.write_bytes(whole[: len(whole) // 2])
    promised = run_cli("upscale", "photo.png", "-n", "--json")
    assert json.loads(promised.stdout.splitlines()[0])["status"] == "planned"
    done = run_cli("upscale", "photo.png", "--json")
    assert json.loads(done.stdout.splitlines()[0])["status"] == "done"
    assert output.read_bytes() == whole


def test_quality_is_part_of_how_a_lossy_output_was_made(run_cli: RunCli, picture: Path) -> None:
    run_cli("upscale", "photo.png", "-o", "x.jpg", "--quality", "30")
    assert run_cli("upscale", "photo.png", "-o", "x.jpg", "--quality", "30").returncode == 0
    _one_error_line(run_cli("upscale", "photo.png", "-o", "x.jpg", "--quality", "95"), 1, "made differently")


def test_an_input_is_done_again_when_it_changed(run_cli: RunCli, picture: Path, photo: Image.Image) -> None:
    run_cli("upscale", "photo.png")
    photo.resize((16, 20)).save(picture)
    _one_error_line(run_cli("upscale", "photo.png"), 1, "made differently")


def test_a_bitmap_holds_no_record_and_is_skipped_by_its_size(run_cli: RunCli, picture: Path) -> None:
    run_cli("upscale", "photo.png", "-f", "bmp")
    done = run_cli("upscale", "photo.png", "-f", "bmp", "--json")
    assert json.loads(done.stdout.splitlines()[0])["status"] == "skipped"


def test_a_dry_run_says_what_the_run_would_do(run_cli: RunCli, picture: Path, photo: Image.Image) -> None:
    run_cli("upscale", "photo.png")
    done = run_cli("upscale", "photo.png", "-n", "--json")
    assert json.loads(done.stdout.splitlines()[0])["status"] == "skipped"
    assert run_cli("upscale", "photo.png", "-n", "--max-pixels", "1000").returncode == 1
    photo.resize((4200, 4)).save(picture.with_name("wide.png"))
    _one_error_line(run_cli("upscale", "wide.png", "-f", "webp", "-n"), 1, "wide.png", "16383")


def test_standard_output_carries_the_picture(picture: Path) -> None:
    command = [sys.executable, "-m", "rcodsr", "upscale", str(picture), "-o", "-", "-q"]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.stderr == b""
    assert Image.open(io.BytesIO(done.stdout)).size == (80, 64)


def test_dry_run_writes_nothing_and_loads_no_torch(run_cli: RunCli, folder: Path) -> None:
    done = run_cli("upscale", "album", "-n", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["status"] for row in rows[:-1]] == ["planned"] * 3
    assert (rows[0]["width"], rows[0]["height"], rows[0]["output"]) == (80, 64, "album_x4/a.png")
    assert not (folder.parent / "album_x4").exists()
    code = "import sys; from rcodsr.cli.app import run; run(['upscale', 'album', '-n']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=folder.parent, capture_output=True).returncode == 0


def test_help_is_instant_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from rcodsr.cli.app import run\n"
        "for c in ([], ['upscale'], ['train'], ['bench'], ['bench', 'quality']): run([*c, '--help'])\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'diffusers', 'transformers', 'rich.progress') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
    first = subprocess.run([sys.executable, "-m", "rcodsr", "upscale", "--help"], capture_output=True, text=True)
    assert "0 stays with the evidence" in " ".join(first.stdout.split())


def test_transparency_that_a_format_cannot_hold_is_laid_on_white_and_said(run_cli: RunCli, tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    done = run_cli("upscale", "clear.png", "-f", "jpg")
    assert "transparency laid on white" in done.stderr
    assert min(_load(tmp_path / "clear_x4.jpg").getpixel((16, 16))) >= 250  # type: ignore[type-var,arg-type]


def test_odd_names_survive(run_cli: RunCli, picture: Path) -> None:
    for name in ("日本 語.png", "[bold red]x.png", ":smile:.png", "a\nb.png", "-r.png"):
        shutil.copy(picture, picture.with_name(name))
        done = run_cli("upscale", "--", name)
        assert done.returncode == 0, done.stderr
        assert picture.with_name(name.removesuffix(".png") + "_x4.png").exists()
        assert len(done.stderr.splitlines()) == 2  # device and dtype, then the picture


# ---- bad input: one line, the right code, the others done, nothing half-written


def _truncated(path: Path, photo: Image.Image) -> None:
    photo.save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:5000])


def _bomb(path: Path) -> None:
    """A valid PNG header of 30000×30000 pixels in a few bytes."""
    path.write_bytes(png(grey_header(30_000, 30_000, bits=1), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")))


def test_a_missing_file_does_not_stop_the_others(run_cli: RunCli, picture: Path) -> None:
    done = run_cli("upscale", "nope.png", "photo.png", "--json")
    _one_error_line(done, 1, "nope.png", "no such file")
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
    _one_error_line(run_cli("upscale", "void"), 6, "void", "no pictures found")


def test_output_over_the_limit(run_cli: RunCli, picture: Path) -> None:
    _one_error_line(run_cli("upscale", "photo.png", "--max-pixels", "1000"), 1, "80×64", "--max-pixels")


def test_output_equal_to_input(run_cli: RunCli, picture: Path) -> None:
    before = picture.read_bytes()
    _one_error_line(run_cli("upscale", "photo.png", "-o", "photo.png", "-y"), 2, "would overwrite an input")
    assert picture.read_bytes() == before


def test_output_that_cannot_be_written(run_cli: RunCli, picture: Path) -> None:
    picture.with_name("file").write_text("in the way")
    started = time.monotonic()
    _one_error_line(run_cli("upscale", "photo.png", "-o", "file/x.png"), 7, "cannot be written")
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
    _one_error_line(done, 7, "No space left", "0 done, 2 not started")
    assert list(out.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", ["", "-o -"])
def test_standard_output_on_a_full_disk(picture: Path, arguments: str) -> None:
    command = f"{sys.executable} -m rcodsr upscale photo.png {arguments} -q > /dev/full"
    done = subprocess.run(command, shell=True, cwd=picture.parent, capture_output=True, text=True, timeout=60)
    _one_error_line(done, 7, "standard output")


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
        "import sys, torch; from rcodsr.engine.upscaler import Upscaler; from rcodsr.cli import app\n"
        "def fail(*_): raise torch.OutOfMemoryError('CUDA out of memory')\n"
        "Upscaler._over_tiles = fail\n"
        "sys.exit(app.run(['upscale', 'photo.png']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=picture.parent, capture_output=True, text=True, timeout=60)
    _one_error_line(done, 5, "photo.png", "memory")


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
    _one_error_line(run_cli("upscale", "photo.png", *arguments), 2, *words)


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
    _one_error_line(run_cli("upscale", "photo.png", "--weights", "nonsense"), 3, "nonsense", "rcod-tiny")
    _one_error_line(run_cli("upscale", "photo.png", "--weights", "rcod-o"), 3, "rcod-o", "no weights are published")


def test_damaged_weights(run_cli: RunCli, picture: Path, tmp_path: Path) -> None:
    copy = tmp_path / "weights"
    shutil.copytree(PACKAGE / "assets" / "rcod-tiny", copy)
    unet = copy / "unet.safetensors"
    unet.write_bytes(unet.read_bytes()[:-1000])
    _one_error_line(run_cli("upscale", "photo.png", "--weights", "weights"), 3, "unet.safetensors", "damaged")
    assert not picture.with_name("photo_x4.png").exists()


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [("--device", "cuda:7", 4), ("--dtype", "fp16", 4), ("--device", "abacus", 2), ("--dtype", "fp8", 2)],
)
def test_missing_device_or_dtype(run_cli: RunCli, picture: Path, option: str, value: str, code: int) -> None:
    _one_error_line(run_cli("upscale", "photo.png", "--device", "cpu", option, value), code, option)


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
    assert _leftovers(out) == []
    for path in out.iterdir():
        _load(path)


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
    assert _leftovers(out) == []
