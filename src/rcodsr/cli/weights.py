"""`rcodsr weights`: what there is, what lies here, and checkpoints for others."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rcodsr.cli.help import Command, Group
from rcodsr.cli.parameters import all_names, weights_names, words
from rcodsr.cli.streams import error_line, json_line, note, result_line
from rcodsr.cli.tables import hanging, terminal_width
from rcodsr.errors import UsageError, WeightsError
from rcodsr.messages import silent, size_text
from rcodsr.options import WeightsRequest

if TYPE_CHECKING:
    from rcodsr.checkpoints.store import WeightsEntry

app = typer.Typer(
    cls=Group, help="List, fetch, check, convert and export weights.", no_args_is_help=True, rich_markup_mode=None
)

_Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on standard output.")]
_Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show errors only.")]
_Names = Annotated[
    list[str],
    typer.Argument(help="Names of `weights list`, or org/repo.", show_default=False, autocompletion=all_names),
]
_HEADINGS = {"hub": "What they stand on", "repository": "Repositories that were used before"}
_FORMATS = ("rcodsr", "peft", "diffusers", "merged-diffusers", "onnx")


@app.callback()
def _group() -> None:
    """List, fetch, check, convert and export weights."""


@app.command("list", cls=Command)
def list_(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Only these: names, checkpoint directories, or org/repo on the Hub.",
            show_default=False,
            autocompletion=all_names,
        ),
    ] = None,
    json: _Json = False,
) -> int:
    """Show what there is: status, size, licence, whether it is cached. Only org/repo asks the Hub."""
    from rcodsr.checkpoints import store

    found = [store.describe(name, note) for name in names] if names else list(store.list_weights())
    width, shown = terminal_width(), ""
    for item in found:
        if json:
            json_line(item.to_dict())
        elif width is not None:
            if item.status in _HEADINGS and shown != item.status and not names:
                result_line(f"\n{_HEADINGS[item.status]}:")
            shown = item.status
            result_line(hanging(item.name, _in_words(item), 16, width))
        else:
            here = "here" if item.cached else "-"
            row = f"{item.name:<16} {item.status:<12} {here:<5} {_size(item.bytes):>8}  {item.licence:<27} {item.about}"
            result_line(row.rstrip())
    return 0


def _in_words(item: "WeightsEntry") -> str:
    """What a terminal shows of an item beside its name."""
    states = {"unpublished": "not published", "manual": "to be got by hand", "foreign": "fetched at first use"}
    state = "here" if item.cached else states.get(item.status, "not here")
    facts = [state, *([] if item.bytes is None else [size_text(item.bytes)]), *([item.licence] if item.licence else [])]
    return f"{', '.join(facts)}: {item.about}".removesuffix(": ")


@app.command("pull", cls=Command)
def pull(
    names: _Names,
    revision: Annotated[str | None, typer.Option("--revision", help="Commit, branch or tag of org/repo.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch again what is cached.")] = False,
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="Show which files would be fetched.")] = False,
    json: _Json = False,
    quiet: _Quiet = False,
) -> int:
    """Fetch weights and the bases they stand on, convert what has to be, and verify everything."""
    from rcodsr.checkpoints import store

    log = silent if quiet else note
    for name in names:
        if dry_run:
            _show_plan(store.plan_pull(name, revision, log), json)
            continue
        for found in store.pull(name, revision, force, log):
            values = {"name": found.name, "directory": str(found.directory), "source": found.source, "id": found.id}
            json_line(values) if json else result_line(str(found.directory))
    return 0


def _show_plan(files: list, json: bool) -> None:  # type: ignore[type-arg]
    for file in files:
        state = "cached" if file.cached else "fetch"
        json_line(asdict(file)) if json else result_line(f"{state:<7} {_size(file.bytes):>8}  {file.source} {file.file}")
    missing = [file.bytes or 0 for file in files if not file.cached]
    if not json:
        note(f"{len(missing)} files to fetch, {size_text(sum(missing))}")


@app.command("path", cls=Command)
def path(
    name: Annotated[str, typer.Argument(help="A name of `weights list`, or org/repo.", autocompletion=all_names)],
    json: _Json = False,
) -> int:
    """Print the directory of weights that are cached; exit code 3 when they are not."""
    from rcodsr.checkpoints import store

    directory = str(store.locate(name))
    json_line({"name": name, "directory": directory}) if json else result_line(directory)
    return 0


@app.command("verify", cls=Command)
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names, org/repo or directories; all that is cached.", show_default=False, autocompletion=all_names
        ),
    ] = None,
    json: _Json = False,
) -> int:
    """Hash files again and compare with what was published or first fetched; exit code 3 when one has changed."""
    from rcodsr.checkpoints import store

    return _each(names or [item.name for item in store.list_weights() if item.cached], store.verify, "ok", json)


@app.command("rm", cls=Command)
def rm(
    names: _Names,
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="Show what would be removed.")] = False,
    json: _Json = False,
) -> int:
    """Remove weights from the cache; bases stay unless they are named."""
    from rcodsr.checkpoints import store

    return _each(names, lambda name: store.remove(name, dry_run), "would be removed" if dry_run else "removed", json)


def _each(names: list[str], action: Callable[[str], int], done: str, json: bool) -> int:
    """Do something for every name; those that fail do not stop the others."""
    code = 0
    for name in names:
        try:
            size = action(name)
        except WeightsError as error:
            error_line(error)
            code = error.exit_code
            if json:
                json_line({"name": name, "status": "failed", "bytes": None, "error": str(error)})
            continue
        values = {"name": name, "status": done, "bytes": size, "error": None}
        json_line(values) if json else result_line(f"{done} {name} ({size_text(size)})")
    return code


@app.command("convert", cls=Command)
def convert(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="A checkpoint (osediff.pkl, …), a network that judges or teaches, or a directory of `weights export`.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Directory; without it, where a checkpoint's name finds it; here for a network."),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Directory or org/repo of the base; its hashes are then recorded.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("-y", "--overwrite", help="Replace what lies there.")] = False,
    json: _Json = False,
    quiet: _Quiet = False,
) -> int:
    """Turn what others publish into safetensors: OSEDiff, S3Diff, PiSA-SR, Real-ESRGAN, LPIPS, DISTS. No code in it is run."""
    for file in files:
        if not file.exists():
            raise WeightsError(file, "no such file", "check the path")
    from rcodsr.checkpoints.export import check_target, convert
    from rcodsr.checkpoints.networks import read_network

    log = silent if quiet else note
    network = None if files[0].is_dir() else read_network(files)
    if network is not None:
        if base_model is not None:
            raise UsageError("--base-model", f"{network.name} stands on no base", "leave it out")
        log(network.summary)
        path = network.write(output or Path(), overwrite)
        json_line({"name": network.name, "file": str(path)}) if json else result_line(str(path))
        return 0
    if output is not None:
        check_target(str(files[0]), output, overwrite)
    found = convert(files, output, base_model, log)
    values = {"name": found.name, "directory": str(found.directory), "id": found.id}
    json_line(values) if json else result_line(str(found.directory))
    return 0


def _size(count: int | None) -> str:
    return "-" if count is None else size_text(count)


@app.command("export", cls=Command)
def export(
    source: Annotated[
        str,
        typer.Argument(help="Name, checkpoint directory, org/repo, or random:VARIANT[:SEED].", autocompletion=weights_names),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory (ONNX: file); appears whole or not at all.")],
    merged: Annotated[
        bool, typer.Option("--merged", help="Fold an adapter into float16 weights that need no base; else copy.")
    ] = False,
    format: Annotated[
        str,
        typer.Option(
            "--format", help=f"{', '.join(_FORMATS)}; each explained in docs/interchange.md.", autocompletion=words(*_FORMATS)
        ),
    ] = "rcodsr",
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Directory or org/repo in place of an adapter's own base.")
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Commit, branch or tag of org/repo.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no server; what is cached still works.")] = False,
    overwrite: Annotated[bool, typer.Option("-y", "--overwrite", help="Replace a checkpoint that lies there.")] = False,
    push: Annotated[
        str | None, typer.Option("--push-to-hub", metavar="ORG/REPO", help="Upload the directory to the Hugging Face Hub.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Create that repository as a private one.")] = False,
) -> int:
    """Write a checkpoint directory that --weights takes, or what other programs take, and upload a directory if asked to."""
    if format not in _FORMATS:
        raise UsageError("--format", f"'{format}' is not known", f"use {', '.join(_FORMATS)}")
    if merged and format != "rcodsr":
        raise UsageError("--merged", f"contradicts --format {format}", "leave one of the two out")
    if push is not None and format == "onnx":
        raise UsageError("--push-to-hub", "uploads a directory, and ONNX is one file", "upload it with `hf upload`")
    if private and push is None:
        raise UsageError("--private", "nothing is uploaded", "add --push-to-hub org/repo, or leave it out")
    if offline and push is not None:
        raise UsageError("--offline", "contradicts --push-to-hub", "leave one of the two out")
    from rcodsr.checkpoints.export import export
    from rcodsr.checkpoints.push import Destination

    destination = None if push is None else Destination(push, note)  # a missing token is told before the work
    request = WeightsRequest(source, revision, base_model, offline)
    if format == "onnx":
        from rcodsr.engine.onnx import export_onnx

        export_onnx(request, output, overwrite, note)
    else:
        export(request, output, merged, overwrite, note, format)
    result_line(str(output))
    if destination is not None:
        result_line(destination.upload(output, private))
    return 0
