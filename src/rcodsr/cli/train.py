"""`rcodsr train`."""

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from rcodsr.cli.parameters import words
from rcodsr.cli.progress import StepBar, TaskBar
from rcodsr.cli.streams import note, result_line
from rcodsr.errors import UsageError

if TYPE_CHECKING:
    from rcodsr.training.run import Run


def _recipe_names() -> list[str]:
    from rcodsr.checkpoints.manifest import recipe_names

    return recipe_names()


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="Recipe file (TOML), or the name of a packaged recipe.", show_default=False, autocompletion=_recipe_names
        ),
    ],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, for example photos=DIR phases.0.steps=100.")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Directory of the run; overrides the recipe.")] = None,
    resume: Annotated[
        str,
        typer.Option(
            "--resume",
            help="auto continues from the run's saved state; never starts anew; or another run's directory.",
            autocompletion=words("auto", "never"),
        ),
    ] = "auto",
    init_config: Annotated[
        Path | None, typer.Option("--init-config", help="Copy the recipe to this file for editing, and exit.")
    ] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Show the recipe with all its values.")] = False,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Stop after this time instead of the last phase's steps.", min=0)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("-n", "--dry-run", help="Count the memory and do one step of every phase; write nothing.")
    ] = False,
) -> int:
    """Train from a recipe. It can be stopped at any time; the same command continues."""
    from rcodsr.training.recipe_file import find_recipe, print_recipe, read_recipe, recipe_to_show, require_files

    path = find_recipe(recipe)
    if init_config is not None:
        return _copy(path, init_config)
    plan = (recipe_to_show if print_config else read_recipe)(path, overrides or [])
    if output is not None:
        plan = replace(plan, output=output)
    if print_config:
        typer.echo(print_recipe(plan))
        return 0
    require_files(plan)
    from rcodsr.training.run import Run

    if dry_run:
        from rcodsr.training.memory import fitted, lines

        plan = fitted(plan, note)
        for line in lines(plan):  # before any weights are read
            note(line)
    other = None if resume in {"auto", "never"} else Path(resume)
    with TaskBar() as bar:
        run = Run(plan, note, resume=not dry_run and resume != "never", resume_from=None if dry_run else other, watch=bar)
    if dry_run:
        run.rehearse()
        return 0
    return _go(run, minutes)


def _go(run: "Run", minutes: float | None) -> int:
    """Train under a progress bar. The exit code reports whether a signal ended it."""
    stop, bar = _Stop(), StepBar(run.recipe.steps if run.processes.is_first else 0)
    run.log = bar.log if run.processes.is_first else run.log
    try:
        finished = run.go(stop, bar.reach, minutes)
    finally:
        bar.close()
    if not finished:
        note("stopped; the same command continues")
        return 128 + stop.number
    if run.processes.is_first:
        result_line(str(run.recipe.output / "checkpoint"))
    return 0


def _copy(recipe: Path, target: Path) -> int:
    if target.exists():
        raise UsageError(target, "already exists", "choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(recipe, target)
    result_line(str(target))
    return 0


class _Stop:
    """Finishes the step and saves its state when SIGINT or SIGTERM arrives. A second signal ends the process at once."""

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
