"""SIGINT and SIGTERM: stop where it is safe, and say so. Imports nothing heavy, so that it can be installed first of all."""

import signal
from types import FrameType


class Stopped(BaseException):
    """SIGINT or SIGTERM arrived.

    Not a KeyboardInterrupt, which Typer would swallow.
    """

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__()


_arrived: list[int] = []


def install() -> None:
    """Raise `Stopped` in the main thread when a signal arrives."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def ignore() -> None:
    """The work is over; a signal must not disturb the way out."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def check() -> None:
    """Raise `Stopped` for a signal whose exception got lost, for example in a destructor."""
    if _arrived:
        raise Stopped(_arrived[0])


def _stop(number: int, frame: FrameType | None) -> None:
    _arrived.append(number)
    raise Stopped(number)
