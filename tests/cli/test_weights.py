"""`rcodsr upscale --weights org/repo` against a loopback Hub."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.conftest import RunCli
from tests.hub_client import CANARY, contents, repositories
from tests.loopback_hub import LoopbackHub

Upscale = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def upscale(hub: LoopbackHub, photo: Image.Image, tmp_path: Path) -> Upscale:
    """Run `rcodsr upscale photo.png ...` where `hub` is the Hub; the token is never shown."""
    photo.resize((20, 16)).save(tmp_path / "photo.png")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        hub.clear_log()
        command = [sys.executable, "-m", "rcodsr", "upscale", "photo.png", "--device", "cpu", *arguments]
        environment = hub.env(tmp_path / "home", CANARY) | {"NO_COLOR": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert CANARY not in done.stdout + done.stderr
        return done

    return run


def _fails(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line of ours as the last, exit code 3, nothing but notes on fetching before it."""
    *notes, line = done.stderr.splitlines()
    assert line.startswith("rcodsr: ") and "; " in line
    assert all(note.startswith("fetching ") for note in notes), done.stderr
    for word in words:
        assert word in line
    assert (done.returncode, done.stdout) == (3, "")


@pytest.mark.slow
def test_an_adapter_and_its_bases_are_fetched_once(
    hub: LoopbackHub,
    upscale: Upscale,
    adapter_checkpoint: Path,
    base_files: dict[str, dict[str, bytes]],
    tmp_path: Path,
) -> None:
    commit = hub.add("me/adapter", contents(adapter_checkpoint))
    for base, files in base_files.items():
        hub.add(repositories(base)[0], files)
    first = upscale("--weights", "me/adapter", "-o", "first.png")
    assert (first.returncode, first.stdout) == (0, "first.png\n"), first.stderr
    assert f"pinned to me/adapter at commit {commit}" in first.stderr
    assert hub.log

    second = upscale("--weights", "me/adapter", "-o", "second.png")
    assert (second.returncode, hub.log) == (0, []), second.stderr
    hub.close()
    third = upscale("--weights", "me/adapter", "--offline", "-o", "third.png")
    assert third.returncode == 0, third.stderr
    assert (
        (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes() == (tmp_path / "third.png").read_bytes()
    )
    assert "fetching" not in second.stderr + third.stderr


def test_an_adapter_whose_base_cannot_be_had(
    hub: LoopbackHub, upscale: Upscale, adapter_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "me").mkdir()
    adapter_checkpoint.rename(tmp_path / "me" / "adapter")
    first, mirror = repositories("sd21-base")
    done = upscale("--weights", "me/adapter")
    assert done.returncode == 3
    assert f"{first}@main: not found" in done.stderr.splitlines()[-1]
    assert mirror in done.stderr.splitlines()[-1]


def test_offline_with_an_empty_cache(hub: LoopbackHub, upscale: Upscale) -> None:
    _fails(upscale("--weights", "me/adapter", "--offline"), "me/adapter@main: not in the cache, and offline")
    assert hub.log == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("403_gated", "gated on 127.0.0.1"),
        ("404_repo", "not found on 127.0.0.1"),
        pytest.param("hang", "does not answer", marks=pytest.mark.slow),
    ],
)
def test_a_hub_that_fails(
    hub: LoopbackHub, upscale: Upscale, small_checkpoint: Path, tmp_path: Path, fault: str, words: str
) -> None:
    hub.add("me/small", contents(small_checkpoint))
    hub.fault(fault)
    _fails(upscale("--weights", "me/small"), "me/small", words)
    assert not (tmp_path / "photo_x4.png").exists()


def test_weights_that_nobody_published(hub: LoopbackHub, upscale: Upscale) -> None:
    _fails(upscale("--weights", "rcod-o"), "rcod-o: no weights are published", "org/repo")
    assert hub.log == []


def test_weights_are_listed_pulled_verified_and_removed(hub: LoopbackHub, small_checkpoint: Path, tmp_path: Path) -> None:
    hub.add("me/small", contents(small_checkpoint) | {"README.md": b"---\nlicense: mit\n---\n# Mine\n"})

    def weights(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rcodsr", "weights", *arguments]
        environment = hub.env(tmp_path / "home", CANARY) | {"NO_COLOR": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert CANARY not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    planned = [json.loads(line) for line in weights("pull", "me/small", "--dry-run", "--json").stdout.splitlines()]
    assert {file["file"] for file in planned} == set(contents(small_checkpoint))
    assert not any(file["cached"] for file in planned)
    assert weights("path", "me/small").returncode == 3
    directory = Path(weights("pull", "me/small").stdout.strip())
    assert weights("path", "me/small").stdout.strip() == str(directory)
    (item,) = (json.loads(line) for line in weights("list", "me/small", "--json").stdout.splitlines())
    assert (item["status"], item["licence"], item["cached"]) == ("repository", "mit", True)
    assert "ok me/small@main" in weights("verify").stdout or "ok me/small" in weights("verify").stdout

    (directory / "unet.safetensors").resolve().write_bytes(b"rotten")
    damaged = weights("verify", "me/small")
    assert damaged.returncode == 3 and "unet.safetensors: damaged" in damaged.stderr
    assert weights("rm", "me/small").returncode == 0
    assert not list((tmp_path / "home").rglob("*.safetensors"))
    assert weights("rm", "me/small").returncode == 3
    assert weights("rm", "rcod-tiny").returncode == 2
    manual = weights("pull", "pisa-sr")
    assert manual.returncode == 3 and "weights convert pisa_sr.pkl" in manual.stderr


def test_a_network_of_a_judge_is_converted_into_a_directory(run_cli: RunCli, tmp_path: Path) -> None:
    shares = {name: torch.rand(1, 1475, 1, 1) for name in ("alpha", "beta")}
    torch.save(shares, tmp_path / "weights.pt", _use_new_zipfile_serialization=False)  # as DISTS publishes it
    done = run_cli("weights", "convert", "weights.pt", "-o", "judges")
    assert (done.returncode, done.stdout) == (0, "judges/dists.safetensors\n")
    assert done.stderr == "weights.pt: dists, 2 tensors, 2950 values\n"
    stored = load_file(tmp_path / "judges/dists.safetensors")
    assert all(torch.equal(stored[name], value.flatten()) for name, value in shares.items())
    again = run_cli("weights", "convert", "weights.pt", "-o", "judges")
    assert (again.returncode, again.stdout) == (2, "")
    assert "judges/dists.safetensors: already exists; " in again.stderr
    done = run_cli("weights", "convert", "weights.pt", "-o", "judges", "-y", "--json", "-q")
    assert json.loads(done.stdout) == {"name": "dists", "file": "judges/dists.safetensors"}
    done = run_cli("weights", "convert", "weights.pt", "--base-model", "x")
    assert (done.returncode, done.stderr) == (2, "rcodsr: --base-model: dists has no base; omit the option\n")
