"""SIGINT and SIGTERM: stop at a safe point and report it. Imports nothing heavy, so that it can be installed first."""

import signal
from types import FrameType


class Stopped(BaseException):
    """Raised when SIGINT or SIGTERM arrives.

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
    """Ignore signals after the work is done, so that they cannot disturb the exit."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def check() -> None:
    """Raise `Stopped` again if a signal's exception was lost, for example in a destructor."""
    if _arrived:
        raise Stopped(_arrived[0])


def _stop(number: int, frame: FrameType | None) -> None:
    _arrived.append(number)
    raise Stopped(number)
