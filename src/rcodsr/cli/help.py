"""The text of --help: options in panels, named values, examples, as wide as the terminal. Rich would start too slowly."""

import re
import shutil
from collections.abc import MutableMapping
from typing import Any

from typer.core import TyperCommand, TyperGroup

from rcodsr.cli.mistakes import no_such_command, one_dash_too_few

PANELS = {
    "Input": ("truth", "gt", "lr", "results", "region", "recursive", "include", "exclude"),
    "Output": (
        *("output", "scale", "size", "format", "quality", "name", "metadata", "keep_times", "background"),
        *("color_fix", "max_pixels", "overwrite", "csv", "plot", "export_json", "export_csv", "export_markdown"),
        *("merged", "push", "private"),
    ),
    "Realism": ("realism", "adaptive", "adaptive_by", "realism_map", "protect", "invented", "calibrate"),
    "Weights": (
        *("weights", "base_model", "revision", "offline", "prompt", "prompts", "guidance", "as_published"),
        *("judges", "niqe", "lpips", "paper"),
    ),
    "Compute": ("device", "dtype", "tile", "tile_overlap", "jobs", "engine", "address", "gpu", "items", "compiled"),
    "Batch": ("shard", "fail_fast", "max_failures", "report", "dry_run"),
    "Messages": ("json", "print0", "quiet", "verbose", "no_progress"),
}
"""Parameter names by panel. A command shows its own in order of declaration, and those without a panel last."""

_CLICKS_LEAST = 52
"""Columns of a terminal that Click fills without help."""
_VALUES = {
    "realism": "LEVEL",
    "adaptive_by": "WHAT",
    "protect": "WHAT",
    "scale": "FACTOR",
    "size": "SIZE",
    "tile": "SIDE",
    "background": "COLOUR",
    "include": "GLOB",
    "exclude": "GLOB",
    "shard": "I/N",
    "color_fix": "METHOD",
    "weights": "WEIGHTS",
    "base_model": "WEIGHTS",
    "device": "DEVICE",
    "dtype": "DTYPE",
    "address": "HOST:PORT",
    "region": "REGION",
    "preset": "PRESET",
    "sizes": "N,...",
    "batch": "N,...",
    "overrides": "KEY=VALUE",
}
_BY_TYPE = {"<int": "N", "<float": "X", "<path": "PATH", "<str": "TEXT", "<list[Path": "PATH", "<list[str": "TEXT"}

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "": (
        ("rcodsr upscale photo.jpg", "photo_x4.jpg, four times as large"),
        ("rcodsr upscale album/ -r fidelity", "a folder, into album_x4/"),
        ("rcodsr compare photo.jpg -o page.html", "see what the realism knob does"),
    ),
    "upscale": (
        ("rcodsr upscale photo.jpg", "photo_x4.jpg, four times as large"),
        ("rcodsr upscale album/ -R -o large/ -r fidelity", "a tree of folders, close to the evidence"),
        ("rcodsr upscale scan.tif --size long=6000 -f jpg -o print.jpg", "a final size, another format"),
    ),
    "estimate": (
        ("rcodsr estimate album/", "one row per picture"),
        ("rcodsr estimate album/ --plot chart.png --csv rows.csv", "a histogram, and a table for other programs"),
    ),
    "compare": (
        ("rcodsr compare photo.jpg -o page.html", "a page with sliders, for any browser"),
        ("rcodsr compare photo.jpg -r 0,0.25,0.5,0.75,1 -o sheet.png", "one picture with five levels"),
    ),
    "train": (
        ("rcodsr train rcod-tiny photos=DIR perceptual.weights=FILE --dry-run", "one step of every phase"),
        ("rcodsr train rcod-tiny --init-config my.toml", "a recipe to edit"),
        ("rcodsr train my.toml photos=DIR seed=3 phases.0.steps=100", "with your own values"),
    ),
    "bench": (
        ("rcodsr bench --weights rcod-tiny --sizes 128", "speed, in up to half a minute"),
        ("rcodsr bench --gpu --export-json speed.json", "at the paper's sizes"),
    ),
    "bench synth": (
        ("rcodsr bench synth photos/ -o set --count 100", "set/hr and set/lr"),
        ("rcodsr bench synth photos/ -o heavy --preset full --seed 5", "a heavily degraded set"),
    ),
    "bench quality": (
        ("rcodsr bench quality --gt set/hr --lr set/lr --realism 0,1,adaptive", "score each level"),
        ("rcodsr bench quality --gt set/hr --results mine/ --judges judges/", "score any method's results"),
    ),
    "bench metric": (
        ("rcodsr bench metric photos/", "600 crops, as in the paper"),
        ("rcodsr bench metric photos/ --count 24 --crop 128", "a quick check"),
    ),
    "env": (
        ("rcodsr env", "a table to paste into a report"),
        ("rcodsr env --json | jq .devices", "for scripts"),
    ),
    "weights": (
        ("rcodsr weights list", "available and cached weights"),
        ("rcodsr weights pull s3diff --dry-run", "files that would be fetched"),
    ),
    "weights list": (
        ("rcodsr weights list", "all names"),
        ("rcodsr weights list org/repo --json", "one repository on the Hub"),
    ),
    "weights pull": (
        ("rcodsr weights pull s3diff", "fetch, convert, verify"),
        ("rcodsr weights pull org/repo --revision main", "a branch, pinned to its commit"),
    ),
    "weights path": (
        ("rcodsr weights path rcod-tiny", "its directory"),
        ("ls $(rcodsr weights path rcod-tiny)", "its files"),
    ),
    "weights verify": (
        ("rcodsr weights verify", "everything cached"),
        ("rcodsr weights verify rcod-tiny", "one name"),
    ),
    "weights rm": (
        ("rcodsr weights rm s3diff -n", "files that would be removed"),
        ("rcodsr weights rm s3diff", "remove them"),
    ),
    "weights convert": (
        ("rcodsr weights convert pisa_sr.pkl", "then use it as --weights pisa-sr"),
        ("rcodsr weights convert s3diff.pkl de_net.pth -o mine", "into a directory"),
    ),
    "weights export": (
        ("rcodsr weights export runs/a/checkpoint -o mine --merged", "weights that need no base"),
        ("rcodsr weights export rcod-tiny -o tiny.onnx --format onnx", "for other programs"),
    ),
}
"""Examples by command: what to type, and what it does."""


