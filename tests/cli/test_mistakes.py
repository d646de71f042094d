"""What people mistype: one line that names it and what to do, the exit code, nothing written. In this process, to be fast."""

import shlex
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import RunHere, one_error_line

REVIEWED = [
    ("in.png", 2, "not a command", "rcodsr upscale in.png"),
    ("album/", 2, "not a command", "rcodsr upscale album/"),
    ("upscale", 2, "INPUTS missing", "`rcodsr upscale --help`"),
    ("upscale in.png --weights rcod-tny", 3, "did you mean rcod-tiny?"),
    ("upscale in.png --weights RCOD-Tiny", 3, "did you mean rcod-tiny?"),
    ("upscale in.png --weights rcodo", 3, "did you mean rcod-o?"),
    ("upscale in.png --weights s3dif", 3, "did you mean s3diff?"),
    ("upscale in.png --weights ./nothere", 3, "no such directory"),
    ("upscale in.png --weights rcod-o", 3, "rcodsr train rcod-o photos="),
    ("upscale in.png -s 4x", 2, "--scale: '4x' is not a number", "use a number such as 4", "`rcodsr upscale --help`"),
    ("upscale in.png -f gif", 2, "--format: 'gif'", "jpg, webp, tiff"),
    ("compare album -o y.html", 1, "album: a directory", "pass one picture file"),
    ("estimate lr/ --gt hr/", 2, "--gt: hr is not there"),
    ("upscale in.png --max-pixels 100", 1, "80×64 = 5,120 pixels", "limit of 100 pixels"),
    ("upscale album --include '*.xyz'", 6, "--include '*.xyz'", "check the globs"),
    ("train rcod-tiny fotos=album photos=album", 2, "fotos: unknown name; did you mean photos"),
    ("train rcod-tiny photos=album perceptual.weights=missing", 2, "perceptual.weights: missing: no such file"),
    ("train rcod-tny photos=album", 2, "did you mean rcod-tiny?"),
    ("weights convert missing.pkl", 3, "missing.pkl: no such file"),
    ("bench --weights rcod-tny", 3, "did you mean rcod-tiny?"),
    ("upscale @- --prompts tags.jsonl", 2, "--prompts", "cannot be planned for @-"),
    ("upscale @- --invented map.png", 2, "--invented", "cannot be planned for @-"),
    ("upscale https://example.com/a.jpg", 1, "a web address", "curl -L 'https://example.com/a.jpg' | rcodsr upscale -"),
]
"""Rows of a review whose answer was not good enough."""

