"""A terminal of a given width, as a person has one."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

fcntl = pytest.importorskip("fcntl")
pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")


def on_a_terminal(
    columns: int, directory: Path, *arguments: str, program: tuple[str, ...] = ("-m", "rcodsr")
) -> tuple[int, str]:
    """Run `rcodsr ...` with both streams on one terminal: exit code, and everything that was sent to it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    environment.pop("COLUMNS", None)
    command = [sys.executable, *program, *arguments]
    process = subprocess.Popen(command, cwd=directory, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    while True:
        try:
            block = os.read(ours, 1 << 16)
        except OSError:  # Linux says so when the last process has gone
            break
        if not block:
            break
        said += block
    os.close(ours)
    return process.wait(120), said.decode()
