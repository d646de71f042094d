"""`rcodsr bench synth` as people meet it; the scores are tested in tests/bench."""

import json
import math
from pathlib import Path

import pytest
import skimage.data
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file

from rcodsr.checkpoints.tensors import load_strictly
from rcodsr.images import io
from rcodsr.models.dists import Dists
from rcodsr.models.lpips import LpipsAlex, LpipsVgg
from tests.conftest import RunCli


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, left in (("a", 0), ("b", 200)):
        Image.fromarray(skimage.data.astronaut()[:96, left : left + 80]).save(folder / f"{name}.png")
    return folder


def test_synth_prints_what_it_writes_and_quality_scores_it(run_cli: RunCli, photos: Path, tmp_path: Path) -> None:
    done = run_cli("bench", "synth", "photos", "-o", "set", "--preset", "full", "--seed", 3, "--crop", 64, "--count", 3)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"set/{side}/{name}.png" for name in ("a", "b", "a-2") for side in ("hr", "lr")]
    for line in done.stdout.splitlines():
        with Image.open(tmp_path / line) as image:
            assert image.size == ((64, 64) if "/hr/" in line else (16, 16))
    asked = ("--realism", "0,adaptive", "--json", "--device", "cpu")
    scored = run_cli("bench", "quality", "--gt", "set/hr", "--lr", "set/lr", *asked)
    assert scored.returncode == 0, scored.stderr
    assert [json.loads(line)["name"] for line in scored.stdout.splitlines()] == ["bicubic", "realism 0", "adaptive"]


def test_folders_are_scored_and_exported(run_cli: RunCli, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for name in "ab":
        with Image.open(photos / f"{name}.png") as image:
            image.point(lambda value: min(255, value + 10)).save(tmp_path / "other" / f"{name}_x4.png")
            image.point(lambda value: min(245, value)).save(photos / f"{name}.png")
    exports = [word for kind in ("json", "csv", "markdown") for word in (f"--export-{kind}", f"out.{kind}")]
    done = run_cli("bench", "quality", "--gt", "photos", "--results", "photos", "--results", "other", *exports)
    assert (done.returncode, done.stderr) == (0, "")
    head, same, other = (line.split("\t") for line in done.stdout.splitlines())
    assert head == ["method", "PSNR↑", "SSIM↑"]
    assert same == ["photos", "80.0000", "1.0000"]
    assert float(other[1]) == pytest.approx(20 * math.log10(255**2 / 2190), abs=2e-4)  # 10 steps of RGB are 2190/255 of luma
    rows = json.loads((tmp_path / "out.json").read_text())["results"]
    assert rows[0] == {"name": "photos", "pictures": 2, "psnr": 80.0, "ssim": 1.0}
    assert (tmp_path / "out.csv").read_text().splitlines()[:2] == ["name,pictures,psnr,ssim", "photos,2,80.0,1.0"]
    assert (tmp_path / "out.markdown").read_text().splitlines()[2] == "| photos | 80.0000 | 1.0000 |"


@pytest.fixture
def judges(tmp_path: Path) -> Path:
    """Networks of random weights."""
    folder = tmp_path / "judges"
    folder.mkdir()
    torch.manual_seed(0)
    networks = {"lpips_alexnet": LpipsAlex(), "lpips_vgg16": LpipsVgg(), "dists": Dists().shares}
    for name, network in networks.items():
        save_file({key: value.half() for key, value in network.state_dict().items()}, folder / f"{name}.safetensors")
    return folder


def test_the_papers_judges_come_from_a_directory(run_cli: RunCli, photos: Path, judges: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for name in "ab":
        with Image.open(photos / f"{name}.png") as image:
            image.filter(ImageFilter.BoxBlur(1)).save(tmp_path / "other" / f"{name}.png")
    asked = ("--gt", "photos", "--results", "other", "--results", "photos", "--judges", "judges", "--device", "cpu")
    done = run_cli("bench", "quality", *asked, "--plot", "curve.png")
    lacking = "judges has no niqe_pris_params.npz, lpips_squeeze.safetensors: those columns are left out\n"
    assert (done.returncode, done.stderr) == (0, lacking)
    head, other, same = (line.split("\t") for line in done.stdout.splitlines())
    assert head == ["method", "PSNR↑", "SSIM↑", "LPIPS↓", "DISTS↓", "LPIPS-VGG↓"]
    assert [float(value) for value in same[3:]] == [0, 0, 0]
    alex = LpipsAlex()
    load_strictly(alex, judges / "lpips_alexnet.safetensors")
    distances = []
    for name in "ab":
        made, truth = (io.read(tmp_path / folder / f"{name}.png").rgb[None] for folder in ("other", "photos"))
        distances.append(alex(made, truth).item())
    assert float(other[3]) == pytest.approx(sum(distances) / 2, abs=1e-4)
    assert all(float(value) != 0 for value in other[3:])
    assert (tmp_path / "curve.png").exists()


def test_a_missing_judge_is_named(run_cli: RunCli, photos: Path, judges: Path) -> None:
    (judges / "lpips_vgg16.safetensors").unlink()
    done = run_cli("bench", "quality", "--gt", "photos", "--results", "photos", "--judges", "judges")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (3, "", 1)
    assert done.stderr.startswith("rcodsr: judges/lpips_vgg16.safetensors: missing, and dists.safetensors needs it; ")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "nothing to score"),
        (["--results", "photos", "--plot", "curve.png"], 2, "--plot: PSNR and SSIM alone do not show realism"),
        (["--results", "photos", "--export-csv", "gone/out.csv"], 7, "gone/out.csv: cannot be written"),
        (["--lr", "photos", "--realism", "0,much"], 2, "--realism"),
    ],
    ids=["nothing", "plot", "export", "realism"],
)
def test_a_bad_request_for_scores_is_one_line(
    run_cli: RunCli, photos: Path, arguments: list[str], code: int, words: str
) -> None:
    done = run_cli("bench", "quality", "--gt", "photos", *arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (code, "", 1)
    assert words in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["photos"], 1, "photos/a.png: smaller than the 512-pixel crop, and 1 more is; "),
        (["photos", "--crop", 66], 2, "--crop: 66 is not a multiple of 4; use 68"),
        (["photos", "--preset", "heavy"], 2, "--preset: 'heavy' is unknown; use one of "),
        (["photos", "-o", "photos", "--crop", 64], 2, "photos: is not empty; "),
        (["gone.txt"], 6, "gone.txt: no photos found; "),
        (["list.txt"], 1, "list.txt:2: no file gone.png; "),
        (["photos", "-o", "list.txt/set", "--crop", 64], 7, "cannot be written"),
    ],
    ids=["small", "crop", "preset", "full", "missing", "listed", "unwritable"],
)
def test_a_bad_request_is_one_line(
    run_cli: RunCli, photos: Path, tmp_path: Path, arguments: list[object], code: int, words: str
) -> None:
    (tmp_path / "list.txt").write_text("photos/a.png\ngone.png\n")
    done = run_cli("bench", "synth", *arguments, *([] if "-o" in arguments else ["-o", "set"]))
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert not (tmp_path / "set").exists()
