"""Two real processes over gloo against one that accumulates."""

import os
import pickle
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rcodsr.training.recipe import Recipe
from rcodsr.training.run import Run
from tests.training.conftest import metrics

ROOT = Path(__file__).parents[2]
_RUN = "import pickle, sys; from rcodsr.training.run import Run; Run(pickle.load(open(sys.argv[1], 'rb')), print).go()"


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def _accumulating(recipe: Recipe, batches: int) -> Recipe:
    return replace(recipe, optim=replace(recipe.optim, accumulate=batches))


def test_two_processes_learn_what_one_that_accumulates_learns(sd_recipe: Recipe, tmp_path: Path) -> None:
    one = replace(_accumulating(sd_recipe, 2), output=tmp_path / "one", machine=replace(sd_recipe.machine, device="cpu"))
    Run(one, lambda _: None).go()
    two = replace(_accumulating(one, 1), output=tmp_path / "two")
    (tmp_path / "two.pickle").write_bytes(pickle.dumps(two))
    shared = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "LOCAL_WORLD_SIZE": "2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _RUN, str(tmp_path / "two.pickle")],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[1][0] == ""  # the second process prints and writes nothing
    for a, b in zip(metrics(one.output), metrics(two.output), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["vsd_own"] == pytest.approx(b["vsd_own"], abs=1e-5)
    assert Run(_accumulating(two, 2), lambda _: None).step == 4  # and one process resumes where two stopped
