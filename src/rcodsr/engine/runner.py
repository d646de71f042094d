"""Runs the model's stages: eagerly, or on CUDA as captured graphs on two streams, without host synchronisation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from rcodsr.engine.fast import compile_blocks, rewrite
from rcodsr.engine.graphs import Graphs
from rcodsr.engine.runtime import Runtime, tiles_at_once
from rcodsr.images import color
from rcodsr.images.flat import hold_flat
from rcodsr.messages import Log, silent
from rcodsr.models.modulation import Modulation
from rcodsr.models.one_step import Condition, OneStepSR
from rcodsr.models.prompts import VisualPrompt
from rcodsr.options import ColorFix

_SMALL = 3 << 20
"""Maximum values of a picture whose colour fix is captured; larger pictures keep the GPU busy anyway."""


class Runner:
    """Runs the stages one after the other, on the model's device.

    Args:
        model: on its device, in its dtype.
        runtime: the model's device and dtype.
        items: the selected items of `engine.fast` that concern running.
    """

    def __init__(self, model: OneStepSR, runtime: Runtime, items: frozenset[str] = frozenset()) -> None:
        self.model, self.runtime, self.items = model, runtime, items

    def home(self, pixels: int) -> torch.device:
        """Device that holds a picture of this many enlarged pixels while its tiles are computed."""
        return torch.device("cpu")

    def at_once(self, pixels: int) -> int:
        """Number of tiles of this many enlarged pixels per batch."""
        return 1

    def condition(self, enlarged: Tensor, lr: Tensor) -> Condition:
        """Compute a picture's condition without its timestep: (1, 3, H, W) and (1, 3, h, w) in [0, 1]."""
        later = torch.tensor([0], device=self.runtime.device)  # each tile sets its own timestep
        return self.model.condition(enlarged, later, lr)

    def whole(self, condition: Condition) -> Condition:
        """Make a condition safe to read outside of `forward`."""
        return condition

    def forward(self, tiles: Tensor, condition: Condition) -> Tensor:
        """Run the networks on tiles (B, 3, H, W) in [0, 1] → the same shape; see `OneStepSR.forward`."""
        restored: Tensor = self.model(tiles, condition)
        return restored

    def finish(self, restored: Tensor, enlarged: Tensor, lr: Tensor, kind: ColorFix) -> Tensor:
        """Apply the colour fix, remove colour and texture where the input has none, and limit overshoot if required.

        Works in place.

        Args:
            restored: shape (3, H, W), nominally in [0, 1]; overwritten.
            enlarged: the enlarged input, same shape.
            lr: the input, shape (3, h, w) in [0, 1].
            kind: the colour fix.
        """
        color.match(restored, enlarged, kind)
        color.limit_chroma(restored, lr)
        hold_flat(restored, enlarged, lr)
        return color.limit_overshoot(restored, enlarged) if self.model.spec.limit_overshoot else restored