OTHERS = [
    ("upscale in.png -s", 2, "-s: needs a value", "`rcodsr upscale --help`"),
    ("upscale in.png --json=3", 2, "--json: takes no value", "`rcodsr upscale --help`"),
    ("upscale in.png --quality 500", 2, "--quality: 500 is out of range", "from 1 to 100"),
    ("upscale in.png --jobs many", 2, "--jobs: 'many' is not a whole number", "from 1 upwards"),
    ("upscale in.png --guidance much", 2, "--guidance: 'much' is not a number", "from 0 to 20"),
    ("upscale in.png --max-pixels 1e6", 2, "--max-pixels: '1e6' is not a whole number"),
    ("upscale in.png --metadata none", 2, "--metadata: 'none' is not known", "keep, strip"),
    ("upscale in.png --engine raay", 2, "--engine: 'raay' is not known", "did you mean ray?"),
    ("upscale in.png -realism 0.5", 2, "-realism: no such option", "did you mean --realism?"),
    ("upscale -in.png", 2, "-i: no such option"),
    ("upscale in.png --output_dir x", 2, "--output_dir: no such option", "did you mean --output?"),
    ("--realism 0.5 in.png", 2, "--realism: belongs to a command", "rcodsr upscale … --realism"),
    ("weights --json list", 2, "--json: belongs to a command", "rcodsr weights list"),
    ("weights lst", 2, "lst: no such command", "did you mean list?", "`rcodsr weights --help`"),
    ("bench qualty", 2, "did you mean quality?"),
    ("help", 2, "help: no such command", "rcodsr --help"),
    ("compare in.png photo.jpg -o x.html", 2, "compare: takes no further arguments", "photo.jpg"),
    ("compare in.png", 2, "compare: --output missing", "PAGE.html or SHEET.png"),
    ("compare in.png -r 0,,1 -o x.html", 2, "--realism: ''"),
    ("compare in.png --region 0,0,99,99 -o x.html", 2, "not inside the 20×16 picture"),
    ("upscale in.png --size 4k", 2, "--size: '4k'", "short=N"),
    ("upscale in.png --background '#12345'", 2, "--background: '#12345'"),
    ("upscale in.png --name a/b", 2, "--name: 'a/b'"),
    ("upscale in.png --tile 64 --tile-overlap 64", 2, "--tile-overlap: 64"),
    ("upscale in.png --realism-map notes.txt", 2, "notes.txt: not a picture"),
    ("upscale in.png --shard 0/2", 2, "--shard: there is no shard 0/2"),
    ("upscale in.png --report in.png", 2, "in.png is a picture of this batch"),
    ("upscale in.png --address auto", 2, "--address", "--engine ray"),
    ("upscale in.png --weights notes.txt", 3, "notes.txt: not a directory"),
    ("upscale in.png --weights random:rcod-x", 2, "rcod-small, rcod-tiny"),
    ("upscale in.png --dtype float32", 2, "--dtype: 'float32'", "fp32"),
    ("upscale @void", 1, "@void: cannot be read"),
    ("upscale 'album/*.gif'", 1, "album/*.gif: no such file"),
    ("estimate in.png --csv void", 7, "it is a directory"),
    ("estimate in.png --gt notes.txt", 2, "--gt: notes.txt is a file"),
    ("bench --sizes big", 2, "--sizes: 'big'"),
    ("bench --runs 1 synth album -o s", 2, "--runs: belongs to `rcodsr bench`"),
    ("bench synth album -o s --preset heavy", 2, "--preset: 'heavy'"),
    ("bench quality --gt album", 2, "nothing to score"),
    ("train notes.txt", 2, "notes.txt: not a TOML file"),
    ("train rcod-tiny photos=album seed", 2, "seed: not an override"),
    ("train rcod-tiny photos=nothere perceptual.weights=in.png", 6, "nothere: no photos found"),
    ("train rcod-o photos=album phases.0.steps=many", 2, "phases.0.steps: 'many'"),
    ("train rcod-tiny --init-config in.png", 2, "in.png: already exists"),
    ("weights pull", 2, "weights pull: NAMES missing"),
    ("weights path rcod-tny", 3, "did you mean rcod-tiny?"),
    ("weights verify rcod-tny", 3, "did you mean rcod-tiny?"),
    ("weights list nonsense", 3, "nonsense: unknown weights", "`rcodsr weights list`"),
    ("weights convert in.png", 3, "in.png: neither a torch checkpoint nor"),
    ("weights export rcod-tiny -o x --format onyx", 2, "--format: 'onyx'"),
]
"""Others; `test_refusals.py` and `test_upscale.py` have more."""


@pytest.fixture
def desk(photo: Image.Image, tmp_path: Path) -> Path:
    """A folder with a picture in two formats, an album, an empty folder and a text."""
    small = photo.resize((20, 16))
    small.save(tmp_path / "in.png")
    small.save(tmp_path / "photo.jpg")
    for name in ("album", "void"):
        (tmp_path / name).mkdir()
    small.save(tmp_path / "album" / "a.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def _contents(top: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in top.rglob("*")}


@pytest.mark.parametrize(("typed", "code", "words"), [(row[0], row[1], row[2:]) for row in REVIEWED + OTHERS])
def test_a_mistake_is_one_line_and_nothing_is_written(
    run_here: RunHere, desk: Path, typed: str, code: int, words: tuple[str, ...]
) -> None:
    before = _contents(desk)
    done = run_here(*shlex.split(typed))
    one_error_line(done, code, *words)
    assert done.stdout == ""
    for leak in ("Input should be", "Value error", "__init__", "Invalid value", "NoneType"):
        assert leak not in done.stderr
    assert _contents(desk) == before


@pytest.mark.parametrize(("typed", "output"), [("jpeg", "in_x4.jpg"), ("TIF", "in_x4.tif"), (".png", "in_x4.png")])
def test_other_words_for_a_format(run_here: RunHere, desk: Path, typed: str, output: str) -> None:
    assert run_here("upscale", "in.png", "-f", typed, "-n").stdout == f"{output}\n"


def test_a_quoted_glob_is_expanded_and_a_file_of_that_name_is_itself(run_here: RunHere, desk: Path) -> None:
    (desk / "album" / "b.png").write_bytes((desk / "in.png").read_bytes())
    (desk / "[1].png").write_bytes((desk / "in.png").read_bytes())
    assert run_here("upscale", "album/*.png", "-n", "-o", "to/").stdout.split() == ["to/a_x4.png", "to/b_x4.png"]
    assert run_here("upscale", "[1].png", "-n").stdout == "[1]_x4.png\n"


def test_a_recipe_is_shown_before_it_is_complete(run_here: RunHere, desk: Path) -> None:
    shown = run_here("train", "rcod-tiny", "seed=4", "--print-config").stdout
    for line in ('"photos": "PHOTOS"', '"weights": "WEIGHTS"', '"seed": 4'):
        assert line in shown
    assert run_here("train", "recipes/rcod-o.toml", "--print-config").returncode == 0  # as the documents write it
