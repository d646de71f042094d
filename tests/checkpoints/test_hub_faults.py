"""Weights from a Hub that fails: one clear line within seconds, no wrong byte used, no other way tried in vain."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from tests.hub_client import Client, repositories
from tests.loopback_hub import FAULTS, LoopbackHub

Files = dict[str, bytes]
WEIGHTS = "unet.safetensors"
LARGE = os.urandom(1 << 20)  # arrives in several chunks

# fault → words of the message, when the Hub's information on the repository fails, and when a file does
OF_THE_API = {
    "401": "not found on 127.0.0.1",
    "401_repo": "or private; check the name, or log in",
    "403": "refuses access (403)",
    "403_gated": "gated on 127.0.0.1",
    "404": "not found on 127.0.0.1",
    "404_repo": "or private; check the name, or log in",
    "404_rev": "has no revision main",
    "404_entry": "not found on 127.0.0.1",
    "429": "limits the rate (429)",
    "500": "answers with status 500",
    "503": "answers with status 503",
    "reset": "Connection reset by peer",
    "reset_body": "Connection reset by peer",
    "truncate": "peer closed connection",
    "hang": "does not answer; check the network",
    "hang_body": "does not answer; check the network",
    "html": "does not answer as a Hub; check HF_ENDPOINT",
    "half_json": "does not answer as a Hub; check HF_ENDPOINT",
}
OF_FILES = {name: words for name, words in OF_THE_API.items() if name != "half_json"} | {
    "404": f"has no file {WEIGHTS}",
    "404_rev": "has no revision",
    "404_entry": f"has no file {WEIGHTS}",
    "no_commit": "does not answer as a Hub; check HF_ENDPOINT",
    "no_etag": "does not answer as a Hub; check HF_ENDPOINT",
    "short": "Consistency check failed",
    "endless": "more bytes than announced",
    "wrong_bytes": f"{WEIGHTS} is not the published file",
}
HARMLESS = {"slow", "redirect_elsewhere", "names_only"}
OF_THE_HOST = ["429", "500", "503", "reset", "hang", "html"]
WAITING = {"hang", "hang_body", "429", "500", "503"}


def test_every_fault_is_tested() -> None:
    assert {*OF_THE_API, *OF_FILES, *HARMLESS} == FAULTS


def _patience(fault: str) -> float | None:
    """A second and a half instead of ten where the library would wait for longer."""
    return 1.5 if fault in WAITING else None


# ---- one line each


@pytest.mark.parametrize("fault", OF_THE_API)
def test_information_that_fails(hub: LoopbackHub, client: Client, small_files: Files, fault: str) -> None:
    hub.add("org/small", small_files)
    hub.fault(fault, path="")
    client.resolve("org/small", patience=_patience(fault)).fails_with("org/small", OF_THE_API[fault])
    assert not (client.home / "hub").exists()


@pytest.mark.parametrize("fault", OF_FILES)
def test_a_file_that_fails(hub: LoopbackHub, client: Client, small_files: Files, fault: str) -> None:
    hub.add("org/small", small_files)
    hub.fault(fault, path=WEIGHTS)
    client.resolve("org/small", patience=_patience(fault)).fails_with("org/small", OF_FILES[fault])
    assert not list(client.home.rglob(f"snapshots/*/{WEIGHTS}"))


def test_wrong_bytes_of_a_small_file_are_refused_too(hub: LoopbackHub, client: Client, small_files: Files) -> None:
    hub.add("org/small", small_files)
    hub.fault("wrong_bytes", path="config.json")
    client.resolve("org/small").fails_with("config.json is not the published file")
    client.resolve("org/small", offline=True).fails_with("not in the cache, and offline")


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_wrong_bytes_are_refused_where_only_the_cache_knows_better(
    hub: LoopbackHub, client: Client, small_files: Files, name: str
) -> None:
    """A Hub that describes no file still names their contents when they are fetched."""
    hub.add("org/small", small_files)
    hub.fault("names_only", path="")
    hub.fault("wrong_bytes", path=name)
    client.resolve("org/small").fails_with(f"{name} is not the published file")


@pytest.mark.parametrize("fault", sorted(HARMLESS))
def test_what_is_no_fault(hub: LoopbackHub, client: Client, small_files: Files, fault: str) -> None:
    hub.add("org/small", small_files)
    hub.fault(fault, path="" if fault == "names_only" else WEIGHTS)
    found = client.resolve("org/small")
    assert found.files() == small_files
    assert bool(hub.cdn_log) == (fault == "redirect_elsewhere")  # which sees no token: `client` checks


# ---- time


@pytest.mark.slow
def test_patience_is_short(hub: LoopbackHub, client: Client, small_files: Files) -> None:
    hub.add("org/small", small_files)
    hub.fault("hang", path=WEIGHTS)
    client.resolve("org/small").fails_with(OF_FILES["hang"])  # within 15 seconds


def test_a_slow_line_is_no_hang(hub: LoopbackHub, client: Client, small_files: Files) -> None:
    hub.add("org/slow", {**small_files, WEIGHTS: LARGE})
    hub.fault("slow", path=WEIGHTS)
    hub.pause = 0.15
    assert client.resolve("org/slow", patience=1.0).files()[WEIGHTS] == LARGE


def test_processes_that_want_the_same_wait_for_one_another(hub: LoopbackHub, client: Client, small_files: Files) -> None:
    hub.add("org/slow", {**small_files, WEIGHTS: LARGE})
    hub.fault("slow", path=WEIGHTS)
    hub.pause = 0.15
    processes = [client.start("resolve", weights="org/slow", patience=1.0) for _ in range(2)]
    assert [client.finish(process).files()[WEIGHTS] for process in processes] == [LARGE] * 2
    assert len([request for request in hub.log if request.method == "GET" and WEIGHTS in request.path]) == 1


# ---- faults that pass


@pytest.mark.parametrize(
    ("fault", "times", "path"),
    [
        *[(fault, times, WEIGHTS) for fault, times in {"reset": 2, "reset_body": 1, "truncate": 1, "short": 1}.items()],
        *[(fault, times, WEIGHTS) for fault, times in {"wrong_bytes": 1, "429": 1, "503": 2}.items()],
        *[(fault, times, "") for fault, times in {"429": 1, "503": 2}.items()],  # of the information on the repository
    ],
)
def test_a_fault_that_passes_is_overcome(
    hub: LoopbackHub, client: Client, small_files: Files, fault: str, times: int, path: str
) -> None:
    hub.add("org/small", small_files)
    hub.fault(fault, path=path, times=times)
    assert client.resolve("org/small").files() == small_files


def test_killed_in_a_download_the_next_run_is_right(hub: LoopbackHub, client: Client, small_files: Files) -> None:
    files = {**small_files, WEIGHTS: LARGE}
    hub.add("org/small", files)
    hub.fault("hang_body", path=WEIGHTS)
    process = client.start("resolve", weights="org/small")
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in client.home.rglob("*.incomplete")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode < 0
    hub.fault(None)
    assert client.resolve("org/small").files() == files


# ---- faults of the host


@pytest.mark.parametrize("fault", OF_THE_HOST)
def test_a_mirror_on_a_failing_host_is_not_tried(
    hub: LoopbackHub, client: Client, base_files: dict[str, Files], fault: str
) -> None:
    first, mirror = repositories("sd21-base")
    hub.add(first, base_files["sd21-base"])
    hub.fault(fault)
    client.resolve_base("sd21-base", patience=_patience(fault)).fails_with(f"{first}@main", OF_THE_API[fault])
    assert not [request for request in hub.log if mirror in request.path]


def test_nobody_listens(hub: LoopbackHub, client: Client) -> None:
    hub.close()
    client.resolve_base("sd21-base").fails_with(repositories("sd21-base")[0], "Connection refused", "check the network")


@pytest.mark.parametrize("address", ["http://hub.invalid", "nonsense", "ftp://127.0.0.1"])
def test_an_address_that_is_none(hub: LoopbackHub, tmp_path: Path, address: str) -> None:
    Client(hub, tmp_path / "home", HF_ENDPOINT=address).resolve("org/small").fails_with("org/small@main")


# ---- faults of this machine


def test_a_cache_that_cannot_be_written(hub: LoopbackHub, small_files: Files, tmp_path: Path) -> None:
    hub.add("org/small", small_files)
    (tmp_path / "file").write_text("in the way")
    answer = Client(hub, tmp_path / "file" / "home").resolve("org/small")
    answer.fails_with(f"{tmp_path / 'file'}", "cannot be written (Not a directory); free some space or set HF_HOME")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere, as may Windows")
def test_a_read_only_home(hub: LoopbackHub, client: Client, small_files: Files) -> None:
    hub.add("org/small", small_files)
    client.home.mkdir(mode=0o500)
    client.resolve("org/small").fails_with(str(client.home), "cannot be written (Permission denied)")


def test_a_full_disk(hub: LoopbackHub, client: Client, small_files: Files) -> None:
    files = {**small_files, WEIGHTS: LARGE}
    hub.add("org/small", files)
    client.resolve("org/small", largest_file=len(LARGE) // 2).fails_with("cannot be written (File too large)", "HF_HOME")
    assert not list(client.home.rglob("*.incomplete"))
    assert client.resolve("org/small").files() == files


def test_a_pin_that_cannot_be_written_costs_only_its_memory(hub: LoopbackHub, client: Client, small_files: Files) -> None:
    hub.add("org/small", small_files)
    client.home.mkdir()
    (client.home / "rcodsr").write_text("in the way")
    assert client.resolve("org/small").files() == small_files
    assert client.resolve("org/small").files() == small_files


def test_the_pin_records_commit_and_hashes_only(hub: LoopbackHub, client: Client, small_files: Files) -> None:
    commit = hub.add("org/small", small_files)
    client.resolve("org/small")
    pins = json.loads((client.home / "rcodsr" / "pins.json").read_text())
    assert set(pins) == {"org/small@main"}
    assert set(pins["org/small@main"]) == {"repo", "revision", "files"}
    assert pins["org/small@main"]["revision"] == commit
    assert {file["name"] for file in pins["org/small@main"]["files"]} == set(small_files)


@pytest.mark.slow
def test_killed_again_and_again(hub: LoopbackHub, client: Client, small_files: Files) -> None:
    """Twenty downloads that die at some moment; the next run is right, and nothing of them is left."""
    files = {**small_files, WEIGHTS: LARGE}
    hub.add("org/small", files)
    hub.fault("slow", path=WEIGHTS)
    for i in range(20):
        process = client.start("resolve", weights="org/small")
        deadline = time.monotonic() + 30
        while process.poll() is None and not list(client.home.rglob("*.incomplete")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.02 * i)
        process.kill()
        process.communicate()
    hub.fault(None)
    assert client.resolve("org/small").files() == files
    assert not list(client.home.rglob("*.incomplete"))
    assert not list((client.home / "rcodsr").glob(".pins.json.[0-9]*"))
