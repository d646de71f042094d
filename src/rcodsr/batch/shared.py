"""One engine for a program with many threads, such as a web server: each submits pictures and waits for its own."""

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
    """An `Upscaler` behind a bounded queue. On a GPU, equal tiles of several pictures share network calls.

        with SharedUpscaler(rcodsr.load("rcod-tiny")) as shared:   # once
            shared.upscale("photo.jpg", realism=0.5)               # in any thread

    Threads may also share a plain `Upscaler`, but then each computes on all cores, and the number of pictures in memory is
    unlimited. Here at most `together` pictures are computed and `waiting` are queued. Further calls block in `submit`.

    Args:
        upscaler: the engine, which is not modified.
        together: pictures in progress. Default: 8 on a GPU and 1 on a CPU, where results equal those of the engine alone
            byte for byte.
        waiting: maximum number of queued pictures.
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
        """Queue a picture. Blocks while the queue is full.

        Args:
            image: see `Upscaler.upscale`.
            realism: see `Upscaler.upscale`.
            asked: see `Upscaler.upscale`.

        Returns:
            A future of the enlarged image. Its `result()` raises what `Upscaler.upscale` would. `cancel()` works until the
            engine has taken the picture.

        Raises:
            RuntimeError: after `close`, and in a forked process.
        """
        task = _Task(Future(), image, realism, asked)
        if os.getpid() != self._process:
            raise RuntimeError("this SharedUpscaler has no threads after a fork; create one in each process")
        with self._lock:  # so that nothing is queued behind the end marks
            if self._closed:
                raise RuntimeError("this SharedUpscaler is closed")
            self._tasks.put(task)
        return task.future

    def upscale(self, image: ImageLike, realism: float | str | None = None, **asked: Unpack[UpscaleArguments]) -> Image.Image:
        """Enlarge one picture and wait for the result. Thread-safe form of `Upscaler.upscale`.

        Raises:
            RcodsrError: see `Upscaler.upscale`.
        """
        return self.submit(image, realism, **asked).result()

    def close(self) -> None:
        """Accept no more pictures, and wait until all queued ones are done."""
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
