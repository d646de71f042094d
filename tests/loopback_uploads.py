"""What a loopback Hub answers to uploads: the requests of `create_repo` and `upload_folder` of huggingface_hub.

A repository belongs to the token that creates it. Safetensors go by LFS (set HF_HUB_DISABLE_XET=1 for the client: Xet's
storage is not imitated), or, with `hub.lfs` off, inside the commit like all small files.
"""

import base64
import hashlib
import json
import re
from typing import Any, NamedTuple
from urllib.parse import unquote

_REPO = "(?P<repo>[^/]+/[^/]+)"
_URLS = {
    "create": re.compile("/api/repos/create"),
    "card": re.compile("/api/validate-yaml"),
    "preupload": re.compile(f"/api/models/{_REPO}/preupload/main"),
    "commit": re.compile(f"/api/models/{_REPO}/commit/main"),
    "batch": re.compile(rf"/{_REPO}\.git/info/lfs/objects/batch"),
    "lfs": re.compile("/lfs/(?P<sha256>[0-9a-f]{64})"),
}


class Upload(NamedTuple):
    """One request of an upload; `file` is "", as for everything of the API.

    Where no repository is named, `repo` is the kind, so that faults can be aimed: "card" or "lfs".
    """

    kind: str
    repo: str
    body: bytes
    sha256: str = ""
    file: str = ""

    @classmethod
    def parse(cls, path: str, body: bytes) -> "Upload | None":
        for kind, url in _URLS.items():
            if match := url.fullmatch(path):
                found = match.groupdict()
                repo = "{organization}/{name}".format(**json.loads(body)) if kind == "create" else found.get("repo", kind)
                return cls(kind, unquote(repo), body, found.get("sha256", ""))
        return None


class UploadHandler:
    """Mixed into the Hub's handler; `reply`, `refuse` and `server.hub` are its."""

    def read_body(self: Any) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def receive(self: Any, upload: Upload) -> None:
        hub = self.server.hub
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        repo = hub._repos.get(upload.repo)
        if upload.kind == "lfs":  # its URL is the permission
            fits = hashlib.sha256(upload.body).hexdigest() == upload.sha256
            hub._blobs |= {upload.sha256: upload.body} if fits else {}
            self.answer_json({}, 200 if fits else 400)
        elif not token:
            self.refuse("401")
        elif upload.kind == "card":
            self.answer_json({})
        elif upload.kind == "create":
            about = {"url": f"{hub.url}/{upload.repo}"}
            if repo is None:
                private = json.loads(upload.body).get("visibility") == "private"
                hub.add(upload.repo, {".gitattributes": b""}, private=private, token=token)
            self.answer_json(about, 200 if repo is None else 409)
        elif repo is None:
            self.refuse("404_repo")
        elif token != repo.token:
            self.refuse("403")
        else:
            self.answer_json(getattr(self, upload.kind)(upload, repo))

    def preupload(self: Any, upload: Upload, repo: Any) -> object:
        names = [file["path"] for file in json.loads(upload.body)["files"]]
        modes = {True: "lfs", False: "regular"}
        return {
            "files": [
                {
                    "path": name,
                    "shouldIgnore": False,
                    "uploadMode": modes[self.server.hub.lfs and name.endswith(".safetensors")],
                }
                for name in names
            ]
        }

    def batch(self: Any, upload: Upload, repo: Any) -> object:
        hub = self.server.hub
        wanted = json.loads(upload.body)["objects"]
        missing = [about["oid"] for about in wanted if about["oid"] not in hub._blobs]
        actions = {oid: {"actions": {"upload": {"href": f"{hub.url}/lfs/{oid}"}}} for oid in missing}
        return {"objects": [about | actions.get(about["oid"], {}) for about in wanted]}

    def commit(self: Any, upload: Upload, repo: Any) -> object:
        hub = self.server.hub
        files = {name: file.data for name, file in repo.commits[repo.main].items()}
        for line in upload.body.splitlines():
            key, value = (item := json.loads(line))["key"], item["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = hub._blobs[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        revision = hub.add(upload.repo, files, gated=repo.gated, private=repo.private, token=repo.token)
        return {"commitUrl": f"{hub.url}/{upload.repo}/commit/{revision}", "commitOid": revision}

    def answer_json(self: Any, values: object, status: int = 200) -> None:
        self.reply(status, {"Content-Type": "application/json"}, json.dumps(values).encode())
