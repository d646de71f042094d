"""How a model's stages are run: plainly, or on a GPU recorded, side by side, and without going back to the host."""

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
"""Values of a picture whose colour fix is worth recording; larger ones keep the GPU busy anyway."""


class Runner:
    """Runs the stages one after the other, where the model is.

    Args:
        model: on its device, in its dtype.
        runtime: where that is.
        items: of `engine.fast`, those that concern running.
    """

    def __init__(self, model: OneStepSR, runtime: Runtime, items: frozenset[str] = frozenset()) -> None:
        self.model, self.runtime, self.items = model, runtime, items

    def home(self, pixels: int) -> torch.device:
        """Where a picture of so many enlarged pixels is kept while its tiles are computed."""
        return torch.device("cpu")

    def at_once(self, pixels: int) -> int:
        """How many tiles of so many enlarged pixels are computed together."""
        return 1

    def condition(self, enlarged: Tensor, lr: Tensor) -> Condition:
        """What the networks are told about a picture but for the timestep: (1, 3, H, W) and (1, 3, h, w) in [0, 1]."""
        later = torch.tensor([0], device=self.runtime.device)  # each tile brings its own timestep
        return self.model.condition(enlarged, later, lr)

    def whole(self, condition: Condition) -> Condition:
        """A condition that anyone may look at, and not only `forward`."""
        return condition

    def forward(self, tiles: Tensor, condition: Condition) -> Tensor:
        """As the model's `forward`."""
        restored: Tensor = self.model(tiles, condition)
        return restored

    def finish(self, restored: Tensor, enlarged: Tensor, lr: Tensor, kind: ColorFix) -> Tensor:
        """Colour fix, no colour and no texture where the input has none, no overshoot where the weights want none, in place.

        Args:
            restored: shape (3, H, W), nominally in [0, 1]; overwritten.
            enlarged: the enlarged input, same shape.
            lr: the input, shape (3, h, w) in [0, 1].
            kind: of colour fix.
        """
        color.match(restored, enlarged, kind)
        color.limit_chroma(restored, lr)
        hold_flat(restored, enlarged, lr)
        return color.limit_overshoot(restored, enlarged) if self.model.spec.limit_overshoot else restored


class CudaRunner(Runner):
    """The same on a GPU, as far as the items say.

    Args:
        model: as of `Runner`.
        runtime: as of `Runner`.
        items: as of `Runner`.
        log: receives a line when something cannot be recorded.
    """

    def __init__(self, model: OneStepSR, runtime: Runtime, items: frozenset[str], log: Log = silent) -> None:
        super().__init__(model, runtime, items)
        self._beside = torch.cuda.Stream(runtime.device) if "stream" in items else None
        # what runs at the same time must not share memory
        self.graphs = Graphs(log) if "graph" in items else None
        self._graphs_beside = Graphs(log) if "graph" in items else None

    def home(self, pixels: int) -> torch.device:
        """On the GPU, unless the picture would take a quarter of what is free there."""
        free = torch.cuda.mem_get_info(self.runtime.device)[0]
        return self.runtime.device if "device" in self.items and 48 * pixels < free / 4 else torch.device("cpu")

    def at_once(self, pixels: int) -> int:
        """As many as fill the GPU."""
        return tiles_at_once(self.runtime, pixels) if "batch" in self.items else 1

    def condition(self, enlarged: Tensor, lr: Tensor) -> Condition:
        """As of `Runner`; the vision tower goes beside what comes next."""
        later = torch.tensor([0], device=self.runtime.device)
        modulation = self.model.modulator.measure(lr)
        if self._beside is None:
            return Condition(later, self._tokens(enlarged), modulation)
        self._beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._beside):
            return Condition(later, self._tokens(enlarged), modulation)

    def whole(self, condition: Condition) -> Condition:
        """As of `Runner`: its tokens may still be on their way beside."""
        if self._beside is not None:
            torch.cuda.current_stream().wait_stream(self._beside)
        return condition

    def forward(self, tiles: Tensor, condition: Condition) -> Tensor:
        """As of `Runner`; waits for the tokens when the U-Net needs them."""
        condition = condition.expand(len(tiles))
        matrices = condition.modulation.matrices
        with self._attention():
            z = self._run("encode", self._encode, tiles, *matrices)
            condition = self.whole(condition)
            return self._run("restore", self._restore, z, condition.timestep, condition.tokens, condition.begins, *matrices)

    def finish(self, restored: Tensor, enlarged: Tensor, lr: Tensor, kind: ColorFix) -> Tensor:
        """As of `Runner`; recorded for small pictures, whose many small operations would wait for the host."""
        if not restored.is_cuda or restored.numel() > _SMALL:
            return super().finish(restored, enlarged, lr, kind)
        finish = super().finish
        return self._run(f"finish {kind}", lambda a, b, c: finish(a, b, c, kind), restored, enlarged, lr)

    def poison(self) -> None:
        """Fill what recordings write with NaN: for tests and benchmarks."""
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
        """Backends in order of preference; what cannot take a head's width passes it on."""
        if "sdpa" not in self.items:
            yield
            return
        from torch.nn.attention import SDPBackend, sdpa_kernel

        order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        with sdpa_kernel(order, set_priority=True):
            yield


def prepare(model: OneStepSR, runtime: Runtime, items: frozenset[str], log: Log = silent) -> Runner:
    """Make a freshly loaded model fast, in place, put it on its device, and say how to run it.

    Args:
        model: on the CPU, float32.
        runtime: where it is to run.
        items: chosen by `engine.fast.choose`.
        log: receives a line when something cannot be done.
    """
    layout = torch.channels_last if "channels-last" in items else torch.contiguous_format
    model = runtime.place(rewrite(model, items), runtime.dtype, layout)
    if "compile" in items:
        compile_blocks(model)
    if runtime.device.type == "cuda":
        return CudaRunner(model, runtime, items, log)
    return Runner(model, runtime, items)
