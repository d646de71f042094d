"""`rcodsr estimate` and `--adaptive` as a person types them, with weights that have a (small) estimator."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageFilter

from rcodsr.batch.estimates import match_truths
from rcodsr.checkpoints.format import save_model
from rcodsr.models.build import build_model
from rcodsr.parts import MetricSpec
from rcodsr.variants import VariantSpec
from tests.conftest import RunCli

LADDER = Path(__file__).parents[2] / "tools" / "degradation_ladder.py"


@pytest.fixture
def desk(photo: Image.Image, tmp_path: Path, small_spec: VariantSpec) -> Path:
    spec = replace(small_spec, metric_estimator=MetricSpec(window=32, features=8, hidden=8))
    save_model(tmp_path / "weights", build_model(spec))
    save_model(tmp_path / "plain", build_model(small_spec))
    for i, name in enumerate(("a.png", "b.png", "c.png")):
        for folder, side in (("lr", 16), ("hr", 64)):
            (tmp_path / folder).mkdir(exist_ok=True)
            photo.crop((50 * i, 0, 50 * i + 64, 64)).resize((side, side)).save(tmp_path / folder / name)
    return tmp_path


def test_rows_for_programs_and_files_for_people(desk: Path, run_cli: RunCli) -> None:
    done = run_cli(
        "estimate", "lr", "--weights", "weights", "--gt", "hr", "--csv", "rows.csv", "--plot", "chart.png", "--calibrate"
    )
    assert done.returncode == 0, done.stderr
    header, *rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert header == ["input", "similarity", "timestep", "realism", "level", "true_similarity"]
    assert [row[0] for row in rows] == ["lr/a.png", "lr/b.png", "lr/c.png"]
    assert all(int(row[2]) in {250, 500, 750} for row in rows)
    assert all(-1 <= float(row[5]) <= 1 for row in rows)
    assert (desk / "rows.csv").read_text().splitlines()[1].startswith("lr/a.png,")
    with Image.open(desk / "chart.png") as chart:
        assert chart.size == (1600, 800)
    for word in ("mae", "spearman", "group_accuracy", "quantile 0.50", "timestep 250", "metric_min="):
        assert word in done.stderr


def test_estimates_choose_what_is_enlarged(desk: Path, run_cli: RunCli) -> None:
    """`rcodsr estimate d/ --json | (choose) | rcodsr upscale @- -o out/`."""
    done = run_cli("estimate", "lr", "--weights", "weights", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"input", "similarity", "timestep", "realism", "level"} == rows[0].keys()
    chosen = "".join(f"{row['input']}\n" for row in rows[:2])
    used = run_cli("upscale", "@-", "-o", "out/", "-a", "--weights", "weights", "--json", input=chosen)
    assert used.returncode == 0, used.stderr
    results = [json.loads(line) for line in used.stdout.splitlines()][:-1]
    assert [(r["timestep"], r["similarity"]) for r in results] == [(r["timestep"], r["similarity"]) for r in rows[:2]]
    again = run_cli("upscale", "@-", "-o", "out/", "-a", "--weights", "weights", "--json", input=chosen)
    assert [json.loads(line)["status"] for line in again.stdout.splitlines()[:-1]] == ["skipped", "skipped"]
    by_tile = run_cli("upscale", "lr/a.png", "-o", "out/", "--adaptive-by", "tile", "--weights", "weights")
    assert by_tile.returncode == 1
    assert "was made differently" in by_tile.stderr


def test_a_bad_picture_does_not_stop_the_others(desk: Path, run_cli: RunCli) -> None:
    (desk / "lr" / "b.png").write_bytes(b"nonsense")
    done = run_cli("estimate", "lr", "--weights", "weights")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 3
    assert "rcodsr: lr/b.png" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("lr", "--weights", "plain"), 2, "no degradation estimator"),
        (("empty", "--weights", "weights"), 6, "no pictures found"),
        (("@nowhere.txt", "--weights", "weights"), 1, "cannot be read"),
        (("lr", "--weights", "weights", "--gt", "empty"), 2, "no ground truth for"),
        (("lr", "--weights", "weights", "--gt", "nowhere"), 2, "nowhere"),
        (("lr", "--weights", "weights", "--csv", "nowhere/rows.csv"), 7, "cannot be written"),
        (("lr", "--weights", "weights", "--plot", "hr/a.png", "--gt", "hr"), 2, "hr/a.png: would overwrite an input"),
    ],
)
def test_bad_requests_get_one_line(desk: Path, run_cli: RunCli, arguments: tuple[str, ...], code: int, message: str) -> None:
    (desk / "empty").mkdir()
    done = run_cli("estimate", *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_truths_are_found_by_the_names_of_test_sets(tmp_path: Path) -> None:
    for name in ("cat_HR.png", "dog_x4.png", "dog_HR.png", "dog_x4.txt"):
        (tmp_path / name).touch()
    sources = [Path("lr/cat_LR4.png"), Path("lr/dog_x4.webp")]
    assert [path.name for path in match_truths(sources, tmp_path).values()] == ["cat_HR.png", "dog_x4.png"]  # type: ignore[arg-type]


def test_the_estimate_runs_neither_the_u_net_nor_the_decoder(desk: Path) -> None:
    code = (
        "import sys, rcodsr.cli.app as app, rcodsr.models.one_step as m\n"
        "def never(*a, **k): raise SystemExit('ran')\n"
        "m.OneStepSR.restore = m.OneStepSR.decode = never\n"
        "sys.exit(app.run(['estimate', 'lr', '--weights', 'weights']))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=desk, capture_output=True).returncode == 0


def test_the_embedded_weights_decide_by_themselves(photo: Image.Image, tmp_path: Path, run_cli: RunCli) -> None:
    (tmp_path / "dir").mkdir()
    photo.resize((48, 40)).save(tmp_path / "dir" / "a.png")
    done = run_cli("upscale", "dir/", "--adaptive", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[0])
    assert result["timestep"] in {250, 500, 750}
    assert -1 <= result["similarity"] <= 1
    assert f"timestep {result['timestep']}, similarity" in done.stderr


def test_embedded_weights_tell_a_clean_half_from_a_bad_one(photo: Image.Image, tmp_path: Path, run_cli: RunCli) -> None:
    """One picture, its right half blurred and noisy: `--adaptive-by tile` treats each half as its own, and no seam shows."""
    clean = photo.resize((128, 128), Image.Resampling.LANCZOS)
    noise = np.random.default_rng(0).normal(0, 18, (128, 128, 3))
    bad = np.asarray(clean.filter(ImageFilter.GaussianBlur(1.6))) + noise
    halves = np.concatenate((np.asarray(clean), bad.clip(0, 255).astype(np.uint8)), 1)
    (tmp_path / "in").mkdir()
    Image.fromarray(halves).save(tmp_path / "in" / "halves.png")
    for name, box in (("clean", (0, 0, 128, 128)), ("bad", (128, 0, 256, 128))):
        Image.fromarray(halves).crop(box).save(tmp_path / "in" / f"{name}.png")
    estimates = run_cli("estimate", "in", "--json")
    found = {Path(row["input"]).stem: row for row in map(json.loads, estimates.stdout.splitlines())}
    assert found["clean"]["timestep"] < found["bad"]["timestep"]

    done = run_cli("upscale", "in/halves.png", "--adaptive-by", "tile", "--tile", 64, "--color-fix", "none", "-o", "tiles.png")
    assert done.returncode == 0, done.stderr
    tiles = _pixels(tmp_path / "tiles.png")
    plain = {}
    for name in ("clean", "bad"):
        level = str(found[name]["realism"])
        run_cli("upscale", "in/halves.png", "-r", level, "--tile", 64, "--color-fix", "none", "-o", f"{name}.png")
        plain[name] = _pixels(tmp_path / f"{name}.png")
    # tiles of 64 pixels, 40 apart: those that see both halves reach from 320 to 736
    for name, other, part in (("clean", "bad", np.s_[:, :320]), ("bad", "clean", np.s_[:, 736:])):
        own, foreign = (np.abs(tiles[part] - plain[which][part]).mean() for which in (name, other))
        assert own < 0.3 * foreign
    # no seam: where tiles of different levels overlap, the result lies between theirs; a tile may have the level in between
    low, high = np.minimum(*plain.values()) - 2, np.maximum(*plain.values()) + 2
    assert ((tiles >= low) & (tiles <= high)).mean() > 0.97


def test_the_embedded_estimate_falls_on_every_ladder_of_blur_noise_and_jpeg(tmp_path: Path) -> None:
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        Image.fromarray(getattr(skimage.data, name)()).save(tmp_path / f"{name}.png")
    command = [sys.executable, str(LADDER), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = list(csv.DictReader(done.stdout.splitlines(), delimiter="\t"))
    assert len(rows) == 7
    for row in rows:
        first, *_, last = map(float, row["realism"].split())
        assert float(row["rho"]) <= -0.8, row
        assert first <= 0.25, row
        assert last >= 0.5, row
        assert "fidelity" not in row["last step"], row
        if "+" in row["ladder"]:
            assert last >= 0.75, row


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(np.float32)
