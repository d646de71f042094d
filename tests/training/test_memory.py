"""Memory counted from shapes against what a real step keeps; and the settings that make a step fit."""

import weakref
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from rcodsr.errors import DeviceError, RcodsrError, UsageError
from rcodsr.training.memory import Need, _fitted, _Live, fitted, lines, needs
from rcodsr.training.optimizer import Optimizer
from rcodsr.training.processes import Processes
from rcodsr.training.recipe import MachineSettings, Phase, Recipe
from rcodsr.training.run import Run
from rcodsr.training.setup import build_networks, build_trainer
from rcodsr.training.trainer import Trainer


def _silent(_: str) -> None:
    pass


class _Saved:
    """Bytes that saved-tensor hooks see, each storage once and as long as it is kept; weights do not count."""

    def __init__(self, trainer: Trainer) -> None:
        self.bytes = self.most = 0
        self.seen = {tensor.untyped_storage()._cdata for tensor in trainer.model.state_dict(keep_vars=True).values()}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen.add(storage._cdata)
            self.bytes += storage.nbytes()
            self.most = max(self.most, self.bytes)
            weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        return tensor

    def _free(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.bytes -= size


def _step(run: Run, phase: int) -> Trainer:
    """A real step of a phase."""
    batches = next(run._phase_batches(phase, run.recipe.phases[phase], 0))
    run.trainer.train_step(batches, run.recipe.phases[phase], 1e-4, 0)
    return run.trainer


def _large(recipe: Recipe, **changes: object) -> Recipe:
    """Its last phase alone, with crops that matter beside the weights."""
    return replace(recipe, fit=False, phases=(replace(recipe.phases[-1], crop=64, batch=2, **changes),))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["recipe", pytest.param("sd_recipe", marks=pytest.mark.slow)])
def test_the_count_agrees_with_what_a_real_step_keeps(kind: str, request: pytest.FixtureRequest) -> None:
    """Within 20 % of weights, moments and what saved-tensor hooks see."""
    recipe = _large(request.getfixturevalue(kind))
    (need,) = needs(recipe)
    run = Run(recipe, _silent)
    saved = _Saved(run.trainer)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda kept: kept):
        trainer = _step(run, 0)
    moments = sum(t.nbytes for o in trainer.optimizers().values() for s in o.state.values() for t in s.values() if t.dim())
    assert need.optimizer == moments
    assert need.total == pytest.approx(need.parameters + need.gradients + moments + saved.most, rel=0.2)


@pytest.mark.huge
def test_what_is_computed_again_is_counted_as_it_comes_and_goes(sd_recipe: Recipe) -> None:
    """The most that a real step holds at once, with and without checkpointing."""
    recipe = _large(sd_recipe)
    needed = []
    for again in (False, True):
        asked = replace(recipe, machine=replace(recipe.machine, gradient_checkpointing=again))
        needed.append(needs(asked)[0].activations)
        run = Run(asked, _silent)
        _step(run, 0)
        live = _Live()
        with live:
            for tensor in run.model.state_dict(keep_vars=True).values():
                live._add(tensor.untyped_storage())
            weights = live.restart()
            _step(run, 0)
        assert needed[-1] == pytest.approx(live.most - weights, rel=0.1)
    assert needed[1] < 0.7 * needed[0]


def test_a_dry_run_says_what_is_needed(recipe: Recipe) -> None:
    (line,) = lines(replace(recipe, phases=recipe.phases[:1]))
    assert line.startswith("memory of pixel, 2 × 64² at once, fp32: parameters 0.0")
    assert [word for word in line.split() if word.isalpha()][-6:] == [
        "parameters",
        "gradients",
        "optimizer",
        "activations",
        "total",
        "GiB",
    ]


@dataclass
class _Known:
    """Stands for `Shapes`: 10 GiB of weights, and activations of a size known by sample."""

    each: float
    checkpointed: bool = False

    def compute_again(self) -> None:
        self.checkpointed = True

    def need(self, phase: Phase, batch: int) -> Need:
        each = self.each / 4 if self.checkpointed else self.each
        return Need(10 * 2**30, 0, 0, int((1 + each * batch) * 2**30))


@pytest.mark.parametrize(
    ("memory", "each", "pieces", "again"),
    [("80gb", 4, 1, False), ("40gb", 4, 2, False), ("24gb", 4, 4, False), ("24gb", 12, 4, True), ("40gb", 30, 4, True)],
)
def test_a_word_chooses_pieces_first_and_checkpointing_last(
    recipe: Recipe, memory: str, each: float, pieces: int, again: bool
) -> None:
    asked = replace(
        recipe,
        machine=replace(recipe.machine, memory=memory),  # type: ignore[arg-type]
        phases=(replace(recipe.phases[0], batch=12 if each == 30 else 8),),
    )
    said: list[str] = []
    made = _fitted(asked, _Known(each), said.append)  # type: ignore[arg-type]
    assert (made.phases[0].pieces, made.machine.gradient_checkpointing, made.machine.memory) == (pieces, again, "as-given")
    assert made.phases[0].batch == asked.phases[0].batch
    assert fitted(made, said.append) is made
    size = made.phases[0].batch // pieces
    assert said == [
        f"machine.memory={memory}: {size} of {made.phases[0].batch} samples at once, "
        f"activations {'recomputed' if again else 'kept'}"
    ]


