"""The Typer application and its exit codes. Commands import what they need when they run, so that `--help` is instant."""

import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from rcodsr.cli import bench, train, upscale
from rcodsr.cli.streams import error_line
from rcodsr.errors import RcodsrError

app = typer.Typer(
    name="rcodsr",
    help="Enlarge real photos ×4 with one diffusion step, and say how much the model may invent.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Terminated(BaseException):
    """SIGTERM arrived."""


def _version(shown: bool) -> None:
    if shown:
        from rcodsr import __version__

        typer.echo(f"rcodsr {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


app.command("upscale")(upscale.upscale)
app.command("train")(train.train)
app.add_typer(bench.app, name="bench")


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; every expected failure is one line on standard error."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except RcodsrError as error:
        error_line(error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        error_line("interrupted; finished pictures are complete")
        return 130
    except Terminated:
        error_line("terminated; finished pictures are complete")
        return 143
    except BrokenPipeError:
        # the reader of our output has gone; keep the interpreter from complaining about it at exit
        sys.stderr.close()
        return 0
    except Exception as error:
        # Typer carries its own copy of Click, whose usage errors share these two attributes
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        error_line(f"{message()} (see rcodsr --help)")
        return int(getattr(error, "exit_code", 2))


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated
