"""`upscale *.png` and `upscale .` where results lie beside their inputs."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Done, leftovers, one_error_line
from tests.conftest import RunCli


@pytest.fixture
def desk(photo: Image.Image, tmp_path: Path) -> Path:
    for name in ("a.png", "b.JPG", "c.bmp"):
        photo.resize((20, 16)).save(tmp_path / name)
    return tmp_path


def _glob(folder: Path) -> list[str]:
    """What a shell makes of `*.*`."""
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def _statuses(done: Done) -> dict[str, str]:
    return {row["input"]: row["status"] for row in map(json.loads, done.stdout.splitlines()[:-1])}


def _summary(done: Done) -> dict[str, int]:
    summary: dict[str, int] = json.loads(done.stdout.splitlines()[-1])["summary"]
    return summary


def test_the_same_command_again_skips_what_is_done_and_makes_what_is_new(run_cli: RunCli, desk: Path) -> None:
    assert run_cli("upscale", *_glob(desk)).returncode == 0
    results = {name: (desk / name).read_bytes() for name in ("a_x4.png", "b_x4.JPG", "c_x4.bmp")}
    (desk / "new.png").write_bytes((desk / "a.png").read_bytes())
    again = run_cli("upscale", *_glob(desk), "--json")
    assert again.returncode == 0, again.stderr
    others = ("a.png", "b.JPG", "c.bmp", *results)
    assert _statuses(again) == {"new.png": "done", **dict.fromkeys(others, "skipped")}
    assert _summary(again) == {"done": 1, "skipped": 6, "failed": 0, "own_results": 3}
    assert "a_x4.png  (made by rcodsr; pass it alone to enlarge it again)" in again.stderr
    assert _glob(desk) == sorted([*results, "a.png", "b.JPG", "c.bmp", "new.png", "new_x4.png"])
    assert {name: (desk / name).read_bytes() for name in results} == results
    replaced = run_cli("upscale", *_glob(desk), "-y", "-r", "1")
    assert replaced.returncode == 0, replaced.stderr
    assert "4 done, 4 skipped (4 made by rcodsr; pass one alone to enlarge it again)" in replaced.stderr
    assert (desk / "a_x4.png").read_bytes() != results["a_x4.png"]
    assert leftovers(desk) == []


def test_a_folder_never_has_its_own_results_enlarged(run_cli: RunCli, desk: Path) -> None:
    """Beside their inputs, in a folder beside it, under a name of their own: by record, and the bitmaps by name and size."""
    inner = desk / "holiday"
    inner.mkdir()
    for name in ("a.png", "c.bmp"):
        (inner / name).write_bytes((desk / name).read_bytes())
    run_cli("upscale", *_glob(desk), "holiday", "-q")
    (desk / "favourite.png").write_bytes((desk / "a_x4.png").read_bytes())
    done = run_cli("upscale", ".", "-R", "-n", "--json")
    planned = {name for name, status in _statuses(done).items() if status == "planned"}
    assert planned == {"a.png", "b.JPG", "c.bmp", "holiday/a.png", "holiday/c.bmp"}
    assert _summary(done) == {"done": 0, "skipped": 6, "failed": 0, "planned": 5, "own_results": 6}
    real = run_cli("upscale", ".", "-o", "out/", "-q", "-R", "-j", "2")
    assert real.returncode == 0, real.stderr
    assert sorted(str(path.relative_to(desk / "out")) for path in (desk / "out").rglob("*")) == [
        *("a.png", "b.JPG", "c.bmp", "holiday", "holiday/a.png", "holiday/c.bmp")
    ]
    alone = run_cli("upscale", "favourite.png")
    assert alone.stdout == "favourite_x4.png\n"
    with Image.open(desk / "favourite_x4.png") as image:
        assert image.size == (320, 256)


def test_a_clash_costs_its_pictures_alone(run_cli: RunCli, desk: Path) -> None:
    """A foreign picture stands where an output would go, and is an input as well: nobody writes it, whatever is asked."""
    Image.new("RGB", (80, 64)).save(desk / "a_x4.png")
    theirs = (desk / "a_x4.png").read_bytes()
    done = run_cli("upscale", "a.png", "a_x4.png", "c.bmp", "-y", "--json")
    one_error_line(done, 1, "a_x4.png: would overwrite an input, as the output of a.png", "-o")
    assert _statuses(done) == {"a.png": "failed", "a_x4.png": "done", "c.bmp": "done"}
    assert (desk / "a_x4.png").read_bytes() == theirs
    stopped = run_cli("upscale", "a.png", "a_x4.png", "b.JPG", "--fail-fast")
    assert (stopped.returncode, (desk / "b_x4.JPG").exists()) == (1, False)


def test_folders_of_the_system_are_said_once(run_cli: RunCli, desk: Path) -> None:
    for folder in ("@eaDir/a.png", "#recycle", "trip/@eaDir/b.JPG"):
        (desk / folder).mkdir(parents=True)
        (desk / folder / "SYNOPHOTO_THUMB_M.jpg").write_bytes((desk / "b.JPG").read_bytes())
    done = run_cli("upscale", ".", "-R", "-n", "--include", "*.jpg")
    assert done.stderr.splitlines()[-1] == "1 planned, 3 system folders not searched (#recycle, @eaDir)"
    assert len(done.stdout.splitlines()) == 1
