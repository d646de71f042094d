"""The contracts of `pyproject.toml` about who may import whom hold, and fail when they should."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_LAYERS = "Layers: every import points to a lower one"
_CYCLES = "Modules of one package form no cycle"
_FACE = "Nothing below the command line imports the public face"
_RUN = "What enlarges pictures needs nothing of what trains and measures"
_DISK = "Only checkpoints, images, data.photos, data.pairs, batch, bench, training and cli touch the disk"


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fence")
    shutil.copytree(ROOT / "src" / "rcodsr", folder / "rcodsr", ignore=shutil.ignore_patterns("assets", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def _broken(folder: Path) -> set[str]:
    """The contracts that do not hold."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache", "--no-logo"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert "Contracts: " in done.stdout, done.stdout + done.stderr
    broken = {name for name in (_LAYERS, _CYCLES, _FACE, _RUN, _DISK) if f"{name} BROKEN" in done.stdout}
    assert done.returncode == bool(broken)
    return broken


def test_the_contracts_hold(copied: Path) -> None:
    assert _broken(copied) == set()


@pytest.mark.parametrize(
    ("module", "line", "contracts"),
    [
        ("errors", "from rcodsr import cli", {_LAYERS, _CYCLES}),
        ("errors", "import rcodsr.training.run", {_LAYERS, _CYCLES, _RUN}),
        ("training/losses", "def f() -> None:\n    from rcodsr.cli import app", {_LAYERS, _CYCLES}),
        ("batch/order", "from rcodsr.bench import clock", {_LAYERS, _RUN}),
        ("models/layout", "from rcodsr.data import jpeg", {_LAYERS, _RUN}),
        ("images/formats", "from rcodsr.images import io", {_CYCLES}),
        ("images/tiling", "from rcodsr import __version__", {_FACE, _LAYERS}),
        ("models/layout", "from pathlib import Path", {_DISK}),
        ("report/charts", "import tempfile", {_DISK}),
    ],
)
def test_an_import_that_points_upwards_is_found(copied: Path, module: str, line: str, contracts: set[str]) -> None:
    path = copied / "rcodsr" / f"{module}.py"
    before = path.read_text()
    path.write_text(f"{before}\n{line}\n")
    try:
        assert _broken(copied) == contracts
    finally:
        path.write_text(before)
