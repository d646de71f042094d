"""The command line as people and scripts meet it: streams, exit codes, files."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.cli.conftest import load, one_error_line
from tests.conftest import RunCli


def test_a_file_lands_beside_its_input(run_cli: RunCli, picture: Path) -> None:
    done = run_cli("upscale", "photo.png", "--realism", "0.5")
    assert (done.returncode, done.stdout) == (0, "photo_x4.png\n")
    assert load(picture.with_name("photo_x4.png")).size == (80, 64)
    assert "photo.png" in done.stderr
    assert "timestep 500" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_size_in_the_place_of_a_factor(run_cli: RunCli, folder: Path) -> None:
    """Of 20×16, 16×12 and 12×12: each gets its own factor, what would be stretched fails alone, and done work is known."""
    done = run_cli("upscale", "album", "--size", "short=60", "-q")
    assert done.returncode == 0, done.stderr
    sizes = {path.name: load(path).size for path in (folder.parent / "album_short60").iterdir()}
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
        outputs.append(load(picture.with_name(f"{realism}.png")).tobytes())
    assert outputs[0] != outputs[1]


def test_done_work_is_skipped_and_other_work_never_overwritten(run_cli: RunCli, picture: Path) -> None:
    run_cli("upscale", "photo.png")
    output = picture.with_name("photo_x4.png")
    before = output.stat().st_mtime_ns
    again = run_cli("upscale", "photo.png", "--json")
    assert json.loads(again.stdout.splitlines()[0])["status"] == "skipped"
    assert again.returncode == 0
    other = run_cli("upscale", "photo.png", "-r", "1")
    one_error_line(other, 1, "photo.png", "already exists", "-y")
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
    one_error_line(run_cli("upscale", "photo.png", "-o", "x.jpg", "--quality", "95"), 1, "made differently")


def test_an_input_is_done_again_when_it_changed(run_cli: RunCli, picture: Path, photo: Image.Image) -> None:
    run_cli("upscale", "photo.png")
    photo.resize((16, 20)).save(picture)
    one_error_line(run_cli("upscale", "photo.png"), 1, "made differently")


def test_a_bitmap_holds_no_record_and_is_skipped_by_its_size(run_cli: RunCli, picture: Path) -> None:
    run_cli("upscale", "photo.png", "-f", "bmp")
    done = run_cli("upscale", "photo.png", "-f", "bmp", "--json")
    assert json.loads(done.stdout.splitlines()[0])["status"] == "skipped"


def test_outputs_are_dated_as_their_inputs_if_asked(run_cli: RunCli, picture: Path) -> None:
    os.utime(picture, ns=(10**18, 10**18 + 1))
    for options in ([], ["--metadata", "strip", "-o", "bare.png"]):  # without a record, the date decides what is done
        assert run_cli("upscale", "photo.png", "--keep-times", *options).returncode == 0
        output = picture.with_name(options[-1] if options else "photo_x4.png")
        assert output.stat().st_mtime_ns == 10**18 + 1
        assert "skipped" in run_cli("upscale", "photo.png", "--keep-times", *options).stderr


def test_a_dry_run_says_what_the_run_would_do(run_cli: RunCli, picture: Path, photo: Image.Image) -> None:
    run_cli("upscale", "photo.png")
    done = run_cli("upscale", "photo.png", "-n", "--json")
    assert json.loads(done.stdout.splitlines()[0])["status"] == "skipped"
    assert run_cli("upscale", "photo.png", "-n", "--max-pixels", "1000").returncode == 1
    photo.resize((4200, 4)).save(picture.with_name("wide.png"))
    one_error_line(run_cli("upscale", "wide.png", "-f", "webp", "-n"), 1, "wide.png", "16383")


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
    assert "transparency flattened onto white" in done.stderr
    pixel = load(tmp_path / "clear_x4.jpg").getpixel((16, 16))
    assert isinstance(pixel, tuple)
    assert min(pixel) >= 250


def test_odd_names_survive(run_cli: RunCli, picture: Path) -> None:
    for name in ("日本 語.png", "[bold red]x.png", ":smile:.png", "a\nb.png", "-r.png"):
        shutil.copy(picture, picture.with_name(name))
        done = run_cli("upscale", "--", name)
        assert done.returncode == 0, done.stderr
        assert picture.with_name(name.removesuffix(".png") + "_x4.png").exists()
        assert len(done.stderr.splitlines()) == 2  # device and dtype, then the picture