def test_what_fits_in_no_way_is_refused(recipe: Recipe) -> None:
    asked = replace(recipe, machine=replace(recipe.machine, memory="24gb"))
    with pytest.raises(UsageError, match=r"machine\.memory: pixel needs 36\.0 GiB for one sample, but 21\.6 GiB are "):
        _fitted(asked, _Known(100), _silent)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="pieces: 2 samples do not split into 3"):
        replace(recipe.phases[0], pieces=3)


def test_pieces_make_the_same_update(recipe: Recipe) -> None:
    """Batch 4 at once and by ones: the same samples, the same gradient up to rounding."""
    seen = []
    for pieces in (1, 4):
        phase = Phase("pixel", 2, 4, 32, (1e-3, 1e-3), pieces=pieces)
        run = Run(replace(recipe, phases=(phase,), fit=False), _silent)
        batches = next(run._phase_batches(0, phase, 0))
        assert [batch.samples for batch in batches] == ([(0, 1, 2, 3)] if pieces == 1 else [(0,), (1,), (2,), (3,)])
        facts = run.trainer.train_step(batches, phase, 1e-3, 0)
        seen.append([facts["loss"], facts["grad_norm"]])
    assert seen[0] == pytest.approx(seen[1], rel=1e-4)


# -------------------------------------------------------------------------------------------------------------- float16


def _scaled() -> tuple[torch.nn.Parameter, Optimizer]:
    parameter = torch.nn.Parameter(torch.tensor([1.0]))
    return parameter, Optimizer({"p": parameter}, (0.9, 0.999), 0.0, 0.0, Processes("cpu"), 0.1, scaled=True)


def test_scaled_gradients_come_out_as_they_are() -> None:
    parameter, optimizer = _scaled()
    optimizer.backward((3 * parameter).sum())
    assert parameter.grad is not None and parameter.grad.item() == 3 * 65536
    assert optimizer.gather() == 3
    optimizer.step()
    assert parameter.item() == pytest.approx(0.9)


def test_a_step_that_overflows_is_left_out_and_the_scale_falls_until_it_is_no_longer_at_fault() -> None:
    parameter, optimizer = _scaled()
    assert optimizer.scale is not None
    for step in range(16):
        optimizer.backward((parameter * float("inf")).sum())
        assert not optimizer.gather().isfinite()
        assert optimizer.skips
        optimizer.step()
        assert optimizer.scale.value == 65536 / 2 ** (step + 1)
    assert parameter.item() == 1
    optimizer.backward((parameter * float("inf")).sum())
    optimizer.gather()
    assert not optimizer.skips  # at 1 the run itself is at fault, and ends


def test_the_scale_grows_after_two_thousand_calm_steps_and_is_part_of_a_state() -> None:
    parameter, optimizer = _scaled()
    assert optimizer.scale is not None
    optimizer.scale.calm.fill_(1999)
    optimizer.backward(parameter.sum())
    optimizer.gather()
    optimizer.step()
    assert optimizer.tensors("x") == {"x_scale/value": torch.tensor(131072.0), "x_scale/calm": torch.tensor(0)}


def test_float16_trains_on_what_float32_does(recipe: Recipe) -> None:
    """A step in float16 is near to one in float32; a loss that is no number still ends the run."""
    phase = Phase("pixel", 2, 2, 32, (1e-3, 1e-3), adversarial=0.1)
    seen = []
    for dtype in ("fp32", "fp16"):
        machine = MachineSettings(workers=0, dtype=dtype)
        asked = replace(recipe, phases=(phase,), fit=False, machine=machine)
        model = build_networks(asked, asked.variant, {}, _silent)
        trainer = build_trainer(asked, model, Processes("cpu"))
        run = Run(replace(asked, machine=MachineSettings(workers=0)), _silent)
        batches = next(run._phase_batches(0, phase, 0))
        seen.append(trainer.train_step(batches, phase, 1e-4, 0))
    assert seen[1]["loss_scale"] == 65536
    for name in ("loss", "grad_norm", "adversarial_own"):
        assert seen[1][name] == pytest.approx(seen[0][name], rel=0.02)
    assert {"optimizer_scale/value", "adversarial_scale/calm"} <= trainer.tensors().keys()
    with torch.no_grad():
        model.unet.get_parameter("conv_in.weight").fill_(float("nan"))
    with pytest.raises(RcodsrError, match="the loss is not finite at step 1"):
        trainer.train_step(batches, phase, 1e-4, 1)


def test_float16_is_refused_on_a_cpu(recipe: Recipe) -> None:
    machine = MachineSettings(device="cpu", dtype="fp16")
    with pytest.raises(DeviceError, match=r"machine\.dtype: fp16 is not computed on a CPU; use fp32 or bf16"):
        Run(replace(recipe, machine=machine), _silent)
