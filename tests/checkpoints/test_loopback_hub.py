"""The loopback Hub against the real huggingface_hub: what the tests of downloads stand on."""

import hashlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loopback_hub import LoopbackHub, Request

WEIGHTS = bytes(range(256)) * 200
CONFIG = b'{"scale": 4}'
CONFIG_BLOB = "f5218873f9c53c6ee2086e61e75270ba01e4b024"  # git hash-object
FILES = {"model.safetensors": WEIGHTS, "sub dir/config.json": CONFIG}

# huggingface_hub reads HF_* at import, so each environment needs a process; it takes calls as lines, for it is slow to start
WORKER = """
import faulthandler, json, sys
from huggingface_hub import HfApi, hf_hub_download, snapshot_download

def info(**arguments):
    model = HfApi().model_info(files_metadata=True, timeout=1, **arguments)
    return {"sha": model.sha, "files": {s.rfilename: [s.size, s.lfs and s.lfs.sha256, s.blob_id] for s in model.siblings}}

calls = {"info": info, "file": hf_hub_download, "snapshot": snapshot_download}
for line in sys.stdin:
    faulthandler.dump_traceback_later(60, exit=True)
    name, arguments = json.loads(line)
    try:
        answer = {"value": calls[name](**arguments)}
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer), flush=True)
"""

Call = Callable[..., Any]


class HubError(Exception):
    """An exception of huggingface_hub, named by its class."""


@pytest.fixture(scope="module")
def shared_hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def hub(shared_hub: LoopbackHub) -> LoopbackHub:
    """A Hub without faults; repos of earlier tests are still there."""
    shared_hub.fault(None)
    shared_hub.clear_log()
    return shared_hub


def _worker(hub: LoopbackHub, home: Path, token: str | None = None) -> Iterator[Call]:
    environment = hub.env(home, token) | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    command = [sys.executable, "-c", WORKER]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def call(name: str, **arguments: object) -> Any:
            assert process.stdin is not None and process.stdout is not None
            print(json.dumps([name, arguments], default=str), file=process.stdin, flush=True)
            answer = json.loads(process.stdout.readline())
            if "error" in answer:
                raise HubError(f"{answer['error']}: {answer['message']}")
            return answer["value"]

        hub.add("warm/up", {})
        call("info", repo_id="warm/up")  # the first call also asks for /api/agent-harnesses
        yield call


