"""`rcodsr weights export`, and `--push-to-hub` against a loopback Hub."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from rcodsr.messages import size_text
from tests.conftest import RunCli
from tests.hub_client import CANARY, contents
from tests.loopback_hub import LoopbackHub

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def rcodsr(hub: LoopbackHub, tmp_path: Path) -> Run:
    """Run `rcodsr ...` where `hub` is the Hub; the token is never shown. Xet's storage is not imitated."""

    def run(*arguments: str, token: str | None = CANARY, **variables: str) -> subprocess.CompletedProcess[str]:
        hub.clear_log()
        command = [sys.executable, "-m", "rcodsr", *arguments]
        environment = hub.env(tmp_path / "home", token) | {"NO_COLOR": "1", "HF_HUB_DISABLE_XET": "1"} | variables
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert CANARY not in done.stdout + done.stderr
        return done

    return run


def _fails(done: subprocess.CompletedProcess[str], *words: str, code: int = 3) -> None:
    """One line of ours as the last, and nothing else but that of the upload."""
    *notes, line = done.stderr.splitlines()
    assert line.startswith("rcodsr: ") and "; " in line, done.stderr
    assert all(note.startswith("uploading ") for note in notes), done.stderr
    for word in words:
        assert word in line
    assert done.returncode == code


# ---- without a Hub


def test_rcod_tiny_exported_gives_the_same_bytes(run_cli: RunCli, photo: Image.Image, tmp_path: Path) -> None:
    photo.resize((20, 16)).save(tmp_path / "in.png")
    done = run_cli("weights", "export", "rcod-tiny", "-o", "mine/rcod-tiny")
    assert (done.returncode, done.stdout, done.stderr) == (0, "mine/rcod-tiny\n", "")
    for weights, name in (("rcod-tiny", "a.png"), ("mine/rcod-tiny", "b.png")):
        assert run_cli("upscale", "in.png", "--weights", weights, "-o", name).returncode == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

    again = run_cli("weights", "export", "rcod-tiny", "-o", "mine/rcod-tiny")
    assert again.returncode == 2
    assert again.stderr == "rcodsr: mine/rcod-tiny: already exists; choose a new directory with -o or replace it with -y\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--private"], "--private: nothing is uploaded"),
        (["--offline", "--push-to-hub", "me/x"], "--offline: contradicts --push-to-hub"),
        (["--base-model", "x"], "--base-model: a copy needs no base"),
    ],
)
def test_contradictions(run_cli: RunCli, tmp_path: Path, arguments: list[str], words: str) -> None:
    _fails(run_cli("weights", "export", "rcod-tiny", "-o", "x", *arguments), words, code=2)
    assert not (tmp_path / "x").exists()


# ---- to the Hub and back


@pytest.mark.parametrize("lfs", [True, False])
def test_a_round_trip(
    lfs: bool, hub: LoopbackHub, rcodsr: Run, small_checkpoint: Path, photo: Image.Image, tmp_path: Path
) -> None:
    hub.lfs = lfs
    photo.resize((20, 16)).save(tmp_path / "in.png")
    xet = {} if lfs else {"HF_HUB_DISABLE_XET": "0"}  # without LFS, Xet's pipeline runs but stores nothing itself
    done = rcodsr("weights", "export", str(small_checkpoint), "-o", "out", "--push-to-hub", "me/small", **xet)
    assert (done.returncode, done.stdout) == (0, f"out\n{hub.url}/me/small\n"), done.stderr
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert done.stderr == f"uploading out to {hub.url}/me/small ({size_text(size)})\n"
    assert any(request.path.startswith("/lfs/") for request in hub.log) == lfs

    pulled = rcodsr("upscale", "in.png", "--weights", "me/small", "-o", "pulled.png", "--device", "cpu")
    assert pulled.returncode == 0, pulled.stderr
    assert rcodsr("upscale", "in.png", "--weights", "out", "-o", "local.png", "--device", "cpu").returncode == 0
    with Image.open(tmp_path / "pulled.png") as a, Image.open(tmp_path / "local.png") as b:
        assert a.tobytes() == b.tobytes()
    assert (tmp_path / "out" / "README.md").is_file()


def test_pushing_again_replaces_the_weights_and_keeps_the_rest(hub: LoopbackHub, rcodsr: Run, small_checkpoint: Path) -> None:
    others = {"samples/a.png": b"picture", "tokenizer.json": b"{}"}
    hub.add("me/small", others | {"unet_lora.safetensors": b"of an adapter", "unet.safetensors": b"old"}, token=CANARY)
    done = rcodsr("weights", "export", str(small_checkpoint), "-o", "out", "--push-to-hub", "me/small")
    assert done.returncode == 0, done.stderr
    repo = hub._repos["me/small"]
    held = {name: file.data for name, file in repo.commits[repo.main].items()}
    card = held.pop("README.md")
    assert card.startswith(b"---\nlibrary_name: rcodsr")
    assert held == others | contents(small_checkpoint)

    again = rcodsr("weights", "export", str(small_checkpoint), "-o", "out", "-y", "--push-to-hub", "me/small")
    assert again.returncode == 0, again.stderr


