"""Progress of a batch or a training run: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from rcodsr.cli import streams
from rcodsr.cli.streams import error_line, harmless, note, result_line

_SELDOM = 10.0
"""Minimum seconds between two plain lines about one picture."""
_NARROW = 60
"""Terminal width in columns below which the bar is short, so that a name has room."""


class Progress:
    """Progress of a batch, by the tiles of the pictures in progress.

    Args:
        total: number of pictures. None if unknown.
        quiet: show errors only.
        bar: draw a bar if standard error is a terminal.
    """

    def __init__(self, total: int | None, quiet: bool, bar: bool = True) -> None:
        self.total, self.quiet = total, quiet
        self.done = 0
        self.started = self._told = time.monotonic()
        self._parts: dict[str, float] = {}
        """Finished share of each picture in progress."""
        self._bar: Any = None
        if bar and not quiet and total and sys.stderr.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task("", total=total, count="" if total == 1 else f"0/{total}")
            _show(self._bar)

    def tile(self, name: str, done: int, total: int) -> None:
        """Report that `done` of `total` tiles of a picture are finished."""
        self._parts[name] = done / total
        if self._bar is not None:
            count = f"{done}/{total} tiles" if self.total == 1 else f"{self.done}/{self.total}"
            self._bar.update(self._task, completed=self._completed, description=harmless(name), count=count)
        elif not self.quiet and 0 < done < total and time.monotonic() - self._told >= _SELDOM:
            note(f"[{self._number(self.done + 1)}] {name}  {done}/{total} tiles{self._eta()}")
            self._told = time.monotonic()

    def result(self, text: str, end: str = "\n") -> None:
        """Print one result on standard output, above the bar if both share the terminal."""
        if self._bar is not None and sys.stdout.isatty():
            self._bar.console.out(harmless(text), highlight=False)
        else:
            result_line(text, end)

    def advance(self, name: str, line: str) -> None:
        """Count one finished picture. `line` describes its result."""
        self._finish(name)
        if line and not self.quiet:
            note(f"[{self._number(self.done)}] {line}" + ("" if self._bar is not None else self._eta()))
            self._told = time.monotonic()

    def failed(self, name: str, text: str) -> None:
        """Count one failed picture. Its message is always shown."""
        self._finish(name)
        error_line(text)

    def close(self) -> None:
        """Remove the bar."""
        _remove(self._bar)

    @property
    def _completed(self) -> float:
        return self.done + sum(self._parts.values())

    def _finish(self, name: str) -> None:
        self._parts.pop(name, None)
        self.done += 1
        if self._bar is not None:
            count = "" if self.total == 1 else f"{self.done}/{self.total}"
            self._bar.update(self._task, completed=self._completed, count=count)

    def _number(self, number: int) -> str:
        return f"{number}" if self.total is None else f"{number}/{self.total}"

    def _eta(self) -> str:
        if self.total is None or self._completed >= self.total or not self._completed:
            return ""
        eta = (time.monotonic() - self.started) / self._completed * (self.total - self._completed)
        return f"  eta {eta:.0f}s" if eta >= 0.5 else ""


class StepBar:
    """Progress of a training run: a bar below its log lines on a terminal, nothing elsewhere.

    Args:
        total: number of steps of the run.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._bar = _bar() if sys.stderr.isatty() else None
        if self._bar is not None:
            self._task = self._bar.add_task("", total=total, count=f"0/{total}")
            _show(self._bar)

    def log(self, text: str) -> None:
        """Print a line above the bar."""
        note(text)

    def reach(self, step: int, loss: float) -> None:
        """Report that `step` steps are done."""
        if self._bar is not None:
            count = f"{step}/{self._total}"
            self._bar.update(self._task, completed=step, description=f"loss {loss:.4g}", count=count)

    def close(self) -> None:
        """Remove the bar."""
        _remove(self._bar)


def _show(bar: Any) -> None:
    streams.shown_bar = bar
    bar.start()


def _remove(bar: Any) -> None:
    if bar is not None:
        streams.shown_bar = None
        bar.stop()


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    console = Console(stderr=True)
    count = TextColumn("{task.fields[count]}", markup=False, table_column=Column(no_wrap=True))
    left = TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True))
    # takes the rest of the line, so that it is truncated first
    name = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    bar = BarColumn(10 if console.width < _NARROW else 24)
    return Progress(bar, count, left, name, console=console, transient=True, expand=True)