@pytest.fixture(scope="module")
def anonymous(shared_hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    yield from _worker(shared_hub, tmp_path_factory.mktemp("anonymous"))


@pytest.fixture(scope="module")
def with_token(shared_hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    yield from _worker(shared_hub, tmp_path_factory.mktemp("token"), token="hf_canary")


# ---- what works


def test_a_snapshot_has_the_right_bytes_under_the_right_names(hub: LoopbackHub, anonymous: Call) -> None:
    revision = hub.add("good/snapshot", FILES)
    directory = Path(anonymous("snapshot", repo_id="good/snapshot"))
    assert directory.name == revision
    assert {name: (directory / name).read_bytes() for name in FILES} == FILES
    blob = (directory / "model.safetensors").resolve().name
    assert blob == hashlib.sha256(WEIGHTS).hexdigest()
    hub.clear_log()
    assert anonymous("snapshot", repo_id="good/snapshot", local_files_only=True) == str(directory)
    assert hub.log == []


def test_information_has_sizes_and_hashes(hub: LoopbackHub, anonymous: Call) -> None:
    revision = hub.add("good/information", FILES)
    found = anonymous("info", repo_id="good/information", revision="main")
    size, sha256, _ = found["files"]["model.safetensors"]
    assert (found["sha"], size, sha256) == (revision, len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())
    assert found["files"]["sub dir/config.json"] == [len(CONFIG), None, CONFIG_BLOB]


def test_a_revision_stays_what_it_was(hub: LoopbackHub, anonymous: Call) -> None:
    first = hub.add("good/commits", FILES)
    second = hub.add("good/commits", {"model.safetensors": b"new"})
    assert first != second

    def read(revision: str) -> bytes:
        path = anonymous("file", repo_id="good/commits", filename="model.safetensors", revision=revision)
        return Path(path).read_bytes()

    assert [read(first), read("main"), read(second)] == [WEIGHTS, b"new", b"new"]
    assert anonymous("info", repo_id="good/commits", revision=first)["sha"] == first
    hub.clear_log()
    assert read(first) == WEIGHTS
    assert hub.log == []  # a revision in the cache needs no Hub


# ---- who may


def test_the_log_tells_who_sent_a_token(hub: LoopbackHub, anonymous: Call, with_token: Call, tmp_path: Path) -> None:
    hub.add("good/token", FILES)
    for call, sent in ((anonymous, False), (with_token, True)):
        hub.clear_log()
        call("file", repo_id="good/token", filename="model.safetensors", cache_dir=tmp_path / str(sent))
        url = "/good/token/resolve/main/model.safetensors"
        assert hub.log == [Request("HEAD", url, sent), Request("GET", url, sent)]


def test_a_second_origin_gets_no_token(hub: LoopbackHub, with_token: Call) -> None:
    hub.add("good/cdn", FILES)
    hub.fault("redirect_elsewhere")
    directory = Path(with_token("snapshot", repo_id="good/cdn"))
    assert {name: (directory / name).read_bytes() for name in FILES} == FILES
    assert [(request.method, request.has_auth) for request in hub.cdn_log] == [("GET", False)] * 2
    assert all(request.has_auth for request in hub.log)


def test_a_token_opens_gated_and_private_repos(hub: LoopbackHub, anonymous: Call, with_token: Call) -> None:
    hub.add("closed/gated", FILES, gated=True, token="hf_canary")
    hub.add("closed/private", FILES, private=True, token="hf_canary")
    hub.add("closed/another", FILES, private=True, token="hf_another")
    for repo, error in (("gated", "GatedRepoError: 403"), ("private", "RepositoryNotFoundError: 401")):
        file = {"repo_id": f"closed/{repo}", "filename": "model.safetensors"}
        with pytest.raises(HubError, match=error):
            anonymous("file", **file)
        assert Path(with_token("file", **file)).read_bytes() == WEIGHTS
    assert anonymous("info", repo_id="closed/gated")["files"]
    for call, repo in ((anonymous, "private"), (with_token, "another")):
        with pytest.raises(HubError, match="RepositoryNotFoundError: 401"):
            call("info", repo_id=f"closed/{repo}")


def test_what_is_missing_is_named(hub: LoopbackHub, anonymous: Call) -> None:
    hub.add("good/missing", FILES)
    for call, arguments, error in (
        ("file", {"repo_id": "no/repo", "filename": "model.safetensors"}, "RepositoryNotFoundError"),
        ("file", {"repo_id": "good/missing", "filename": "model.safetensors", "revision": "v9"}, "RevisionNotFoundError"),
        ("file", {"repo_id": "good/missing", "filename": "absent.safetensors"}, "RemoteEntryNotFoundError"),
        ("info", {"repo_id": "no/repo"}, "RepositoryNotFoundError"),
        ("info", {"repo_id": "good/missing", "revision": "v9"}, "RevisionNotFoundError"),
        ("snapshot", {"repo_id": "good/missing", "revision": "v9"}, "RevisionNotFoundError"),
    ):
        with pytest.raises(HubError, match=f"{error}: 404"):
            anonymous(call, **arguments)


# ---- what huggingface_hub makes of faults


def test_a_cut_or_stalled_download_is_resumed(hub: LoopbackHub, anonymous: Call, tmp_path: Path) -> None:
    hub.add("good/resumed", FILES)
    for fault in ("truncate", "hang_body"):
        hub.clear_log()
        hub.fault(fault, times=1)
        path = anonymous("file", repo_id="good/resumed", filename="model.safetensors", cache_dir=tmp_path / fault)
        assert Path(path).read_bytes() == WEIGHTS
        assert [request.method for request in hub.log] == ["HEAD", "GET", "GET"]


def test_wrong_contents_of_the_right_size_are_accepted(hub: LoopbackHub, anonymous: Call) -> None:
    """Why rcodsr compares hashes itself: huggingface_hub compares sizes, and names the file by the hash it was promised."""
    hub.add("good/tampered", FILES)
    hub.fault("wrong_bytes", repo="good/tampered")
    path = Path(anonymous("file", repo_id="good/tampered", filename="model.safetensors"))
    assert path.stat().st_size == len(WEIGHTS) and path.read_bytes() != WEIGHTS
    assert path.resolve().name == hashlib.sha256(WEIGHTS).hexdigest()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("401", "HfHubHTTPError: .*401"),
        ("401_repo", "RepositoryNotFoundError: 401"),
        ("403", "LocalEntryNotFoundError"),
        ("403_gated", "GatedRepoError: 403"),
        ("404", "LocalEntryNotFoundError"),
        ("404_repo", "RepositoryNotFoundError: 404"),
        ("404_rev", "RevisionNotFoundError: 404"),
        ("404_entry", "RemoteEntryNotFoundError: 404"),
        ("html", "LocalEntryNotFoundError: .*X-Repo-Commit"),
        ("no_commit", "LocalEntryNotFoundError: .*X-Repo-Commit"),
        ("no_etag", "LocalEntryNotFoundError: .*ETag"),
        ("reset", "ReadError"),
        ("reset_body", "ReadError"),
        ("short", "OSError: Consistency check failed"),
    ],
)
def test_a_file_fails_as(hub: LoopbackHub, anonymous: Call, tmp_path: Path, fault: str, error: str) -> None:
    hub.add("good/failing", FILES)
    hub.fault(fault)
    with pytest.raises(HubError, match=f"(?s)^{error}"):
        anonymous("file", repo_id="good/failing", filename="model.safetensors", cache_dir=tmp_path)
    assert not [path for path in tmp_path.rglob("*.safetensors") if ".no_exist" not in path.parts]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("429", "HfHubHTTPError: .*429"),
        ("500", "HfHubHTTPError: .*500"),
        ("503", "HfHubHTTPError: .*503"),
        ("html", "JSONDecodeError"),
        ("half_json", "JSONDecodeError"),
        ("reset", "ReadError"),
        ("hang", "ReadTimeout"),
        ("hang_body", "ReadTimeout"),
        ("truncate", "RemoteProtocolError"),
    ],
)
def test_information_fails_as(hub: LoopbackHub, anonymous: Call, fault: str, error: str) -> None:
    hub.add("good/failing", FILES)
    hub.fault(fault, path="")
    with pytest.raises(HubError, match=f"(?s)^{error}"):
        anonymous("info", repo_id="good/failing")


