"""Defaults of options that the environment sets: seen in --help, below the command line, named where they are wrong."""

import json
import re
from pathlib import Path

import pytest

import rcodsr
from rcodsr.errors import UsageError, WeightsError
from rcodsr.options import DEFAULT_WEIGHTS
from tests.cli.conftest import one_error_line
from tests.conftest import RunCli


def test_help_shows_the_variables_and_the_defaults(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RCODSR_WEIGHTS")
    text = "".join(run_cli("upscale", "--help").stdout.split())  # its lines break anywhere
    assert f"[envvar:RCODSR_WEIGHTS;default:{DEFAULT_WEIGHTS}]" in text
    names = set(re.findall(r"envvar:RCODSR_(\w+)", text))
    assert names == {"WEIGHTS", "DEVICE", "DTYPE", "REALISM", "TILE", "QUALITY", "JOBS", "MAX_PIXELS"}
    for command in (["estimate"], ["compare"], ["bench"], ["bench", "quality"], ["bench", "metric"]):
        shown = run_cli(*command, "--help").stdout
        assert {"WEIGHTS", "DEVICE", "DTYPE"} <= set(re.findall(r"RCODSR_(\w+)", shown)), command


def test_the_environment_is_a_default_and_the_command_line_decides(
    run_cli: RunCli, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RCODSR_WEIGHTS", "random:rcod-tiny:3")
    monkeypatch.setenv("RCODSR_REALISM", "realism")
    rows = []
    for arguments in ([], ["-r", "0", "--weights", "rcod-tiny"], ["-a", "--weights", "rcod-tiny"]):
        done = run_cli("upscale", "photo.png", "-y", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        rows.append(json.loads(done.stdout.splitlines()[0]))
    assert [row["weights"].partition("@")[0] for row in rows] == ["random:rcod-tiny:3", "rcod-tiny", "rcod-tiny"]
    assert [row["timestep"] for row in rows[:2]] == [750, 250]
    assert rows[2]["similarity"] is not None  # -a decides; the default does not contradict it


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("WEIGHTS", "nonsense", 3),
        ("DEVICE", "abacus", 2),
        ("REALISM", "50", 2),
        ("TILE", "many", 2),
        ("QUALITY", "500", 2),
        ("JOBS", "0", 2),
        ("MAX_PIXELS", "lots", 2),
    ],
)
def test_a_bad_value_is_named_by_its_variable(
    run_cli: RunCli, picture: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, code: int
) -> None:
    monkeypatch.setenv(f"RCODSR_{name}", value)
    done = run_cli("upscale", "photo.png")
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
    assert f"RCODSR_{name}" in done.stderr


def test_a_bad_value_of_the_command_line_is_its_own(run_cli: RunCli, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCODSR_TILE", "64")
    one_error_line(run_cli("upscale", "photo.png", "--tile", "many"), 2, "rcodsr: --tile: 'many'")
    monkeypatch.setenv("RCODSR_TILE", "")  # as good as not set
    assert run_cli("upscale", "photo.png", "-n").returncode == 0


def test_python_takes_weights_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCODSR_WEIGHTS", "random:rcod-tiny:3")
    monkeypatch.setenv("RCODSR_DTYPE", "bf16")
    upscaler = rcodsr.load(device="cpu")
    assert (upscaler.weights_id.partition("@")[0], upscaler.runtime.dtype_name) == ("random:rcod-tiny:3", "bf16")
    given = rcodsr.load("rcod-tiny", "cpu", "fp32")
    assert (given.weights_id.partition("@")[0], given.runtime.dtype_name) == ("rcod-tiny", "fp32")
    monkeypatch.setenv("RCODSR_DEVICE", "abacus")
    with pytest.raises(UsageError, match="^RCODSR_DEVICE=abacus: 'abacus' is not a device"):
        rcodsr.load()
    with pytest.raises(UsageError, match="^device: 'loom' is not"):
        rcodsr.load(device="loom")
    monkeypatch.setenv("RCODSR_WEIGHTS", "nonsense")
    with pytest.raises(WeightsError, match="^RCODSR_WEIGHTS=nonsense: unknown weights"):
        rcodsr.load(device="cpu")
