"""Every command without what only Unix has: here, with those modules and names taken away, child processes included."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import RunCli

_TAKEN_AWAY = """
import os, signal, sys
import filelock, psutil  # which choose by system and not by what there is
for module in ("fcntl", "grp", "pwd", "resource"):
    sys.modules[module] = None
for name in ("O_NOFOLLOW", "O_NONBLOCK", "geteuid", "getuid", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGALRM", "SIGHUP", "pthread_sigmask"):
    if hasattr(signal, name):
        delattr(signal, name)
"""
_EVERY_MODULE = """
import importlib, pkgutil, sys
import rcodsr
for found in pkgutil.walk_packages(rcodsr.__path__, "rcodsr."):
    if found.name not in {"rcodsr.__main__", "rcodsr.models.norm_kernel"}:  # which runs; which needs triton
        importlib.import_module(found.name)
print(sum(name.startswith("rcodsr.") for name in sys.modules))
"""
_RECIPE = (
    "fit = true\nmachine.workers = 0\n[[phases]]\nname = 'p'\nsteps = 2\nbatch = 1\ncrop = 32\nlearning_rate = [1e-3, 1e-4]\n"
)


@pytest.fixture
def desk(photo: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures, their ground truth, and a Python whose start takes the names away."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_TAKEN_AWAY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
    for name in "ab":
        for side, folder in ((16, "lr"), (64, "hr")):
            (tmp_path / folder).mkdir(exist_ok=True)
            photo.resize((side, side)).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "recipe.toml").write_text(_RECIPE)
    return tmp_path


def test_every_module_can_be_imported(desk: Path) -> None:
    code = _EVERY_MODULE + "import os\nassert not hasattr(os, 'sched_getaffinity') and sys.modules['fcntl'] is None"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=desk, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150


@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        (("upscale", "lr/a.png", "-o", "a.png"), "a.png"),
        (("upscale", "lr", "-o", "out", "-j", 2), "out/b.png"),
        (("compare", "lr/a.png", "--realism", "0,1", "-o", "a.html"), "a.html"),
        (("estimate", "lr", "--gt", "hr", "--csv", "rows.csv"), "rows.csv"),
        (("bench", "--weights", "random:rcod-tiny:0", "--sizes", 32, "--runs", 1, "--export-json", "a.json"), "a.json"),
        (("bench", "synth", "hr", "-o", "set", "--crop", 0), "set/lr/a.png"),
        (("bench", "quality", "--gt", "hr", "--lr", "lr", "--realism", 0, "--export-csv", "rows.csv"), "rows.csv"),
        (("bench", "metric", "hr", "--crop", 64, "--count", 2), None),
        (("train", "recipe.toml", "photos=hr", "--output", "run", "machine.threads=1"), "run/checkpoint/config.json"),
        (("weights", "list"), None),
        (("weights", "export", "rcod-tiny", "-o", "copy"), "copy/config.json"),
    ],
)
def test_every_command_runs(desk: Path, run_cli: RunCli, arguments: tuple[object, ...], made: str | None) -> None:
    done = run_cli(*arguments)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if made is not None:
        assert (desk / made).is_file(), done.stdout + done.stderr
