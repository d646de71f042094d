"""CUDA graphs: functions of tensors are captured when their shapes recur, then replayed.

At batch 1 an eager pass through the paper's networks launches about 1,400 kernels one by one and mostly waits for the host. A
single picture never repays the capture, so the first call of each shape runs eagerly.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rcodsr.messages import Log, first_line

_MOST = 12
"""Maximum number of graphs; further shapes run eagerly."""
_WARM_UP = 2
"""Eager calls before capture, in which libraries choose algorithms and allocate workspaces."""
_one_recording = threading.Lock()
"""Held during capture: capture starts with a device synchronisation, which CUDA forbids during another capture."""


@dataclass
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor


class Graphs:
    """Captured functions of one device. Graphs share memory, so only one runs at a time. Thread-safe.

    Args:
        log: receives a line when a function cannot be captured; it then always runs eagerly.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._seen: set[Hashable] = set()
        self._recorded: dict[Hashable, _Recorded | None] = {}
        self._pool: Any = None
        self._lock = threading.Lock()

    def __call__(self, name: str, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return `function(*inputs)`, which must depend on nothing else and must not synchronise.

        Args:
            name: identifies the function, together with shapes and dtypes of the inputs.
            function: a function of the inputs.
            inputs: tensors on the GPU.

        Returns:
            A new tensor that belongs to the caller.
        """
        key = (name, *((x.shape, x.dtype, x.is_contiguous()) for x in inputs))
        with self._lock:
            if key not in self._recorded:
                if key not in self._seen or len(self._recorded) >= _MOST:
                    self._seen.add(key)
                    return function(*inputs)
                self._recorded[key] = self._record(name, function, inputs)
            recorded = self._recorded[key]
            if recorded is None:
                return function(*inputs)
            for place, value in zip(recorded.inputs, inputs, strict=True):
                place.copy_(value)
            recorded.graph.replay()
            return recorded.output.clone()

    def poison(self) -> None:
        """Fill the outputs of replays with NaN, so that tests detect a replay that does nothing."""
        for recorded in self._recorded.values():
            if recorded is not None:
                recorded.output.fill_(float("nan"))

    def _record(self, name: str, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> _Recorded | None:
        places = tuple(x.clone() for x in inputs)
        try:
            with _one_recording, _fastest_convolutions():
                aside = torch.cuda.Stream()
                aside.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(aside):
                    for _ in range(_WARM_UP):
                        function(*places)
                torch.cuda.current_stream().wait_stream(aside)
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                graph = torch.cuda.CUDAGraph()
                # other threads may allocate meanwhile
                with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                    output = function(*places)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._log(f"{name} runs without a CUDA graph ({first_line(error)})")
            self._pool = None  # the allocator may still regard it as being captured to
            return None
        return _Recorded(graph, places, output)


@contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Enable cuDNN's benchmark mode, so that the fastest algorithm is captured."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