class _Help:
    """Shared by the help of commands and groups."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        own: MutableMapping[str, Any] = getattr(self, "context_settings", None) or {}
        self.context_settings: MutableMapping[str, Any] = {"max_content_width": 1000, **own}
        for parameter in getattr(self, "params", ()):
            parameter.metavar = parameter.metavar or _VALUES.get(parameter.name)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse like Typer, but with errors that know their command, which its parser omits."""
        options = [name for parameter in self.get_params(ctx) for name in parameter.opts]  # type: ignore[attr-defined]
        if slip := one_dash_too_few(args, options, _path(ctx)):
            raise slip
        try:
            return super().parse_args(ctx, args)  # type: ignore[misc]
        except Exception as error:
            if getattr(error, "ctx", ctx) is None:
                error.ctx = ctx  # type: ignore[attr-defined]
            raise

    def get_help(self, ctx: Any) -> str:
        """The help, as wide as the terminal: below 50 columns too, where Click would let lines break."""
        columns = shutil.get_terminal_size().columns
        if columns < _CLICKS_LEAST:
            ctx.terminal_width = columns - 2
        return str(super().get_help(ctx))  # type: ignore[misc]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options by panel."""
        arguments, panels, others = [], {name: [] for name in PANELS}, []  # type: ignore[var-annotated]
        for parameter in self.get_params(ctx):  # type: ignore[attr-defined]
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            panel = next((panels[name] for name, members in PANELS.items() if parameter.name in members), others)
            if parameter.param_type_name == "argument":
                arguments.append((_argument(parameter), record[1].replace("  [required]", "")))
            else:
                panel.append(_plain(*record))
        others_are = "Other options" if any(panels.values()) else "Options"
        for name, rows in {"Arguments": arguments, **panels, others_are: others}.items():
            if rows:
                with formatter.section(name):
                    formatter.write_dl(rows, col_max=max(12, min(30, formatter.width // 3)))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The part after the command's name: INPUTS... or [KEY=VALUE]..."""
        pieces = super().collect_usage_pieces(ctx)  # type: ignore[misc]
        arguments = [parameter for parameter in self.get_params(ctx) if parameter.param_type_name == "argument"]  # type: ignore[attr-defined]
        named = [_argument(argument) if argument.required else f"[{_argument(argument)}]" for argument in arguments]
        return [pieces[0], *named, *pieces[1 + len(arguments) :]]

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write examples as they are typed."""
        examples = EXAMPLES.get(_path(ctx), ())
        if examples:
            with formatter.section("Examples"):
                width = max(len(command) for command, _ in examples)
                beside = formatter.width >= width + 4 + max(len(meaning) for _, meaning in examples)
                for command, meaning in examples:
                    line = f"{command:{width}}  # {meaning}" if beside else f"# {meaning}\n  {command}"
                    formatter.write(f"  {line}\n")


class Command(_Help, TyperCommand):
    """A command."""


class Group(_Help, TyperGroup):
    """Commands under a common name."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write options, then commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command by name. A word that looks like a picture gets a hint at `upscale`.

        Raises:
            UsageError: when there is no such command.
        """
        if args[0] in self.commands or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        raise no_such_command(args[0], _path(ctx), self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List each command with the whole first paragraph of its docstring."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(command)) for name, command in self.commands.items()])


def _argument(parameter: Any) -> str:
    return (parameter.metavar or str(parameter.name).upper()) + "..." * (parameter.nargs == -1)


def _summary(command: Any) -> str:
    return " ".join(str(command.help or "").partition("\n\n")[0].split())


def _path(ctx: Any) -> str:
    """A command's words after the program's name."""
    words: list[str] = []
    while ctx.parent is not None:
        words.insert(0, ctx.info_name)
        ctx = ctx.parent
    return " ".join(words)


def _plain(name: str, help: str) -> tuple[str, str]:
    """Make a help row readable: names for values, plain text for bounds and defaults."""
    name = re.sub(r"<(list\[)?\w+[^>]*>", lambda found: _BY_TYPE.get(found[0].rstrip("]>").split()[0], found[0]), name)
    help = re.sub(r"([\d.]+)<=x<=([\d.]+)", r"\1 to \2", help)
    help = re.sub(r"x>=([\d.]+)", r"\1 or more", help)
    return name, re.sub(r"default: \((.*?)\)", r"default: \1", help)
