"""A Hugging Face Hub on 127.0.0.1 that can be told to fail: what tests of downloads talk to instead of the network."""

import hashlib
import json
import os
import re
import socket
import struct
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit

from tests.loopback_uploads import Upload, UploadHandler

# name of a fault → status, X-Error-Code (by which huggingface_hub chooses its exception), message
_REFUSALS = {
    "401": (401, "", "Unauthorized"),
    "401_repo": (401, "RepoNotFound", "Invalid username or password."),
    "403": (403, "", "Forbidden"),
    "403_gated": (403, "GatedRepo", "Access to this model is restricted and you are not in the authorized list."),
    "404": (404, "", "Not Found"),
    "404_repo": (404, "RepoNotFound", "Repository not found"),
    "404_rev": (404, "RevisionNotFound", "Invalid rev id"),
    "404_entry": (404, "EntryNotFound", "Entry not found"),
    "429": (429, "", "Too Many Requests"),
    "500": (500, "", "Internal Server Error"),
    "503": (503, "", "Service Unavailable"),
}
_ANYWHERE = {*_REFUSALS, "reset", "hang", "html"}
_IN_BODIES = {"truncate", "short", "wrong_bytes", "reset_body", "hang_body", "slow", "endless"}
_OF_FILES = {"no_commit", "no_etag", "redirect_elsewhere"}
_OF_THE_API = {"half_json", "names_only"}
FAULTS = frozenset(_ANYWHERE | _IN_BODIES | _OF_FILES | _OF_THE_API)

