"""Worker threads that run tasks in order of submission."""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class Later(Generic[T]):
    """The pending return value of a task, for one consumer. Tasks do not raise.

    Not a `Future`, whose lock a signal's exception could leave held for ever. No Python code runs under a lock here.
    """

    def __init__(self) -> None:
        self._box: SimpleQueue[T] = SimpleQueue()

    def put(self, value: T) -> None:
        """Store the return value."""
        self._box.put(value)

    def take(self) -> T:
        """Wait for the value and return it."""
        return self._box.get()

    @property
    def ready(self) -> bool:
        """Whether `take` would not wait."""
        return not self._box.empty()


class Workers:
    """Threads that start tasks in order of submission. With several threads, tasks may finish in any order.

    Args:
        count: number of threads. 0 runs each task at once in the caller's thread.
    """

    def __init__(self, count: int) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [Thread(target=self._work, name="rcodsr", daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Callable[[], T]) -> Later[T]:
        """Queue a task."""
        later: Later[T] = Later()
        if self._threads:
            self._tasks.put(lambda: later.put(task()))
        else:
            later.put(task())
        return later

    def end(self) -> None:
        """Stop the threads once the queue is empty. To cancel, make the remaining tasks return immediately."""
        for _ in self._threads:
            self._tasks.put(None)

    def join(self, deadline: float) -> None:
        """Wait for the threads until `time.monotonic()` reaches `deadline`. Longer tasks end with the process."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        import torch

        torch.set_num_threads(1)  # for this thread only: the other cores are the engine's
        while (task := self._tasks.get()) is not None:
            task()
            del task
