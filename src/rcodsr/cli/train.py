"""`rcodsr train`."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
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
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="One step of every phase; writes nothing.")] = False,
) -> int:
    """Train a generator from a recipe. Stop it at any time; the same command goes on."""
    from rcodsr.training.recipe import read_recipe
    from rcodsr.training.trainer import Trainer

    plan = read_recipe(recipe, overrides or [])
    if output is not None:
        plan = replace(plan, output=output)
    trainer = Trainer(plan, log=note, resume=resume is Resume.auto)
    if dry_run:
        trainer.rehearse()
        return 0
    trainer.run()
    result_line(str(plan.output / "checkpoint"))
    return 0
