"""`rcodsr env`: what a bug report needs, and no secret."""

import json

import pytest
import torch

import rcodsr
from tests.cli.conftest import RunHere


def test_versions_devices_weights_and_settings(run_here: RunHere, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCODSR_DEVICE", "cpu")
    monkeypatch.setenv("HF_TOKEN", "hf_dontshow")
    found = json.loads(run_here("env", "--json").stdout)
    assert (found["rcodsr"], found["packages"]["torch"]) == (rcodsr.__version__, torch.__version__)
    assert found["devices"][-1]["device"] == "cpu"
    assert {"rcod-small", "rcod-tiny"} <= set(found["weights"])
    assert found["free_memory"] > 0
    assert (found["variables"]["RCODSR_DEVICE"], found["variables"]["HF_TOKEN"]) == ("cpu", "(set)")
    text = run_here("env").stdout
    rows = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert rows["torch"] == torch.__version__
    assert rows["RCODSR_DEVICE"] == "cpu"
    assert "dontshow" not in text
