"""What is told before weights are loaded: inputs, outputs, whether there is anything to do; and what a dry run promises."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.cli.conftest import one_error_line
from tests.conftest import RunCli

_WITHOUT_TORCH = (
    "import sys; from rcodsr.cli.app import run; c = run(sys.argv[1:]); sys.exit(100 * ('torch' in sys.modules) + c)"
)


def _without_torch(directory: Path, *arguments: str) -> int:
    """The exit code, 100 more where torch was loaded."""
    command = [sys.executable, "-c", _WITHOUT_TORCH, *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, timeout=120).returncode


def test_a_run_with_nothing_to_do_loads_no_torch(run_cli: RunCli, folder: Path) -> None:
    assert run_cli("upscale", "album", "-q").returncode == 0
    assert _without_torch(folder.parent, "upscale", "album") == 0
    assert _without_torch(folder.parent, "upscale", "album", "-r", "0.2") == 1
    assert _without_torch(folder.parent, "upscale", "nothere.png", "--weights", "s3diff", "--offline") == 1


def test_a_dtype_that_auto_may_choose_counts_as_done_and_another_does_not(run_cli: RunCli, picture: Path) -> None:
    assert run_cli("upscale", "photo.png", "--dtype", "bf16").returncode == 0
    again = run_cli("upscale", "photo.png", "--json")
    assert json.loads(again.stdout.splitlines()[0])["status"] == "skipped"
    one_error_line(run_cli("upscale", "photo.png", "--dtype", "fp32"), 1, "made differently")
    # the same in the engine, which sees it behind a picture that has to be made
    new = picture.with_name("first.png")
    with Image.open(picture) as image:
        image.transpose(Image.Transpose.ROTATE_180).save(new)
    mixed = run_cli("upscale", "first.png", "photo.png", "--json")
    assert [json.loads(line).get("status") for line in mixed.stdout.splitlines()] == ["done", "skipped", None]


def test_failures_before_the_first_picture_count(run_cli: RunCli, picture: Path) -> None:
    done = run_cli("upscale", "a.png", "b.png", "photo.png", "--max-failures", "3", "--json")
    assert [json.loads(line).get("status") for line in done.stdout.splitlines()] == ["failed", "failed", "done", None]
    done = run_cli("upscale", "a.png", "photo.png", "c.png", "photo.png", "--max-failures", "2", "-y", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["summary"] == {"done": 1, "skipped": 0, "failed": 2}
    assert done.returncode == 1


def test_a_dry_run_ends_with_the_code_of_the_run(run_cli: RunCli, picture: Path) -> None:
    assert run_cli("upscale", "photo.png", "-q").returncode == 0
    one_error_line(run_cli("upscale", "photo.png", "-n", "-r", "0.3"), 1, "made differently")
    one_error_line(run_cli("upscale", "nothere.png", "-n"), 1, "no such file")
    one_error_line(run_cli("upscale", "photo.png", "-n", "-y", "--weights", "rcod-tny"), 3, "rcod-tny")
    one_error_line(run_cli("upscale", "photo.png", "-n", "-y", "--weights", "s3diff", "--offline"), 3, "not in the cache")
    one_error_line(run_cli("upscale", "photo.png", "-n", "-y", "--device", "mps"), 4, "--device")
    one_error_line(run_cli("upscale", "photo.png", "-n", "-o", "photo.png/x/y.png"), 7, "y.png")


def test_a_dry_run_says_level_weights_and_what_must_be_fetched(run_cli: RunCli, picture: Path) -> None:
    done = run_cli("upscale", "photo.png", "-n", "-r", "0.3", "--json")
    (row, summary) = (json.loads(line) for line in done.stdout.splitlines())
    assert (row["realism"], row["timestep"], row["level"], row["status"]) == (0.3, 400, "neutral", "planned")
    assert row["weights"].startswith("rcod-tiny@")
    assert summary == {"summary": {"done": 0, "skipped": 0, "failed": 0, "planned": 1}}
    adaptive = run_cli("upscale", "photo.png", "-n", "-a", "--json")
    assert json.loads(adaptive.stdout.splitlines()[0])["timestep"] is None
    elsewhere = run_cli("upscale", "photo.png", "-n", "--weights", "s3diff")
    assert elsewhere.returncode == 0
    assert "to fetch: s3diff" in elsewhere.stderr
    assert "to fetch: sd-turbo, " in elsewhere.stderr
    assert "GB" in elsewhere.stderr
    named = run_cli("upscale", "photo.png", "-n", "--device", "cpu")
    assert "rcod-tiny@" in named.stderr
    assert "on cpu (as requested)" in named.stderr
