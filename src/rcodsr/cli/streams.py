"""What goes to standard output and standard error, and how.

stdout carries results only. Errors are single unwrapped lines: file names in them stay whole, control characters are escaped,
and nothing is interpreted as markup.
"""

import io
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rcodsr.errors import OutputError

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))}
"""Control characters, and those that break a line or turn its direction."""
_ESCAPES |= {code: f"\\u{code:04x}" for code in (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))}


_shown_bar: Any = None
"""The bar that is on the terminal; lines go above it."""


def error_line(text: object) -> None:
    """One line `rcodsr: <text>` on standard error."""
    note(f"rcodsr: {text}")


def note(text: str) -> None:
    """One plain line on standard error."""
    if sys.stderr is None:
        return
    encoding = sys.stderr.encoding or "utf-8"
    line = text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode()
    if _shown_bar is not None:
        _shown_bar.console.out(line, highlight=False)
        return
    with suppress(OSError, ValueError):  # nobody reads it, or its disk is full; the work goes on
        sys.stderr.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stderr.flush()


def keep_libraries_quiet() -> None:
    """Let C libraries (libtiff above all) talk to nobody; Python keeps the real standard error."""
    if sys.stderr is None:
        return
    with suppress(OSError, ValueError, AttributeError):
        real, nowhere = os.dup(sys.stderr.fileno()), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)
        sys.stderr = open(real, "w", encoding=sys.stderr.encoding, errors="backslashreplace", buffering=1)  # noqa: SIM115,PTH123


class _ResultsOnly(io.TextIOWrapper):
    """Standard output whose text goes nowhere; results are written to its `buffer`."""

    def write(self, text: str) -> int:
        """Drop it."""
        return len(text)


@contextmanager
def results_only() -> Iterator[None]:
    """Keep a library that prints (Ray tells of lost machines on standard output) away from the results."""
    real = sys.stdout
    if real is None:
        yield
        return
    sys.stdout = quiet = _ResultsOnly(real.buffer, real.encoding)
    try:
        yield
    finally:
        sys.stdout = real
        quiet.detach()  # or it would close the real one's buffer


def result_line(text: str, end: str = "\n") -> None:
    """One result on standard output; a path keeps its bytes.

    When the reader has gone (`| head -1`), or nobody listens (`>&-`), the work goes on in silence.

    Raises:
        OutputError: when standard output is a file on a full disk.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + end.encode())
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains again at exit
        raise OutputError("standard output", f"cannot be written ({error.strerror})", "free some space") from error


def json_line(values: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    result_line(json.dumps(values, ensure_ascii=True))


class Progress:
    """How far a batch is: a bar on a terminal, a plain line per picture elsewhere, nothing when quiet.

    Args:
        total: number of pictures; None where nobody knows.
        quiet: show errors only.
        bar: draw a bar if standard error is a terminal.
    """

    def __init__(self, total: int | None, quiet: bool, bar: bool = True) -> None:
        self.total, self.quiet = total, quiet
        self.done = 0
        self.started = time.monotonic()
        self._bar: Any = None
        if bar and not quiet and total is not None and total > 1 and sys.stderr.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task("", total=total)
            _show(self._bar)

    def result(self, text: str, end: str = "\n") -> None:
        """One result on standard output, above the bar where both share the terminal."""
        if self._bar is not None and sys.stdout.isatty():
            self._bar.console.out(text, highlight=False)
        else:
            result_line(text, end)

    def advance(self, name: str, line: str) -> None:
        """One picture is finished; `line` says what became of it."""
        self.done += 1
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=name)
        elif self.quiet:
            return
        elif self.total is None:
            note(f"[{self.done}] {line}")
        else:
            eta = (time.monotonic() - self.started) / self.done * (self.total - self.done)
            note(f"[{self.done}/{self.total}] {line}" + (f"  eta {eta:.0f}s" if self.done < self.total else ""))

    def failed(self, text: str) -> None:
        """One picture failed; always shown."""
        self.done += 1
        if self._bar is not None:
            self._bar.update(self._task, advance=1)
        error_line(text)

    def close(self) -> None:
        """Remove the bar."""
        _remove(self._bar)


class StepBar:
    """How far a training run is: a bar below its log lines on a terminal, nothing elsewhere.

    Args:
        total: steps of the run.
    """

    def __init__(self, total: int) -> None:
        self._bar = _bar() if sys.stderr.isatty() else None
        if self._bar is not None:
            self._task = self._bar.add_task("", total=total)
            _show(self._bar)

    def log(self, text: str) -> None:
        """A line above the bar."""
        note(text)

    def reach(self, step: int, loss: float) -> None:
        """So many steps are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=f"loss {loss:.4g}")

    def close(self) -> None:
        """Remove the bar."""
        _remove(self._bar)


def _show(bar: Any) -> None:
    global _shown_bar
    _shown_bar = bar
    bar.start()


def _remove(bar: Any) -> None:
    global _shown_bar
    if bar is not None:
        _shown_bar = None
        bar.stop()


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description}", markup=False)
    columns = (BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(compact=True), text)
    return Progress(*columns, console=Console(stderr=True), transient=True)
