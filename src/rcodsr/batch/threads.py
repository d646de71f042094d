"""Threads that carry out tasks in the order they are given."""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class Later(Generic[T]):
    """What a task will return, for one taker. Tasks do not raise.

    Not a `Future`, whose lock a signal's exception could leave taken for ever: nothing here runs Python code under a lock.
    """

    def __init__(self) -> None:
        self._box: SimpleQueue[T] = SimpleQueue()

    def put(self, value: T) -> None:
        """The task has returned."""
        self._box.put(value)

    def take(self) -> T:
        """Wait for it."""
        return self._box.get()

    @property
    def ready(self) -> bool:
        """Whether `take` would not wait."""
        return not self._box.empty()


class Workers:
    """Threads that carry out tasks in the order they are given; several of them finish in any order.

    Args:
        count: number of threads; 0 carries out each task at once, in the caller's own thread.
    """

    def __init__(self, count: int) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [Thread(target=self._work, name="rcodsr", daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Callable[[], T]) -> Later[T]:
        """Have a task carried out."""
        later: Later[T] = Later()
        if self._threads:
            self._tasks.put(lambda: later.put(task()))
        else:
            later.put(task())
        return later

    def end(self) -> None:
        """Let the threads end when all tasks are carried out; whoever wants them dropped lets them return at once."""
        for _ in self._threads:
            self._tasks.put(None)

    def join(self, deadline: float) -> None:
        """Wait for the threads until `time.monotonic()` says so; what takes longer ends with the process."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        import torch

        torch.set_num_threads(1)  # of this thread: the others are the engine's
        while (task := self._tasks.get()) is not None:
            task()
            del task