def test_private(hub: LoopbackHub, rcodsr: Run) -> None:
    assert rcodsr("weights", "export", "rcod-tiny", "-o", "a", "--push-to-hub", "me/hidden", "--private").returncode == 0
    assert hub._repos["me/hidden"].private
    hub.add("me/public", {}, token=CANARY)
    done = rcodsr("weights", "export", "rcod-tiny", "-o", "b", "--push-to-hub", "me/public", "--private")
    _fails(done, "me/public: exists and is public; make it private")
    assert hub._repos["me/public"].commits[hub._repos["me/public"].main] == {}


# ---- faults


@pytest.mark.parametrize(
    ("name", "token", "variables", "words"),
    [
        ("me/x", None, {}, "me/x: no token for 127.0.0.1"),
        ("me/x", CANARY, {"HF_HUB_OFFLINE": "1"}, "me/x: cannot be written offline; unset HF_HUB_OFFLINE"),
        ("me", CANARY, {}, "me: not a repository name; write organisation/name"),
        ("me/two--dashes", CANARY, {}, "me/two--dashes: not a repository name; write organisation/name"),
    ],
)
def test_what_is_told_before_any_work(
    hub: LoopbackHub, rcodsr: Run, tmp_path: Path, name: str, token: str | None, variables: dict[str, str], words: str
) -> None:
    done = rcodsr("weights", "export", "rcod-tiny", "-o", "out", "--push-to-hub", name, token=token, **variables)
    _fails(done, words)
    assert (done.stdout, hub.log) == ("", [])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("401", "me/small: 127.0.0.1"),
        ("401_repo", "does not accept your token; log in with `hf auth login`"),
        ("403", "your token may not write to it"),
        ("429", "limits the rate (429)"),
        ("500", "answers with status 500"),
        ("html", "does not answer as a Hub; check HF_ENDPOINT"),
        pytest.param("reset", "the exchange with 127.0.0.1", marks=pytest.mark.slow),
        pytest.param("hang", "does not answer; check the network", marks=pytest.mark.slow),
    ],
)
def test_a_hub_that_fails(
    hub: LoopbackHub, rcodsr: Run, small_checkpoint: Path, tmp_path: Path, fault: str, words: str
) -> None:
    hub.fault(fault)
    done = rcodsr("weights", "export", str(small_checkpoint), "-o", "out", "--push-to-hub", "me/small")
    _ends_with(done, words)
    assert done.stdout == "out\n"
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.parametrize(
    ("fault", "where", "words"),
    [
        ("500", "card", "answers with status 500; try again later"),
        ("html", "card", "does not answer as a Hub; check HF_ENDPOINT"),
        ("403", "lfs", "your token may not write to it"),
        pytest.param("hang", "card", "does not answer; check the network", marks=pytest.mark.slow),
        pytest.param("hang", "lfs", "does not answer; check the network", marks=pytest.mark.slow),
        pytest.param("reset", "lfs", "Connection reset by peer", marks=pytest.mark.slow),
    ],
)
def test_an_upload_that_breaks_off(
    hub: LoopbackHub, small_checkpoint: Path, tmp_path: Path, fault: str, where: str, words: str
) -> None:
    hub.fault(fault, repo=where)
    impatient = "import sys; from rcodsr.checkpoints import push; push.PATIENCE = 0.5; from rcodsr.cli.app import run"
    arguments = ["weights", "export", str(small_checkpoint), "-o", "out", "--push-to-hub", "me/small"]
    command = [sys.executable, "-c", f"{impatient}; sys.exit(run(sys.argv[1:]))", *arguments]
    environment = hub.env(tmp_path / "home", CANARY) | {"HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    _fails(done, "me/small", words)
    assert CANARY not in done.stdout + done.stderr
    assert [*hub._repos["me/small"].commits[hub._repos["me/small"].main]] == [".gitattributes"]


def _ends_with(done: subprocess.CompletedProcess[str], words: str) -> None:
    line = done.stderr.splitlines()[-1]
    assert line.startswith("rcodsr: me/small") and words in line, done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 3


def test_somebody_elses_repository(hub: LoopbackHub, rcodsr: Run) -> None:
    hub.add("other/model", {}, token="hf_theirs")
    done = rcodsr("weights", "export", "rcod-tiny", "-o", "out", "--push-to-hub", "other/model")
    _fails(done, "other/model: your token may not write to it on 127.0.0.1")


def test_a_storage_that_cannot_be_reached(hub: LoopbackHub, rcodsr: Run, small_checkpoint: Path) -> None:
    """Xet's, which the library prefers where it is installed."""
    done = rcodsr("weights", "export", str(small_checkpoint), "-o", "out", "--push-to-hub", "me/small", HF_HUB_DISABLE_XET="0")
    _ends_with(done, "me/small")
