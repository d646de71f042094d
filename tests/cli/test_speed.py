"""`rcodsr bench` without a sub-command, as people meet it."""

import csv
import json
from pathlib import Path

import pytest
import torch

from tests.conftest import RunCli

_ACCELERATED = torch.cuda.is_available() or torch.backends.mps.is_available()


def test_bench_reports_as_json_and_exports(run_cli: RunCli, tmp_path: Path) -> None:
    exports = ("--export-json", "a.json", "--export-csv", "a.csv", "--export-markdown", "a.md")
    arguments = ("--weights", "random:rcod-tiny:0", "--device", "cpu", "--sizes", "32,64", "--runs", 1, "--batch", "1,2")
    done = run_cli("bench", *arguments, *exports)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    report = json.loads(line)
    assert report == json.loads((tmp_path / "a.json").read_text())
    assert [(row["size"], row["batch"]) for row in report["results"]] == [(32, 1), (32, 2), (64, 1), (64, 2)]
    for row in report["results"]:
        assert row["passed"]
        assert row["psnr"] > 80
        assert row["ours"]["n"] == 2
        assert 0 < row["floor_seconds"] < row["ours"]["median"]
        assert sum(row["flops"].values()) > 0
        assert set(row["stages"]) == {"upsample", "condition", "encode", "unet", "decode"}
    assert report["trainable_parameters"]["total"] > 1_000_000
    assert report["published"]["seconds"] == {"rcod-o": 0.09, "rcod-s": 0.28}
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [row["size"] for row in rows] == ["32", "32", "64", "64"]
    assert (tmp_path / "a.md").read_text().count("\n") == 6
    assert "the paper's own figures" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            ["--runs", 3, "quality", "--gt", "a", "--lr", "b"],
            2,
            "--runs: belongs to `rcodsr bench`, not to",
        ),
        (["--export-json", "gone/a.json"], 7, "gone/a.json: cannot be written (its folder does not exist)"),
        (["--sizes", "wide"], 2, "--sizes: 'wide' is not a list of whole numbers"),
        (["--items", "magic"], 2, "'magic' is not a valid item"),
        (["--gpu", "--device", "cpu"], 2, "--gpu: contradicts --device cpu"),
        pytest.param(
            ["--gpu"],
            4,
            "--gpu: no accelerator is available here; ",
            marks=pytest.mark.skipif(
                torch.cuda.is_available() or torch.backends.mps.is_available(), reason="has an accelerator"
            ),
        ),
    ],
    ids=["order", "folder", "sizes", "items", "contradiction", "gpu"],
)
def test_a_bad_request_is_one_line(run_cli: RunCli, arguments: list[object], code: int, words: str) -> None:
    done = run_cli("bench", *arguments)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert done.stdout == ""
