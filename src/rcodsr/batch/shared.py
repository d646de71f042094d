"""One engine for a program with many threads, such as a web server: they hand in pictures, and wait for theirs."""

from __future__ import annotations

import os
from concurrent.futures import Future
from queue import Queue
from threading import Lock, Thread
from types import TracebackType
from typing import NamedTuple, Unpack

from PIL import Image

from rcodsr.batch.tiles import TileBatcher
from rcodsr.engine.arguments import UpscaleArguments
from rcodsr.engine.upscaler import Upscaler
from rcodsr.images.exchange import ImageLike


class _Task(NamedTuple):
    future: Future[Image.Image]
    image: ImageLike
    realism: float | str | None
    asked: UpscaleArguments


class SharedUpscaler:
    """An `Upscaler` behind a bounded queue. On a GPU equal tiles of several pictures share network calls.

        with SharedUpscaler(rcodsr.load("rcod-tiny")) as shared:   # once
            shared.upscale("photo.jpg", realism=0.5)               # in any thread

    Threads may share an `Upscaler` itself; then each computes on all cores at once, and nothing limits how many pictures are in
    memory. Here at most `together` are computed and `waiting` wait; who comes next waits in `submit`.

    Args:
        upscaler: the engine; nothing else about it changes.
        together: pictures under way; by default 8 on a GPU, and 1 on a CPU, where results are then those of the engine alone,
            byte for byte.
        waiting: pictures that may wait.
    """

    def __init__(self, upscaler: Upscaler, together: int | None = None, waiting: int = 64) -> None:
        count = together or (1 if upscaler.runtime.device.type == "cpu" else 8)
        self._upscaler = upscaler.through(lambda network: TileBatcher(network, count)) if count > 1 else upscaler
        self._tasks: Queue[_Task | None] = Queue(waiting)
        self._closed, self._lock, self._process = False, Lock(), os.getpid()
        self._threads = [Thread(target=self._work, name="rcodsr", daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(
        self, image: ImageLike, realism: float | str | None = None, **asked: Unpack[UpscaleArguments]
    ) -> Future[Image.Image]:
        """Hand in a picture; waits while the queue is full.

        Args:
            image: as for `Upscaler.upscale`.
            realism: as for `Upscaler.upscale`.
            asked: likewise.

        Returns:
            A future of the enlarged image. Its `result()` raises what `Upscaler.upscale` would; `cancel()` works until the
            engine has taken the picture.

        Raises:
            RuntimeError: after `close`, and in a forked process.
        """
        task = _Task(Future(), image, realism, asked)
        if os.getpid() != self._process:
            raise RuntimeError("this SharedUpscaler has no threads after a fork; make one in each process")
        with self._lock:  # so that nothing is put behind the end marks
            if self._closed:
                raise RuntimeError("this SharedUpscaler is closed")
            self._tasks.put(task)
        return task.future

    def upscale(self, image: ImageLike, realism: float | str | None = None, **asked: Unpack[UpscaleArguments]) -> Image.Image:
        """Enlarge one picture and wait for it: `Upscaler.upscale` for many threads.

        Raises:
            RcodsrError: as there.
        """
        return self.submit(image, realism, **asked).result()

    def close(self) -> None:
        """Take nothing more, and wait until everything that was handed in is done."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> SharedUpscaler:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if not task.future.set_running_or_notify_cancel():
                continue
            try:
                result = self._upscaler.upscale(task.image, task.realism, **task.asked)
            except BaseException as error:
                task.future.set_exception(error)
            else:
                task.future.set_result(result)
            del task
