"""Parts of messages for the user, and the log that receives them."""

from collections.abc import Callable, Iterable

Log = Callable[[str], None]
"""Receives one line at a time."""


def silent(line: str) -> None:
    """A log that drops every line."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text that is not blank, or its class name. At most 160 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:160]


def size_text(count: float) -> str:
    """A number of bytes with at least two significant digits, such as 520 kB, 3.4 MB, 866 MB or 1.7 GB."""
    unit, divisor = ("GB", 1e9) if count >= 1e9 else ("MB", 1e6) if count >= 1e6 else ("kB", 1e3)
    value = count / divisor
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to a misspelt one. None if none is close."""
    import difflib  # only errors need it, and every command imports this file

    return next(iter(difflib.get_close_matches(name, list(known), 1)), None)
