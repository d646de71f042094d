"""Options that several commands share, and those with a default in the environment: `RCODSR_` and the option's name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from rcodsr.errors import naming

_origins: dict[str, str] = {}
"""Of the running command: what errors call options whose values came from the environment, and what to name instead."""


def _remember(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    source = context.get_parameter_source(parameter.name or "")
    if source is not None and source.name == "ENVIRONMENT":
        variable = f"{parameter.envvar}={value}"
        _origins.update(dict.fromkeys(parameter.opts, variable))
        if parameter.name == "weights":  # errors call them by their own name
            _origins[value] = variable
    return value


def option(*names: str, **settings: Any) -> Any:
    """An option whose default may be set in the environment: `--max-pixels` by `RCODSR_MAX_PIXELS`; empty counts as not set.

    Args:
        names: of the option, the long one last.
        settings: of `typer.Option`.
    """
    variable = "RCODSR_" + names[-1].removeprefix("--").replace("-", "_").upper()
    return typer.Option(*names, envvar=variable, callback=_remember, **settings)


def words(*choices: str) -> Callable[[], list[str]]:
    """What completion offers as values of an option; the shell adds files."""
    return lambda: [*choices]


def weights_names() -> list[str]:
    """Weights by name, for completion."""
    from rcodsr.checkpoints.manifest import read_manifest, upscaling

    return upscaling(read_manifest())


def all_names() -> list[str]:
    """Weights and bases by name, for completion."""
    from rcodsr.checkpoints.manifest import read_manifest

    return [*read_manifest()]


def is_default(option: str) -> bool:
    """Whether an option's value came from the environment, so that what was asked for on the command line goes before it."""
    return option in _origins


@contextmanager
def variables() -> Iterator[None]:
    """Run a command: its errors about values from the environment name the variable."""
    _origins.clear()
    with naming(_origins):
        yield


Weights = Annotated[
    str,
    option(
        "--weights",
        help="Name, checkpoint directory, org/repo on the Hugging Face Hub, or random:VARIANT[:SEED].",
        autocompletion=weights_names,
    ),
]
BaseModel = Annotated[str | None, typer.Option("--base-model", help="Directory or org/repo in place of an adapter's own base.")]
Revision = Annotated[str | None, typer.Option("--revision", help="Commit, branch or tag of --weights org/repo.")]
Offline = Annotated[bool, typer.Option("--offline", help="Ask no server; what is cached still works.")]
Device = Annotated[
    str,
    option("--device", help="auto, cpu, cuda, cuda:N, xpu or mps.", autocompletion=words("auto", "cpu", "cuda", "xpu", "mps")),
]
Number = Annotated[
    str, option("--dtype", help="auto, fp32, bf16 or fp16.", autocompletion=words("auto", "fp32", "bf16", "fp16"))
]
MaxPixels = Annotated[int, option("--max-pixels", min=1, help="Largest output, in pixels.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show errors only.")]