_HTML = b"<!doctype html><title>Welcome</title><p>Log in to use this network.</p>"
_INVERTED = bytes(range(255, -1, -1))
_REPO = "(?P<repo>[^/]+(?:/[^/]+)?)"
_FILE_URL = re.compile(f"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_API_URL = re.compile(f"/api/models/{_REPO}(?:/(?P<kind>revision|tree)/(?P<revision>[^/]+))?")


class Request(NamedTuple):
    """A request as it came in; `path` is raw, with its query."""

    method: str
    path: str
    has_auth: bool


class _File:
    """Contents with the names the Hub gives them: sha256 for LFS files, the git blob sha1 for small text files."""

    def __init__(self, name: str, data: bytes) -> None:
        sha256 = hashlib.sha256(data).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
        text = name.endswith((".json", ".md", ".txt"))
        stored = data if text else pointer
        self.data = data
        self.blob_id = hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()
        self.etag = self.blob_id if text else sha256
        # information on a repo says sha256 and blobId, its tree says oid
        lfs = {"sha256": sha256, "oid": sha256, "size": len(data), "pointerSize": len(pointer)}
        self.about = {"size": len(data), "oid": self.blob_id, "blobId": self.blob_id} | ({} if text else {"lfs": lfs})
        self.linked = {"X-Linked-Etag": f'"{self.etag}"', "X-Linked-Size": str(len(data))}
        self.headers = {"ETag": f'"{self.etag}"'} | ({} if text else self.linked)


@dataclass
class _Repo:
    main: str = ""
    commits: dict[str, dict[str, _File]] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    token: str | None = None


class _Target(NamedTuple):
    """What a URL asks for: a "file", or of the API (`file` is "") a "revision", that is information, or a "tree"."""

    kind: str
    repo: str
    revision: str
    file: str

    @classmethod
    def parse(cls, path: str) -> Self | None:
        if match := _FILE_URL.fullmatch(path):
            return cls("file", *map(unquote, match.group("repo", "revision", "file")))
        if match := _API_URL.fullmatch(path):
            return cls(match["kind"] or "revision", unquote(match["repo"]), unquote(match["revision"] or "main"), "")
        return None


@dataclass
class _Fault:
    name: str
    path: str | None
    times: int | None

    def strikes(self, method: str, target: _Target | Upload | None) -> bool:
        if target is None:  # nothing of a repo: it fails when the whole Hub does, and does not count
            return self.name in _ANYWHERE and self.times is None
        is_file = target.kind == "file"
        if self.times == 0 or self.name in (_OF_THE_API if is_file else _OF_FILES):
            return False
        return self.name not in _IN_BODIES or (method == "GET" and (is_file or self.path == ""))


class LoopbackHub:
    """A Hub at `url` (for HF_ENDPOINT), serving from its construction until it is closed.

    `log` has every request; one to `/api/agent-harnesses` is `huggingface_hub`'s own, once a process, even with
    `local_files_only=True` (not with HF_HUB_OFFLINE or HF_HUB_DISABLE_TELEMETRY). `cdn_log` has those of the second
    origin. `pause` is how many seconds the fault `slow` waits after each tenth of a body. `lfs` says whether safetensors that
    are uploaded go by LFS.
    """

    def __init__(self) -> None:
        self.pause = 0.05
        self.lfs = True
        self.log: list[Request] = []
        self.cdn_log: list[Request] = []
        self._repos: dict[str, _Repo] = {}
        self._blobs: dict[str, bytes] = {}
        self._faults: dict[tuple[str | None, str | None], _Fault] = {}
        self._lock = threading.Lock()
        self._servers = [_Server(self, _HubHandler), _Server(self, _CdnHandler)]
        self.url, self._cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def add(
        self, repo: str, files: dict[str, bytes], *, gated: bool = False, private: bool = False, token: str | None = None
    ) -> str:
        """Commit `files`, all that the repo then holds, on main; earlier commits stay. Returns the revision, 40 hex digits.

        Only `token` opens a private repo, or the files of a gated one: as on the Hub, a gated repo's API is open.
        """
        commit = {name: _File(name, data) for name, data in files.items()}
        revision = hashlib.sha1(repr(sorted((name, file.etag) for name, file in commit.items())).encode()).hexdigest()
        commits = self._repos.get(repo, _Repo()).commits | {revision: commit}
        self._repos[repo] = _Repo(revision, commits, gated, private, token)
        self._blobs |= {file.etag: file.data for file in commit.values()}
        return revision

    def fault(self, name: str | None, *, repo: str | None = None, path: str | None = None, times: int | None = None) -> None:
        """Fail as `name` (one of FAULTS) says, for `times` requests or until told otherwise.

        There is one fault for each (repo, path), the narrowest wins, and None ends it: without repo and path, all of them.
        `path` is a file's name in its repo, or "" for the API. Faults in bodies strike a GET of a file (of the API if `path`
        is ""): a HEAD is right and does not count. Bodies end at half of the file, so resuming meanwhile gets no further.
        """
        if name is not None and name not in FAULTS:
            raise ValueError(f"{name}: no such fault; use one of {', '.join(sorted(FAULTS))}")
        with self._lock:
            if name is not None:
                self._faults[repo, path] = _Fault(name, path, times)
            elif (repo, path) == (None, None):
                self._faults.clear()
            else:
                self._faults.pop((repo, path), None)

    def clear_log(self) -> None:
        self.log.clear()
        self.cdn_log.clear()

    def env(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The environment for a subprocess whose Hub this is: HF_* are read at import, and proxies would be asked first."""
        foreign = re.compile("HF_|HUGGING|TRANSFORMERS_|.*_PROXY$", re.IGNORECASE)
        kept = {name: value for name, value in os.environ.items() if not foreign.match(name)}
        kept |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
        return kept if token is None else kept | {"HF_TOKEN": token}

    def close(self) -> None:
        """Stop at once: whoever still waits for an answer is hung up on."""
        for server in self._servers:
            server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _strike(self, method: str, target: _Target | Upload | None) -> str | None:
        repo, path = (target.repo, target.file) if target else (None, None)
        with self._lock:
            for scope in [(repo, path), (repo, None), (None, path), (None, None)]:
                fault = self._faults.get(scope)
                if fault is not None and fault.strikes(method, target):
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault.name
        return None


class _Server(ThreadingHTTPServer):
    """One origin. It knows its connections: their threads would go on to answer after it is closed."""

    request_queue_size = 64

    def __init__(self, hub: LoopbackHub, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.hub = hub
        self.closing = threading.Event()
        self.connections: set[socket.socket] = set()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # that a client has hung up is no news
            super().handle_error(request, client_address)

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """The ways to answer, and not to."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        self.server.connections.add(self.request)
        super().setup()

    def log_message(self, *_: object) -> None: ...

    def seen(self) -> Request:
        return Request(self.command, self.path, "Authorization" in self.headers)

    def reply(self, status: int, headers: dict[str, str], body: bytes, fault: str | None = None, half: int = -1) -> None:
        self.send_response(status)
        closing = {"Connection": "close"} if self.close_connection else {}  # else it would be used for the next request
        for name, value in ({"Content-Length": str(len(body))} | closing | headers).items():
            self.send_header(name, value)
        self.end_headers()
        pieces = 10 if fault == "slow" else 1
        cut = fault in ("truncate", "reset_body", "hang_body")
        body = b"" if self.command == "HEAD" else body[: len(body) // 2 if half < 0 else half] if cut else body
        for piece in range(pieces):
            self.wfile.write(body[len(body) * piece // pieces : len(body) * (piece + 1) // pieces])
            if fault in ("slow", "reset_body"):  # a reset at once might overtake the bytes before it
                self.server.closing.wait(self.server.hub.pause)
        self.close_connection |= cut
        if fault == "hang_body":
            self.hang()
        elif fault == "reset_body":
            self.reset()

    def reply_file(self, data: bytes, headers: dict[str, str], fault: str | None = None) -> None:
        """The contents, or the range asked for."""
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"} | headers
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self.reply(200, headers, data, fault)
        elif (start := int(asked[1])) >= len(data):
            self.reply(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
        else:
            part = data[start : int(asked[2] or len(data)) + 1]
            headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
            self.reply(206, headers, part, fault, half=max(0, len(data) // 2 - start))

    def refuse(self, reason: str, commit: str | None = None) -> None:
        status, code, message = _REFUSALS[reason]
        headers = {"X-Error-Code": code, "X-Repo-Commit": commit, "Retry-After": "1" if status == 429 else None}
        sent = {"X-Error-Message": message} | {name: value for name, value in headers.items() if value}
        self.reply(status, sent, json.dumps({"error": message}).encode())

    def pour(self, headers: dict[str, str]) -> None:
        """A body that does not end."""
        self.close_connection = True
        self.send_response(200)
        for name, value in (headers | {"Connection": "close"}).items():
            self.send_header(name, value)
        self.end_headers()
        while not self.server.closing.is_set():
            self.wfile.write(bytes(1 << 16))

    def hang(self) -> None:
        self.close_connection = True
        self.server.closing.wait()

    def reset(self) -> None:
        """Close with an RST instead of the FIN of an orderly end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # it holds the socket open
        self.connection.close()


class _CdnHandler(_Handler):
    """Where `redirect_elsewhere` sends: contents by ETag, for whoever has the URL."""

    def do_GET(self) -> None:
        self.server.hub.cdn_log.append(self.seen())
        data = self.server.hub._blobs.get(self.path[1:])
        self.refuse("404") if data is None else self.reply_file(data, {})

    do_HEAD = do_GET  # noqa: N815


class _HubHandler(UploadHandler, _Handler):
    """The Hub's API of models, and their files."""

    def do_GET(self) -> None:
        self.server.hub.log.append(self.seen())
        path, body = urlsplit(self.path).path, self.read_body()
        target = _Target.parse(path) if self.command in ("GET", "HEAD") else Upload.parse(path, body)
        fault = self.server.hub._strike(self.command, target)
        if fault == "hang":
            self.hang()
        elif fault == "reset":
            self.reset()
        elif fault == "html":
            self.reply(200, {"Content-Type": "text/html"}, _HTML)
        elif target is None or fault in _REFUSALS:
            self.refuse(fault or "404")
        elif isinstance(target, Upload):
            self.receive(target)
        else:
            self.answer(target, self.server.hub._repos.get(target.repo), fault)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def answer(self, target: _Target, repo: _Repo | None, fault: str | None) -> None:
        """Under `fault`, what the Hub would say of a repo to someone with this request's token."""
        if repo is None:
            self.refuse("404_repo")
            return
        allowed = repo.token is not None and self.headers.get("Authorization") == f"Bearer {repo.token}"
        revision = repo.main if target.revision == "main" else target.revision
        commit = repo.commits.get(revision)
        if repo.private and not allowed:
            self.refuse("401_repo")
        elif commit is None:
            self.refuse("404_rev")
        elif target.kind != "file":
            about: object = [{"type": "file", "path": name, **file.about} for name, file in commit.items()]
            if target.kind == "revision":
                sizes = "blobs=" in self.path and fault != "names_only"
                siblings = [{"rfilename": name} | (file.about if sizes else {}) for name, file in commit.items()]
                access = {"private": repo.private, "gated": "manual" if repo.gated else False}
                about = {"id": target.repo, "sha": revision, "siblings": siblings} | access
            body = json.dumps(about).encode()
            body = body[: len(body) // 2] if fault == "half_json" else body
            self.reply(200, {"Content-Type": "application/json"}, body, fault)
        elif repo.gated and not allowed:
            self.refuse("403_gated", revision)
        elif target.file not in commit:
            self.refuse("404_entry", revision)
        else:
            self.send(commit[target.file], revision, fault)

    def send(self, file: _File, revision: str, fault: str | None) -> None:
        headers = {} if fault == "no_commit" else {"X-Repo-Commit": revision}
        headers |= {} if fault == "no_etag" else file.headers
        if fault == "redirect_elsewhere":
            self.reply(302, headers | file.linked | {"Location": f"{self.server.hub._cdn_url}/{file.etag}"}, b"")
            return
        if fault == "endless":
            self.pour(headers)
            return
        data = file.data.translate(_INVERTED) if fault == "wrong_bytes" else file.data
        self.reply_file(data[: len(data) // 2] if fault == "short" else data, headers, fault)
