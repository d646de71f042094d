"""Batch equal tiles of several pictures into one network call."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Condition as Signal

import torch
from torch import Tensor

from rcodsr.engine.runtime import is_out_of_memory
from rcodsr.engine.tiled import Network
from rcodsr.models.modulation import Modulation
from rcodsr.models.one_step import Condition


@dataclass(eq=False)
class _Request:
    tile: Tensor
    condition: Condition
    result: Tensor | None = None
    error: Exception | None = None

    @property
    def shape(self) -> tuple[torch.Size, torch.Size]:
        """Key that two requests must share to be batched."""
        return self.tile.shape[1:], self.condition.tokens.shape[1:]

    @property
    def done(self) -> bool:
        return self.result is not None or self.error is not None


class TileBatcher:
    """A network that many threads call, each with a tile of its own picture. Tiles of equal shape are computed together.

    A thread that finds the network idle computes all waiting tiles. Tiles that arrive meanwhile wait for the next call. So a
    single thread never waits, and a busy device gets full batches.

    Calls have 1, 2, 4, … tiles, so that few shapes occur: libraries choose algorithms, and graphs are captured, per shape.

    Args:
        network: tiles (B, 3, H, W) and their conditions → the same shape.
        most: maximum number of tiles in a shared call. Halved when memory runs out.
    """

    def __init__(self, network: Network, most: int) -> None:
        self._network, self._most = network, most
        self._waiting: deque[_Request] = deque()
        self._busy = False
        self._signal = Signal()

    def __call__(self, tile: Tensor, condition: Condition) -> Tensor:
        """Tiles (B, 3, H, W) of one picture and their conditions → the same shape.

        Raises:
            RuntimeError: raised by the network for these tiles.
        """
        request = _Request(tile, condition.expand(len(tile)))
        with self._signal:
            self._waiting.append(request)
        while (batch := self._turn(request)) is not None:
            try:
                self._compute(batch)
            finally:
                with self._signal:
                    self._busy = False
                    self._signal.notify_all()
        if request.error is not None:
            raise request.error
        assert request.result is not None
        return request.result

    def _turn(self, request: _Request) -> list[_Request] | None:
        """Wait until the request is done (None), or until the network is idle, which gives this thread the oldest requests."""
        with self._signal:
            self._signal.wait_for(lambda: request.done or not self._busy)
            if request.done:
                return None
            self._busy = True
            batch = self._largest()
            for taken in batch:
                self._waiting.remove(taken)
            return batch

    def _largest(self) -> list[_Request]:
        """The oldest request and as many others of its shape as make 1, 2, 4, … tiles, at most `most`."""
        equal = [other for other in self._waiting if other.shape == self._waiting[0].shape]
        for count in range(len(equal), 1, -1):
            tiles = sum(len(one.tile) for one in equal[:count])
            if tiles <= self._most and tiles.bit_count() == 1:
                return equal[:count]
        return equal[:1]

    def _compute(self, batch: list[_Request]) -> None:
        """Run the network on a batch. If it fails, try smaller batches, down to single tiles."""
        size = len(batch)
        while batch:
            error = self._try(batch[:size])
            if error is None:
                batch = batch[size:]
            elif size == 1:
                batch[0].error, batch = error, batch[1:]
            else:
                size //= 2
                if is_out_of_memory(error):
                    self._most = size

    def _try(self, some: list[_Request]) -> Exception | None:
        try:
            result = self._network(torch.cat([one.tile for one in some]), _joined([one.condition for one in some]))
            # wait, otherwise tiles that arrive meanwhile run one by one; not for the whole device: CUDA forbids that while
            # another thread captures a graph
            result[0, 0, 0, 0].item()
        except Exception as error:
            return error.with_traceback(None)  # a traceback would keep the failed batch's tensors alive
        for one, part in zip(some, result.split([len(one.tile) for one in some]), strict=True):
            one.result = part
        return None


def _joined(conditions: list[Condition]) -> Condition:
    modulations = [condition.modulation for condition in conditions]
    matrices = zip(*(modulation.matrices for modulation in modulations), strict=True)
    features = zip(*(modulation.features for modulation in modulations), strict=True)
    return Condition(
        torch.cat([condition.timestep for condition in conditions]),
        torch.cat([condition.tokens for condition in conditions]),
        Modulation(tuple(map(torch.cat, matrices)), tuple(map(torch.cat, features))),
        torch.cat([condition.begins for condition in conditions]),
    )
