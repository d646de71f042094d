"""Processes that ask a loopback Hub for weights: huggingface_hub reads HF_* at import, so each home needs its own."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rcodsr.checkpoints.manifest import read_manifest
from tests.loopback_hub import LoopbackHub

CANARY = "hf_canaryThatMustNotBeSeen"
"""The token of every client."""

_OURS = """
import json, resource, sys
from dataclasses import asdict
from rcodsr.checkpoints import hub, resolve
from rcodsr.errors import RcodsrError

function, patience, largest_file, arguments = json.loads(sys.argv[1])
hub.PATIENCE = patience or hub.PATIENCE
if largest_file:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
log = []
try:
    found = getattr(resolve, function)(**arguments, log=log.append)
    answer = {"id": found.id, "source": found.source, "directory": str(found.directory)}
except RcodsrError as error:
    answer = {"error": str(error), "exit_code": error.exit_code}
assert "torch" not in sys.modules
print(json.dumps(answer | {"log": log}))
"""

_ANOTHER = """
import json, sys, huggingface_hub
function, arguments = json.loads(sys.argv[1])
getattr(huggingface_hub, function)(**arguments)
"""


@dataclass(frozen=True)
class Answer:
    """What the resolver found or said, and how long the whole process took."""

    id: str = ""
    source: str = ""
    directory: str = ""
    error: str = ""
    exit_code: int = 0
    log: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def files(self) -> dict[str, bytes]:
        """All files of the directory."""
        root = Path(self.directory)
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def fails_with(self, *words: str) -> None:
        """Exactly one line with cause and remedy, soon, and the exit code of weights."""
        assert self.exit_code == 3, self
        assert "\n" not in self.error and "; " in self.error and "Error" not in self.error
        assert self.seconds <= 15
        for word in words:
            assert word in self.error


class Client:
    """Someone with a cache of their own.

    Args:
        hub: which Hub they ask.
        home: their HF_HOME.
        variables: further environment.
    """

    def __init__(self, hub: LoopbackHub, home: Path, **variables: str) -> None:
        self.hub, self.home = hub, home
        self.environment = hub.env(home, CANARY) | variables

    def start(
        self, function: str, patience: float | None = None, largest_file: int | None = None, **arguments: Any
    ) -> subprocess.Popen[str]:
        """Run a function of `checkpoints.resolve` in a process."""
        command = [sys.executable, "-c", _OURS, json.dumps([function, patience, largest_file, arguments])]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="strict"
        )

    def finish(self, process: subprocess.Popen[str]) -> Answer:
        """What it answers; no traceback, nothing on standard error, no token."""
        started = time.monotonic()
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr) == (0, "")
        assert CANARY not in stdout
        return Answer(**json.loads(stdout), seconds=time.monotonic() - started)

    def resolve(self, weights: str, **arguments: Any) -> Answer:
        """`resolve`, with a fresh log of requests."""
        self.hub.clear_log()
        return self.finish(self.start("resolve", weights=weights, **arguments))

    def resolve_base(self, name: str, **arguments: Any) -> Answer:
        """`resolve_base`, with a fresh log of requests."""
        self.hub.clear_log()
        return self.finish(self.start("resolve_base", name=name, **arguments))

    def another_program(self, function: str, **arguments: Any) -> None:
        """A function of huggingface_hub, as another program with the same cache would call it."""
        command = [sys.executable, "-c", _ANOTHER, json.dumps([function, arguments])]
        subprocess.run(command, env=self.environment, capture_output=True, check=True, timeout=60)

    def runs(self, code: str) -> None:
        """A program of theirs, which must succeed and say nothing."""
        done = subprocess.run([sys.executable, "-c", code], env=self.environment, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def keeps_the_token_secret(self) -> None:
        """No file of this home holds it, and no second origin was sent it."""
        if self.home.is_dir():
            assert not [path for path in self.home.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
        assert not [request for request in self.hub.cdn_log if request.has_auth]


def contents(directory: Path) -> dict[str, bytes]:
    """What a repository holds when a checkpoint directory is uploaded."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def repositories(base: str) -> list[str]:
    """Where the manifest looks for a base."""
    return [source.repo for source in read_manifest()[base].sources]
