"""Run the steps of `gpu_steps.py`, each within its own time limit: called by gpu_check.sh, which sets up the environment.

The steps share one child process, and thus imports and weights. A step that fails, times out or dies ends the process, because
a GPU error may outlive its cause; a new process runs the remaining steps.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_steps import STEPS

_START = 90.0
"""Seconds for a child's imports."""
_NO_GPU = 4
"""Exit code without a GPU."""


class Child:
    """A process that runs steps and prints a line of JSON when it is ready and after each of them."""

    def __init__(self, options: list[str], steps: list[str], log: Path) -> None:
        command = [sys.executable, str(Path(__file__).with_name("gpu_steps.py")), *options, *steps]
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True, start_new_session=True
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def next(self, seconds: float) -> dict[str, Any]:
        """Return the child's next line; `exit_code` is 124 after a timeout, the child's own when it dies."""
        try:
            line = self._lines.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return {"exit_code": 124, "ended": True, "error": f"ran over {seconds:.0f} s"}
        if line:
            return dict(json.loads(line))
        return {"exit_code": self.process.wait() or 1, "ended": True, "error": "the process died; see log.txt"}

    def end(self) -> None:
        """Kill the child and its descendants."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def run(out: Path, options: list[str], left: list[str], seconds: float, patience: float) -> int:
    """Run steps within `seconds`, each within `patience` times its limit.

    Returns:
        0 when every step succeeded, 4 without a GPU, otherwise 1.
    """
    deadline, well = time.monotonic() + seconds, True
    with (out / "steps.jsonl").open("w") as record:

        def note(name: str, result: dict[str, Any], started: float) -> None:
            nonlocal well
            well &= result["exit_code"] == 0
            line = {"step": name, "exit_code": result.pop("exit_code"), "seconds": round(time.monotonic() - started, 1)}
            record.write(json.dumps(line | result) + "\n")
            record.flush()
            print(json.dumps(line | result), flush=True)

        while left:
            started = time.monotonic()
            child = Child(options, left, out / "log.txt")
            ready = child.next(min(_START, deadline - started))
            if ready.get("exit_code") == _NO_GPU:
                print(f"error: {ready['error']}", file=sys.stderr)
                return _NO_GPU
            if "exit_code" in ready:  # nothing can run, so the remaining steps are skipped
                note("start", ready, started)
                left = []
            while left:
                name, started = left.pop(0), time.monotonic()
                result = child.next(min(patience * STEPS[name].limit, deadline - started))
                ended = result.pop("ended", False)
                note(name, result, started)
                if deadline <= time.monotonic():
                    left = []
                if ended:
                    break
            child.end()
    return 0 if well else 1


def _steps(text: str) -> list[str]:
    """Parse names of steps, in their defined order."""
    unknown = set(text.split(",")) - STEPS.keys()
    if unknown:
        raise argparse.ArgumentTypeError(f"'{min(unknown)}' is not a step; choose from {', '.join(STEPS)}")
    return [name for name in STEPS if name in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="no weights, no GPU: shapes and options only")
    parser.add_argument("--only", type=_steps, default=list(STEPS), metavar="STEP,STEP", help="some of " + ", ".join(STEPS))
    parser.add_argument("--seconds", type=float, help="for all steps; 150 by default, 180 in a rehearsal")
    chosen = parser.parse_args()
    tiny = os.environ.get("TINY") == "1"
    if tiny or chosen.dry_run:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        chosen.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"error: {chosen.out}: cannot be created ({error.strerror}); choose another place", file=sys.stderr)
        return 7
    for name in ("log.txt", "speed.jsonl", "tests.txt"):
        (chosen.out / name).unlink(missing_ok=True)
    options = ["--out", str(chosen.out.resolve()), *(["--tiny"] if tiny else []), *(["--dry-run"] if chosen.dry_run else [])]
    patience = 4 if tiny or chosen.dry_run else 1  # time limits are for GPUs
    return run(chosen.out, options, chosen.only, chosen.seconds or (150 if patience == 1 else 180), patience)


if __name__ == "__main__":
    sys.exit(main())