class CudaRunner(Runner):
    """Runs the stages on a GPU, with the selected speedups.

    Args:
        model: as in `Runner`.
        runtime: as in `Runner`.
        items: as in `Runner`.
        log: receives a line when a stage cannot be captured.
    """

    def __init__(self, model: OneStepSR, runtime: Runtime, items: frozenset[str], log: Log = silent) -> None:
        super().__init__(model, runtime, items)
        self._beside = torch.cuda.Stream(runtime.device) if "stream" in items else None
        # graphs that run at the same time must not share memory
        self.graphs = Graphs(log) if "graph" in items else None
        self._graphs_beside = Graphs(log) if "graph" in items else None

    def home(self, pixels: int) -> torch.device:
        """The GPU, unless the picture would take more than a quarter of its free memory."""
        free = torch.cuda.mem_get_info(self.runtime.device)[0]
        return self.runtime.device if "device" in self.items and 48 * pixels < free / 4 else torch.device("cpu")

    def at_once(self, pixels: int) -> int:
        """See `Runner.at_once`; as many as fill the GPU."""
        return tiles_at_once(self.runtime, pixels) if "batch" in self.items else 1

    def condition(self, enlarged: Tensor, lr: Tensor) -> Condition:
        """See `Runner.condition`. The vision tower runs on a second stream, overlapping the encoder."""
        later = torch.tensor([0], device=self.runtime.device)
        modulation = self.model.modulator.measure(lr)
        if self._beside is None:
            return Condition(later, self._tokens(enlarged), modulation)
        self._beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._beside):
            return Condition(later, self._tokens(enlarged), modulation)

    def whole(self, condition: Condition) -> Condition:
        """See `Runner.whole`. Waits for the second stream, which may still be computing the tokens."""
        if self._beside is not None:
            torch.cuda.current_stream().wait_stream(self._beside)
        return condition

    def forward(self, tiles: Tensor, condition: Condition) -> Tensor:
        """See `Runner.forward`. Waits for the tokens when the U-Net needs them."""
        condition = condition.expand(len(tiles))
        matrices = condition.modulation.matrices
        with self._attention():
            z = self._run("encode", self._encode, tiles, *matrices)
            condition = self.whole(condition)
            return self._run("restore", self._restore, z, condition.timestep, condition.tokens, condition.begins, *matrices)

    def finish(self, restored: Tensor, enlarged: Tensor, lr: Tensor, kind: ColorFix) -> Tensor:
        """See `Runner.finish`. Captured for small pictures, whose many small kernels would wait for the host."""
        if not restored.is_cuda or restored.numel() > _SMALL:
            return super().finish(restored, enlarged, lr, kind)
        finish = super().finish
        return self._run(f"finish {kind}", lambda a, b, c: finish(a, b, c, kind), restored, enlarged, lr)

    def poison(self) -> None:
        """Fill the outputs of captured graphs with NaN, for tests and benchmarks."""
        for graphs in (self.graphs, self._graphs_beside):
            if graphs is not None:
                graphs.poison()

    def _run(self, name: str, function, *inputs: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return function(*inputs) if self.graphs is None else self.graphs(name, function, *inputs)

    def _tokens(self, enlarged: Tensor) -> Tensor:
        prompt = self.model.prompt
        if self._graphs_beside is None or not isinstance(prompt, VisualPrompt):
            return self.model.context(prompt(enlarged))
        return self._graphs_beside("tokens", lambda x: self.model.context(prompt.read(x)), prompt.squash(enlarged))

    def _encode(self, tiles: Tensor, *matrices: Tensor) -> Tensor:
        with self.model.modulator.using(Modulation(matrices)):
            return self.model.encode(tiles)

    def _restore(self, z: Tensor, timestep: Tensor, tokens: Tensor, origin: Tensor, *matrices: Tensor) -> Tensor:
        modulation = Modulation(matrices)
        with self.model.modulator.using(modulation):
            return self.model.decode(self.model.restore(z, Condition(timestep, tokens, modulation, origin)))

    @contextmanager
    def _attention(self) -> Iterator[None]:
        """Select attention backends by preference; the next one handles head sizes that one does not support."""
        if "sdpa" not in self.items:
            yield
            return
        from torch.nn.attention import SDPBackend, sdpa_kernel

        order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        with sdpa_kernel(order, set_priority=True):
            yield


def prepare(model: OneStepSR, runtime: Runtime, items: frozenset[str], log: Log = silent) -> Runner:
    """Make a freshly loaded model fast, in place, move it to its device, and return its runner.

    Args:
        model: on the CPU, float32.
        runtime: the target device and dtype.
        items: from `engine.fast.choose`.
        log: receives a line when a speedup is not available.
    """
    layout = torch.channels_last if "channels-last" in items else torch.contiguous_format
    model = runtime.place(rewrite(model, items), runtime.dtype, layout)
    if "compile" in items:
        compile_blocks(model)
    if runtime.device.type == "cuda":
        return CudaRunner(model, runtime, items, log)
    return Runner(model, runtime, items)
