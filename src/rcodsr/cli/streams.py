"""Standard output and standard error.

stdout carries only results. Errors are single unwrapped lines: file names are not broken, control characters are escaped,
and nothing is interpreted as markup.
"""

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rcodsr.errors import OutputError

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))}
"""Control characters, and characters that break a line or change its direction."""
_ESCAPES |= {code: f"\\u{code:04x}" for code in (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))}


shown_bar: Any = None
"""The bar shown on the terminal. Lines are printed above it."""


def harmless(text: str) -> str:
    """Escape control characters and undecodable bytes, so that a text cannot affect the terminal."""
    return text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode()


def error_line(text: object) -> None:
    """Print `rcodsr: <text>` as one line on standard error."""
    note(f"rcodsr: {text}")


def note(text: str) -> None:
    """Print one plain line on standard error."""
    if sys.stderr is None:
        return
    encoding = sys.stderr.encoding or "utf-8"
    line = harmless(text)
    if shown_bar is not None:
        shown_bar.console.out(line, highlight=False)
        return
    with suppress(OSError, ValueError):  # the reader has gone, or its disk is full; the work continues
        sys.stderr.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stderr.flush()


_NATIVE = 2
"""Descriptor of standard error, to which C libraries write."""


@contextmanager
def last_words() -> Iterator[None]:
    """Show messages of libraries while they load, even if they are silenced: MKL and OpenMP may end the process."""
    try:
        before = os.dup(_NATIVE)
        os.dup2(sys.stderr.fileno(), _NATIVE)
    except (OSError, ValueError, AttributeError):  # no standard error, or not a file
        yield
        return
    try:
        yield
    finally:
        os.dup2(before, _NATIVE)
        os.close(before)


def keep_libraries_quiet() -> None:
    """Silence C libraries (above all libtiff). Python keeps the real standard error."""
    if sys.stderr is None:
        return
    with suppress(OSError, ValueError, AttributeError):
        real, nowhere = os.dup(sys.stderr.fileno()), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)
        sys.stderr = open(real, "w", encoding=sys.stderr.encoding, errors="backslashreplace", buffering=1)  # noqa: SIM115,PTH123


class _ResultsOnly(io.TextIOWrapper):
    """Standard output that drops text. Results are written to its `buffer`."""

    def write(self, text: str) -> int:
        """Drop the text."""
        return len(text)


@contextmanager
def results_only() -> Iterator[None]:
    """Keep the output of a library that prints (Ray reports lost machines on standard output) out of the results."""
    real = sys.stdout
    if real is None:
        yield
        return
    sys.stdout = quiet = _ResultsOnly(real.buffer, real.encoding)
    try:
        yield
    finally:
        sys.stdout = real
        quiet.detach()  # otherwise it would close the real one's buffer


def result_line(text: str, end: str = "\n") -> None:
    """Print one result on standard output. A path keeps its bytes, except on a terminal.

    If the reader has gone (`| head -1`) or standard output is closed (`>&-`), the work continues silently.

    Raises:
        OutputError: when standard output is a file on a full disk.
    """
    if sys.stdout is None:
        return
    try:
        shown = harmless(text) if sys.stdout.isatty() else text
        sys.stdout.buffer.write(shown.encode("utf-8", "surrogateescape") + end.encode())
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # otherwise the interpreter reports the error again at exit
        raise OutputError("standard output", f"cannot be written ({error.strerror})", "free some space") from error


def json_line(values: dict[str, Any]) -> None:
    """Print one JSON object on standard output."""
    result_line(json.dumps(values, ensure_ascii=True))
