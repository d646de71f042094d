"""CUDA graphs: a function of tensors is recorded when its shapes come back, and replayed from then on.

At batch 1 an eager pass through the paper's networks starts about 1,400 kernels one by one and waits for the host most of the
time. A single picture never pays for recording: the first call of each shape runs plainly.
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
"""Graphs kept; further shapes run plainly."""
_WARM_UP = 2
"""Plain calls before recording: libraries choose their algorithms and allocate their workspaces."""
_one_recording = threading.Lock()
"""A recording begins with a wait for the whole device, which CUDA forbids while another one is under way."""


@dataclass
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor


class Graphs:
    """Recorded functions of one device. They share memory, so only one runs at a time; threads may share it.

    Args:
        log: receives a line when something cannot be recorded, which then runs plainly for good.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._seen: set[Hashable] = set()
        self._recorded: dict[Hashable, _Recorded | None] = {}
        self._pool: Any = None
        self._lock = threading.Lock()

    def __call__(self, name: str, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`function(*inputs)`, which must depend on nothing else and synchronise nothing.

        Args:
            name: what tells functions apart, together with shapes and dtypes of the inputs.
            function: of the inputs.
            inputs: on the GPU.

        Returns:
            A tensor of the caller's own.
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
        """Fill what replays write with NaN, so that a replay that does nothing is found out."""
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
            self._pool = None  # the allocator may still take it for one that is being recorded to
            return None
        return _Recorded(graph, places, output)


@contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Let cuDNN try its algorithms: the fastest becomes part of the recording."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
