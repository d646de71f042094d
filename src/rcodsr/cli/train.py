"""`rcodsr train`."""

import signal
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from rcodsr.cli.streams import note, result_line


class Resume(StrEnum):
    """`--resume`."""

    auto = "auto"
    never = "never"


def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (TOML).", show_default=False)],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, for example photos=DIR phases.0.steps=100.")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Directory of the run; overrides the recipe.")] = None,
    resume: Annotated[Resume, typer.Option("--resume", help="Go on from the run's saved state, or start again.")] = Resume.auto,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show the recipe with all its values, and stop.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="One step of every phase; writes nothing.")] = False,
) -> int:
    """Train from a recipe. Stop it at any time; the same command goes on."""
    from rcodsr.training.recipe_file import print_recipe, read_recipe

    plan = read_recipe(recipe, overrides or [])
    if output is not None:
        plan = replace(plan, output=output)
    if print_config:
        typer.echo(print_recipe(plan))
        return 0
    from rcodsr.training.run import Run

    run = Run(plan, log=note, resume=resume is Resume.auto and not dry_run)
    if dry_run:
        run.rehearse()
        return 0
    stop = _Stop()
    if not run.go(stop):
        note("stopped; the same command goes on")
        return 128 + stop.number
    if run.processes.is_first:
        result_line(str(plan.output / "checkpoint"))
    return 0


class _Stop:
    """Lets a step finish and its state be saved when SIGINT or SIGTERM arrives; a second signal ends the process at once."""

    def __init__(self) -> None:
        self.number = 0
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def __call__(self) -> bool:
        return self.number != 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        for each, handler in self._previous.items():
            signal.signal(each, handler)
        note("stopping after this step")
