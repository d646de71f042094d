"""Memory of a training step, computed from shapes: before reading weights, and on any machine.

The networks are built from fake tensors, which have a shape but no values, and the trainer's own passes run on them. A tensor
counts from its creation until its last reference is gone: saved activations, recomputed activations and temporaries.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rcodsr.checkpoints.config import read_config
from rcodsr.checkpoints.named import find_weights
from rcodsr.data.dataset import Batch
from rcodsr.errors import RcodsrError, UsageError
from rcodsr.messages import Log
from rcodsr.models.build import build_model
from rcodsr.models.one_step import OneStepSR
from rcodsr.training.processes import Processes
from rcodsr.training.recipe import Phase, Recipe
from rcodsr.training.setup import build_trainer, checkpoint_activations, metric_spec, prior_spec, train_grain, trained_whole
from rcodsr.training.trainer import Trainer

T = TypeVar("T")
_GIB = 2**30
_USABLE = 0.9
"""Usable share of a card's memory; the rest goes to the driver, fragmentation and libraries."""


@dataclass(frozen=True)
class Need:
    """Peak memory of a step in bytes."""

    parameters: int
    """Weights and buffers of all networks, including the averaged copy."""
    gradients: int
    optimizer: int
    """AdamW's two moments of the trainable parameters."""
    activations: int
    """Activations and temporaries of the passes."""

    @property
    def total(self) -> int:
        """The sum."""
        return self.parameters + self.gradients + self.optimizer + self.activations

    def __str__(self) -> str:
        """Format the parts in GiB."""
        parts = {name: value / _GIB for name, value in (*vars(self).items(), ("total", self.total))}
        return "  ".join(f"{name} {value:.2f}" for name, value in parts.items()) + " GiB"


def fitted(recipe: Recipe, log: Log) -> Recipe:
    """Fit a recipe into its `machine.memory`: split batches into pieces, recompute activations.

    Every update keeps its batch size. Pieces come first, because they cost little time; activations are recomputed only if
    single samples do not fit otherwise.

    Raises:
        UsageError: when a phase does not fit.
    """
    if recipe.machine.memory == "as-given":
        return recipe
    made, notes = _apart(_fitted_and_noted, recipe)
    for note in notes:
        log(note)
    return made


def _fitted_and_noted(recipe: Recipe) -> tuple[Recipe, list[str]]:
    notes: list[str] = []
    return _fitted(recipe, Shapes(recipe), notes.append), notes


def _fitted(recipe: Recipe, shapes: Shapes, log: Log) -> Recipe:
    room = int(_USABLE * int(recipe.machine.memory.removesuffix("gb")) * _GIB)
    pieces = [_pieces(shapes, phase, room) for phase in recipe.phases]
    if None in pieces and not shapes.checkpointed:
        shapes.compute_again()
        pieces = [_pieces(shapes, phase, room) for phase in recipe.phases]
    phases = []
    for phase, count in zip(recipe.phases, pieces, strict=True):
        if count is None:
            needed = shapes.need(phase, 1).total / _GIB
            cause = f"{phase.name} needs {needed:.1f} GiB for one sample, but {room / _GIB:.1f} GiB are available"
            raise UsageError("machine.memory", cause, "use a smaller crop or a larger card")
        phases.append(replace(phase, pieces=max(count, phase.pieces)))
    machine = replace(recipe.machine, memory="as-given", gradient_checkpointing=shapes.checkpointed)
    chosen = ", ".join(f"{phase.batch // phase.pieces} of {phase.batch} samples at once" for phase in phases)
    again = "activations recomputed" if shapes.checkpointed else "activations kept"
    log(f"machine.memory={recipe.machine.memory}: {chosen}, {again}")
    return replace(recipe, machine=machine, phases=tuple(phases))


def lines(recipe: Recipe) -> Iterator[str]:
    """Yield one line per phase with the memory of a step."""
    for phase, need in zip(recipe.phases, needs(recipe), strict=True):
        size = phase.batch // phase.pieces
        yield f"memory of {phase.name}, {size} × {phase.crop}² at once, {recipe.machine.dtype}: {need}"


def needs(recipe: Recipe) -> list[Need]:
    """Memory of a step of each phase, one piece of a batch at a time.

    Raises:
        UsageError: when it cannot be counted.
    """
    return _apart(_needs, recipe)


