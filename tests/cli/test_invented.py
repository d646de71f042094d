"""`--invented` and the consistency of every result, as people and scripts meet them."""

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
from PIL import Image

from rcodsr.images import io
from tests.cli.conftest import load, one_error_line
from tests.conftest import RunCli


def _results(done: CompletedProcess[str]) -> list[dict[str, object]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()][:-1]


def test_a_map_of_the_outputs_size_and_its_mean(run_cli: RunCli, picture: Path) -> None:
    done = run_cli("upscale", "photo.png", "-r", "1", "--invented", "map.png", "--json")
    (result,) = _results(done)
    drawn = load(picture.with_name("map.png"))
    assert (drawn.mode, drawn.size, drawn.info["Description"][:9]) == ("P", (80, 64), "Departure")
    mean = np.asarray(drawn).mean() / 8
    assert isinstance(result["invented"], float)
    assert abs(mean - result["invented"]) < 0.05
    assert (result["unet_passes"], result["width"]) == (2, 80)
    record = io.read_record(picture.with_name("photo_x4.png"))
    assert record is not None
    assert record["consistency"] == result["consistency"] == round(float(str(result["consistency"])), 1)
    plain = run_cli("upscale", "photo.png", "-r", "1", "-o", "plain.png", "--json")
    (without,) = _results(plain)
    assert (without["invented"], without["consistency"], without["unet_passes"]) == (None, result["consistency"], 1)
    assert picture.with_name("plain.png").read_bytes() == picture.with_name("photo_x4.png").read_bytes()


def test_people_are_told_the_figures(run_cli: RunCli, picture: Path) -> None:
    done = run_cli("upscale", "photo.png", "-v", "--invented", "map.png")
    assert done.returncode == 0, done.stderr
    assert "  consistency " in done.stderr
    assert " steps  " in done.stderr
    assert done.stdout == "photo_x4.png\n"


def test_a_map_to_standard_output(picture: Path) -> None:
    command = [sys.executable, "-m", "rcodsr", "upscale", "photo.png", "-q", "-r", "0", "--invented", "-"]
    done = subprocess.run(command, cwd=picture.parent, capture_output=True, check=True, timeout=120)
    with Image.open(BytesIO(done.stdout)) as drawn:
        assert (drawn.size, drawn.getextrema()) == ((80, 64), (0, 0))  # nothing is invented at realism 0
    assert picture.with_name("photo_x4.png").exists()


def test_several_maps_are_called_as_outputs(run_cli: RunCli, folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "a.png").rename(folder / "deep" / "b.png")
    load(folder / "b.JPG").save(folder / "b.webp")
    done = run_cli("upscale", "album", "-R", "--invented", "maps", "--json")
    assert len(_results(done)) == 4
    maps = folder.parent / "maps"
    names = sorted(str(path.relative_to(maps)) for path in maps.rglob("*.png"))
    assert names == ["b.JPG.png", "b.webp.png", "c.png", "deep/b.png"]
    assert load(maps / "b.JPG.png").size == (64, 48)


def test_done_work_is_skipped_and_a_missing_map_made(run_cli: RunCli, picture: Path) -> None:
    asked = ("upscale", "photo.png", "--invented", "map.png", "--json")
    assert [result["status"] for result in _results(run_cli("upscale", "photo.png", "--json"))] == ["done"]
    assert [result["status"] for result in _results(run_cli(*asked))] == ["done"]
    drawn = picture.with_name("map.png").read_bytes()
    assert [result["status"] for result in _results(run_cli(*asked))] == ["skipped"]
    picture.with_name("photo_x4.png").unlink()
    one_error_line(run_cli("upscale", "photo.png", "--invented", "map.png"), 1, "map.png already exists", "-y")
    assert not picture.with_name("photo_x4.png").exists()
    one_error_line(run_cli("upscale", "photo.png", "--invented", "map.png", "-n"), 1, "map.png already exists", "-y")
    _results(run_cli(*asked, "-y"))
    assert picture.with_name("map.png").read_bytes() == drawn


def test_a_map_is_no_photo_of_a_folder(run_cli: RunCli, folder: Path) -> None:
    _results(run_cli("upscale", "album/a.png", "-o", "x.png", "--invented", "album/map.png", "--json"))
    states = {Path(str(result["input"])).name: result["status"] for result in _results(run_cli("upscale", "album", "--json"))}
    assert states == {"a.png": "done", "b.JPG": "done", "c.webp": "done", "map.png": "skipped"}


def test_bad_places_are_refused_before_anything_is_computed(run_cli: RunCli, folder: Path) -> None:
    (folder.parent / "here.png").write_bytes((folder / "a.png").read_bytes())
    for asked, words in {
        ("here.png", "--invented", "here.png"): "would overwrite an input",
        ("here.png", "--invented", "here_x4.png"): "is the path of an output",
        ("here.png", "--invented", "map.jpg"): "end it in .png",
        ("here.png", "--invented", ""): "an empty name",
        ("here.png", "-o", "-", "--invented", "-"): "both the picture and its map",
        ("here.png", "--json", "--invented", "-"): "both the picture and --json",
        ("here.png", "--invented", "s3://bucket/map.png"): "is in a store",
        ("here.png", "--invented", "m.png", "--report", "m.png"): "is a picture of this batch",
        ("album", "--invented", "-"): "3 maps cannot share one stream",
        ("album", "--invented", "map.png"): "the inputs need a directory",
        ("album", "-f", "png", "-o", "out", "--invented", "out"): "is the path of an output",
        ("here.png", "--engine", "ray", "--invented", "-"): "do not reach a cluster",
    }.items():
        one_error_line(run_cli("upscale", *asked), 2, words)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["album", "here.png"]


def test_processes_write_maps_too(run_cli: RunCli, folder: Path) -> None:
    results = _results(run_cli("upscale", "album", "-j", "2", "--invented", "maps", "--json"))
    assert all(isinstance(result["invented"], float) for result in results)
    assert sorted(path.name for path in (folder.parent / "maps").iterdir()) == ["a.png", "b.png", "c.png"]
