"""The Typer application and its exit codes. Commands import what they need when they run, so that `--help` is fast."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rcodsr.cli import bench, compare, env, estimate, parameters, stopping, train, upscale, weights
from rcodsr.cli.help import Command, Group
from rcodsr.cli.mistakes import usage_error
from rcodsr.cli.streams import error_line
from rcodsr.errors import RcodsrError, TileMemoryError, tells_of_memory
from rcodsr.messages import first_line

app = typer.Typer(
    name="rcodsr",
    cls=Group,
    help="Enlarge real photos ×4 with one diffusion step, and control how much the model may invent.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(shown: bool) -> None:
    if shown:
        from rcodsr.version import __version__

        typer.echo(f"rcodsr {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    try:
        Path.cwd()
    except OSError:
        raise RcodsrError(".", "the current directory is gone", "cd to one that exists and run again") from None


app.command("upscale", cls=Command)(upscale.upscale)
app.command("estimate", cls=Command)(estimate.estimate)
app.command("compare", cls=Command)(compare.compare)
app.command("train", cls=Command)(train.train)
app.add_typer(bench.app, name="bench")
app.add_typer(weights.app, name="weights")
app.command("env", cls=Command)(env.env)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code. Every expected failure prints one line on standard error."""
    # Torch reads this when it is loaded, which has not happened yet. Otherwise waiting threads occupy a core, and on a busy
    # machine they mostly wait
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    stopping.install()
    try:
        stopping.check()
        with parameters.variables():
            code = app(arguments, prog_name="rcodsr", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except RcodsrError as error:
        error_line(error)
        return error.exit_code
    except stopping.Stopped as stopped:
        return _stopped(stopped)
    except Exception as error:
        try:
            stopping.check()  # the exception may have been lost inside a library
        except stopping.Stopped as stopped:
            return _stopped(stopped)
        return _unexpected(error)
    finally:
        stopping.ignore()


def _stopped(stopped: stopping.Stopped) -> int:
    error_line("stopped; finished pictures are complete")
    return stopped.exit_code


def _unexpected(error: Exception) -> int:
    """Print Typer's usage errors and unforeseen exceptions as one line."""
    # Typer carries its own copy of Click; its errors are recognised by these two attributes
    message = getattr(error, "format_message", None)
    if message is None and tells_of_memory(error) and not os.environ.get("RCODSR_DEBUG"):
        error_line(f"out of memory ({first_line(error)}); close other programs or raise the limit (ulimit -v)")
        return TileMemoryError.exit_code
    if message is None:
        if os.environ.get("RCODSR_DEBUG"):
            raise error
        error_line(f"unexpected {type(error).__name__}: {error}; set RCODSR_DEBUG=1 for details and report it")
        return 1
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(f"{message()}\n")
    else:
        error_line(usage_error(error))
    return int(getattr(error, "exit_code", 2))
