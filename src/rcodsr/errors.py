"""Exceptions that rcodsr raises on purpose, with their exit codes.

RcodsrError                1   something failed; the message names the file and the remedy
├── InputError             1   one input picture cannot be read or is refused
├── ModelOutputError       1   the model produced NaN or a blank picture
├── WorkerError            1   a worker of a training run or a batch was killed
├── UsageError             2   the request contradicts itself or the checkpoint
├── WeightsError           3   weights are unknown, unavailable or damaged
│   └── HubError           3   the Hub itself cannot be reached or does not answer
├── DeviceError            4   the requested device or dtype is not available
├── TileMemoryError        5   out of memory at the smallest tile
├── NoInputError           6   nothing to do: no input pictures
└── OutputError            7   an output cannot be written
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class RcodsrError(Exception):
    """Base of all errors, shown as one line `<subject>: <cause>; <remedy>`.

    Args:
        subject: the subject, usually a file name as the user wrote it.
        cause: what happened, in plain words.
        remedy: what the user can do about it. May be empty.
    """

    exit_code = 1

    def __init__(self, subject: object, cause: str, remedy: str = "") -> None:
        self.subject = str(subject)
        self.cause = cause
        self.remedy = remedy
        super().__init__(f"{subject}: {cause}; {remedy}" if remedy else f"{subject}: {cause}")

    def __reduce__(self) -> tuple[type["RcodsrError"], tuple[str, str, str]]:
        """Pickle the arguments for transfer between processes. By default only the message would be restored."""
        return type(self), (self.subject, self.cause, self.remedy)


class InputError(RcodsrError):
    """One input cannot be read or is refused. Other inputs are not affected."""


class ModelOutputError(RcodsrError):
    """The model's output is not a picture (NaN). Nothing is saved."""


class WorkerError(RcodsrError):
    """A data worker of a training run, or a process of a batch, was killed, usually for lack of memory."""


class UsageError(RcodsrError):
    """The request contradicts itself or the chosen weights."""

    exit_code = 2


class WeightsError(RcodsrError):
    """Weights are unknown, unavailable, or do not pass verification."""

    exit_code = 3


class HubError(WeightsError):
    """The Hub itself cannot be reached or does not answer. Its other repositories would fail the same way."""


class DeviceError(RcodsrError):
    """The requested device or dtype is not available here."""

    exit_code = 4


class TileMemoryError(RcodsrError):
    """Out of memory even at the smallest tile."""

    exit_code = 5


class NoInputError(RcodsrError):
    """No input pictures were found."""

    exit_code = 6


class OutputError(RcodsrError):
    """An output cannot be written (full, read-only, not a folder).

    Args:
        subject: the output.
        cause: what happened.
        remedy: what to do about it.
        lasting: whether any other output would fail too. False for a name too long, or a folder of that name.
    """

    exit_code = 7

    def __init__(self, subject: object, cause: str, remedy: str = "", *, lasting: bool = True) -> None:
        super().__init__(subject, cause, remedy)
        self.lasting = lasting


_MEMORY = (
    "DefaultCPUAllocator",
    "out of memory",
    "ALLOC_FAILED",
    "HOST_ALLOCATION_FAILED",
    "could not create a primitive",
    "can't start new thread",
    "failed to map segment",
    "annot allocate memory",
)
"""Parts of the messages of torch's allocators, CUDA, cuBLAS, cuDNN, oneDNN, Python and the loader when memory runs out."""


def tells_of_memory(error: BaseException) -> bool:
    """Whether an error means that an allocation failed."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _MEMORY)


@contextmanager
def naming(origins: Mapping[str, str]) -> Iterator[None]:
    """Context in which errors name the origin of a value: `origins` maps subjects to the names to use instead."""
    try:
        yield
    except RcodsrError as error:
        if error.subject not in origins:
            raise
        raise type(error)(origins[error.subject], error.cause, error.remedy) from error


_OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]+|-[ra]\b)")
_SHORT = {"-r": "realism", "-a": "adaptive"}


@contextmanager
def in_python() -> Iterator[None]:
    """Context in which errors name parameters, not options: `--realism-map` becomes `realism_map`, `-a` becomes `adaptive`."""
    try:
        yield
    except RcodsrError as error:
        subject = _OPTION.sub(_parameter, error.subject) if _OPTION.fullmatch(error.subject) else error.subject  # or a file
        raise type(error)(subject, *(_OPTION.sub(_parameter, text) for text in (error.cause, error.remedy))) from error


def _parameter(option: re.Match[str]) -> str:
    return _SHORT.get(option[1]) or option[1].removeprefix("--").replace("-", "_")