def test_a_busy_hub_is_asked_again(hub: LoopbackHub, anonymous: Call) -> None:
    hub.add("good/busy", FILES)
    hub.fault("429", times=2)  # the first HEAD, which is not repeated as such, and the first of those with retries
    path = anonymous("file", repo_id="good/busy", filename="model.safetensors")
    assert Path(path).read_bytes() == WEIGHTS
    assert [request.method for request in hub.log] == ["HEAD", "HEAD", "HEAD", "GET"]


# ---- on the wire


def _ask(hub: LoopbackHub, method: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", int(hub.url.rpartition(":")[2]), timeout=5)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def test_ranges(hub: LoopbackHub) -> None:
    hub.add("raw/ranges", {"digits.bin": b"0123456789"})
    url = "/raw/ranges/resolve/main/digits.bin"
    for asked, status, body, placed in (
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
    ):
        response, found = _ask(hub, "GET", url, Range=asked)
        assert (response.status, found, response.headers["Content-Range"]) == (status, body, placed)


def test_faults_of_bodies_on_the_wire(hub: LoopbackHub) -> None:
    hub.add("raw/bodies", FILES)
    url = "/raw/bodies/resolve/main/model.safetensors"
    half = WEIGHTS[: len(WEIGHTS) // 2]
    hub.fault("truncate", times=2)
    assert _ask(hub, "HEAD", url)[0].headers["Content-Length"] == str(len(WEIGHTS))
    with pytest.raises(http.client.IncompleteRead) as cut:
        _ask(hub, "GET", url)
    assert cut.value.partial == half
    with pytest.raises(http.client.IncompleteRead) as cut:
        _ask(hub, "GET", url, Range=f"bytes={len(half)}-")
    assert cut.value.partial == b""  # resuming is of no use while it lasts
    assert _ask(hub, "GET", url)[1] == WEIGHTS
    hub.fault("short")
    assert _ask(hub, "HEAD", url)[0].headers["Content-Length"] == str(len(WEIGHTS))
    assert _ask(hub, "GET", url)[1] == half
    hub.fault("slow")
    assert _ask(hub, "GET", url)[1] == WEIGHTS
    for fault in ("reset", "reset_body"):
        hub.fault(fault)
        with pytest.raises(ConnectionResetError):
            _ask(hub, "GET", url)
    hub.fault("hang_body")
    with pytest.raises(TimeoutError), socket.create_connection(("127.0.0.1", int(hub.url.rpartition(":")[2])), 0.2) as peer:
        peer.sendall(f"GET {url} HTTP/1.1\r\n\r\n".encode())
        while peer.recv(1 << 16):
            pass


def test_unknown_urls_and_methods_are_not_found(hub: LoopbackHub) -> None:
    hub.add("raw/known", FILES)
    for method, path in (("GET", "/"), ("GET", "/api/agent-harnesses"), ("POST", "/api/models/raw/known"), ("PUT", "/x")):
        response, _ = _ask(hub, method, path)
        assert (response.status, response.headers["X-Error-Code"]) == (404, None)
    assert [request.method for request in hub.log] == ["GET", "GET", "POST", "PUT"]


def test_the_narrowest_fault_wins_and_ends_when_told(hub: LoopbackHub) -> None:
    for repo in ("raw/one", "raw/two"):
        hub.add(repo, FILES)

    def statuses() -> list[int]:
        weights = [_ask(hub, "GET", f"/{repo}/resolve/main/model.safetensors")[0].status for repo in ("raw/one", "raw/two")]
        return [*weights, _ask(hub, "GET", "/api/models/raw/two")[0].status, _ask(hub, "GET", "/elsewhere")[0].status]

    hub.fault("500")
    hub.fault("403", repo="raw/one")
    hub.fault("401", path="model.safetensors", times=1)
    assert statuses() == [403, 401, 500, 500]
    assert statuses() == [403, 500, 500, 500]
    hub.fault(None, repo="raw/one")
    assert statuses() == [500, 500, 500, 500]
    hub.fault("503", path="")
    assert statuses() == [500, 500, 503, 500]
    hub.fault(None)
    assert statuses() == [200, 200, 200, 404]


def test_a_misspelt_fault_is_refused(hub: LoopbackHub) -> None:
    with pytest.raises(ValueError, match="hung: no such fault; use one of 401, .*wrong_bytes"):
        hub.fault("hung")


def test_closing_hangs_up_on_whoever_waits() -> None:
    with LoopbackHub() as hub:
        hub.fault("hang")
        peers = [socket.create_connection(("127.0.0.1", int(hub.url.rpartition(":")[2])), timeout=10) for _ in range(3)]
        for peer in peers[:2]:
            peer.sendall(b"GET /api/models/a/b HTTP/1.1\r\n\r\n")  # the third says nothing
        while len(hub.log) < 2:
            time.sleep(0.01)
        closing = threading.Thread(target=hub.close, daemon=True)
        closing.start()
        closing.join(10)
        assert not closing.is_alive()
        for peer in peers:
            with peer:
                assert peer.recv(1) == b""