def _needs(recipe: Recipe) -> list[Need]:
    shapes = Shapes(recipe)
    return [shapes.need(phase, phase.batch // phase.pieces) for phase in recipe.phases]


def _apart(task: Callable[[Recipe], T], recipe: Recipe) -> T:
    """Run a task in a process of its own that ends with it.

    Fake tensors that outlive their mode damage the heap (torch 2.13), so they must not share a process with a training.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, task, recipe), daemon=True)
    process.start()
    sender.close()
    try:
        answer: T | RcodsrError = receiver.recv()
    except EOFError:
        cause = "the memory of a step could not be counted"
        raise UsageError("machine.memory", cause, "set phases.N.pieces and machine.gradient_checkpointing instead") from None
    finally:
        process.join()
    if isinstance(answer, RcodsrError):
        raise answer
    return answer


def _answer(sender: Connection, task: Callable[[Recipe], T], recipe: Recipe) -> None:
    gc.disable()  # everything lives until the end
    try:
        answer: T | RcodsrError = task(recipe)
    except RcodsrError as error:
        answer = error
    sender.send(answer)
    sender.close()
    os._exit(0)


def _pieces(shapes: Shapes, phase: Phase, room: int) -> int | None:
    """The smallest number of pieces for which a phase's batch fits, or None."""
    whole = shapes.need(phase, phase.batch).total
    if whole <= room:
        return 1
    single = shapes.need(phase, 1).total
    if single > room:
        return None
    each = (whole - single) / (phase.batch - 1)  # both include the part that is independent of the batch
    fitting = [n for n in range(2, phase.batch + 1) if phase.batch % n == 0 and single + each * (phase.batch // n - 1) <= room]
    return fitting[0] if fitting else phase.batch


class Shapes:
    """A recipe's trainer without values.

    Args:
        recipe: only the variants of its weights are read, not the weights themselves.

    Attributes:
        checkpointed: whether activations are recomputed.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.checkpointed = recipe.machine.gradient_checkpointing
        self._mode, self._live = _Fake(allow_non_fake_inputs=True), _Live()
        with self._counted():
            self.trainer = _hollow_trainer(recipe)
            self.parameters = self._live.now()
            trained = [parameter for learns in self.trainer.optimizers().values() for parameter in _parameters(learns)]
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
            self.gradients = self._live.now() - self.parameters
        self.optimizer = 2 * sum(parameter.numel() * 4 for parameter in trained)

    def compute_again(self) -> None:
        """Recompute activations from now on."""
        self.checkpointed = True
        checkpoint_activations(self.trainer.model)

    def need(self, phase: Phase, batch: int) -> Need:
        """Memory of a step over a batch.

        Args:
            phase: its crop and losses.
            batch: samples per pass.
        """
        with self._counted():
            before = self._live.restart()
            hr = torch.zeros(batch, 3, phase.crop, phase.crop)
            scale = self.trainer.model.spec.scale
            lr = torch.zeros(batch, 3, phase.crop // scale, phase.crop // scale)
            kept = self.trainer.passes([Batch(hr=hr, lr=lr, samples=tuple(range(batch)), texts=("",) * batch)], phase)
            waiting = self._live.now() - before  # kept for each piece until the judges have used it
            del kept
        pieces = self.recipe.optim.accumulate * max(1, phase.batch // batch)
        activations = self._live.most - before + (pieces - 1) * waiting
        return Need(self.parameters, self.gradients, self.optimizer, activations)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        gpu = self.recipe.machine.device != "cpu" and self.recipe.machine.dtype != "fp32"
        with warnings.catch_warnings(), self._mode, self._live, _gpu_precision() if gpu else nullcontext():
            warnings.simplefilter("ignore")  # torch warns about copies of tensors without values
            yield


class _Fake(FakeTensorMode):
    """Does not memoise its tensors, since `Module.to` cannot move a memoised tensor. Requests for a value return 0."""

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:  # initialisations repeat draws until they are in range
            return False if args[0].dtype == torch.bool else 0
        out = super().dispatch(func, types, args, kwargs)
        self.fake_tensor_converter.tensor_memo.clear()
        return out


class _Live(TorchDispatchMode):
    """Counts the bytes of all live tensors.

    Storages are watched through torch's own weak references: Python's may be called early.

    Attributes:
        most: peak bytes since `restart`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._bound = 0
        self._sizes: dict[StorageWeakRef, int] = {}

    def now(self) -> int:
        """The bytes now: what has died since the last call is dropped."""
        for storage in [storage for storage in self._sizes if storage.expired()]:
            self._bound -= self._sizes.pop(storage)
        return self._bound

    def restart(self) -> int:
        """Restart the peak; returns the bytes now."""
        self.most = self.now()
        return self.most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        reference = StorageWeakRef(storage)
        if reference in self._sizes:
            return
        self._sizes[reference] = storage.nbytes()
        self._bound += storage.nbytes()
        if self._bound > self.most:  # dead storages still count in the bound
            self.most = max(self.most, self.now())


@contextmanager
def _gpu_precision() -> Iterator[None]:
    """Mixed precision as it is on a GPU, where norms are in float32, which a CPU leaves in half precision."""

    def widened(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        half = isinstance(module, (nn.GroupNorm, nn.LayerNorm)) and torch.is_autocast_enabled("cpu")
        return (inputs[0].float(), *inputs[1:]) if half else None

    hook = register_module_forward_pre_hook(widened)  # type: ignore[arg-type]  # torch says that it returns nothing
    try:
        yield
    finally:
        hook.remove()


class _Alone(Processes):
    """One process on the CPU, regardless of the environment."""

    def __init__(self) -> None:
        self.count, self.rank, self.device = 1, 0, torch.device("cpu")


def _hollow_trainer(recipe: Recipe) -> Trainer:
    """The trainer of a recipe, without its weights."""
    judge = replace(recipe.discriminator, start=None, dino_weights="random:0")
    hollow = replace(recipe, base_model="random:0", captions=None, discriminator=judge)
    return build_trainer(hollow, _hollow_networks(recipe), _Alone(), hollow=True)


def _hollow_networks(recipe: Recipe) -> OneStepSR:
    """Same as `setup.build_networks`, with shapes only."""
    finished = recipe.generator if recipe.stage == "estimator" else recipe.start
    spec = recipe.variant if finished is None else read_config(find_weights(finished).directory).spec
    if recipe.stage == "prior":
        spec = prior_spec(spec)
    if recipe.stage == "estimator":
        spec = replace(spec, metric_estimator=metric_spec(spec))
    model = build_model(spec).eval().requires_grad_(False)
    if recipe.stage == "estimator":
        assert model.metric_estimator is not None
        model.metric_estimator.requires_grad_(True)
    elif recipe.only_grain:
        train_grain(model)
    elif spec.lora is None:
        trained_whole(model)
    else:
        from rcodsr.models.lora import add_lora

        add_lora(model, spec.lora)
    return model


def _parameters(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])
