"""Options shared by several commands. Some take a default from the environment: `RCODSR_` and the option's name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from rcodsr.errors import naming

_origins: dict[str, str] = {}
"""Option name in errors → variable to name instead, for values of the running command that came from the environment."""


def _remember(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    source = context.get_parameter_source(parameter.name or "")
    if source is not None and source.name == "ENVIRONMENT":
        variable = f"{parameter.envvar}={value}"
        _origins.update(dict.fromkeys(parameter.opts, variable))
        if parameter.name == "weights":  # errors use the weights' own name
            _origins[value] = variable
    return value


def option(*names: str, **settings: Any) -> Any:
    """An option with an environment variable for its default: `--max-pixels` and `RCODSR_MAX_PIXELS`. Empty counts as unset.

    Args:
        names: names of the option, the long one last.
        settings: keyword arguments of `typer.Option`.
    """
    variable = "RCODSR_" + names[-1].removeprefix("--").replace("-", "_").upper()
    return typer.Option(*names, envvar=variable, callback=_remember, **settings)


def words(*choices: str) -> Callable[[], list[str]]:
    """Completion function for fixed values of an option. The shell adds files."""
    return lambda: [*choices]


def weights_names() -> list[str]:
    """Names of weights, for completion."""
    from rcodsr.checkpoints.manifest import read_manifest, upscaling

    return upscaling(read_manifest())


def all_names() -> list[str]:
    """Names of weights and bases, for completion."""
    from rcodsr.checkpoints.manifest import read_manifest

    return [*read_manifest()]


def is_default(option: str) -> bool:
    """Whether an option's value came from the environment, so that options on the command line override it."""
    return option in _origins


@contextmanager
def variables() -> Iterator[None]:
    """Run a command so that errors about values from the environment name the variable."""
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
BaseModel = Annotated[
    str | None, typer.Option("--base-model", help="Directory or org/repo that replaces an adapter's own base.")
]
Revision = Annotated[str | None, typer.Option("--revision", help="Commit, branch or tag of --weights org/repo.")]
Offline = Annotated[bool, typer.Option("--offline", help="Contact no server; use only cached files.")]
Device = Annotated[
    str,
    option("--device", help="auto, cpu, cuda, cuda:N, xpu or mps.", autocompletion=words("auto", "cpu", "cuda", "xpu", "mps")),
]
Number = Annotated[
    str, option("--dtype", help="auto, fp32, bf16 or fp16.", autocompletion=words("auto", "fp32", "bf16", "fp16"))
]
MaxPixels = Annotated[int, option("--max-pixels", min=1, help="Largest output, in pixels.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show errors only.")]
