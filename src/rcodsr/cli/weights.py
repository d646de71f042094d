"""`rcodsr weights`: list, fetch, verify, convert and export weights."""

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
    cls=Group, help="List, fetch, verify, convert and export weights.", no_args_is_help=True, rich_markup_mode=None
)

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line on standard output.")]
_Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show errors only.")]
_Names = Annotated[
    list[str],
    typer.Argument(help="Names from `weights list`, or org/repo.", show_default=False, autocompletion=all_names),
]
_HEADINGS = {"hub": "Bases", "repository": "Repositories used before"}
_FORMATS = ("rcodsr", "peft", "diffusers", "merged-diffusers", "onnx")


@app.callback()
def _group() -> None:
    """List, fetch, verify, convert and export weights."""


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
    """List weights: status, size, licence, and whether they are cached. Only org/repo queries the Hub."""
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
    """Description of an entry beside its name on a terminal."""
    states = {"unpublished": "not published", "manual": "manual download", "foreign": "fetched at first use"}
    state = "here" if item.cached else states.get(item.status, "not here")
    facts = [state, *([] if item.bytes is None else [size_text(item.bytes)]), *([item.licence] if item.licence else [])]
    return f"{', '.join(facts)}: {item.about}".removesuffix(": ")


@app.command("pull", cls=Command)
def pull(
    names: _Names,
    revision: Annotated[str | None, typer.Option("--revision", help="Commit, branch or tag of org/repo.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch cached files again.")] = False,
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="Show which files would be fetched.")] = False,
    json: _Json = False,
    quiet: _Quiet = False,
) -> int:
    """Fetch weights and their bases, convert them if needed, and verify every file."""
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
    name: Annotated[str, typer.Argument(help="Name from `weights list`, or org/repo.", autocompletion=all_names)],
    json: _Json = False,
) -> int:
    """Print the directory of cached weights. Exit code 3 if they are not cached."""
    from rcodsr.checkpoints import store

    directory = str(store.locate(name))
    json_line({"name": name, "directory": directory}) if json else result_line(directory)
    return 0


@app.command("verify", cls=Command)
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names, org/repo or directories; default: everything cached.", show_default=False, autocompletion=all_names
        ),
    ] = None,
    json: _Json = False,
) -> int:
    """Hash files and compare with the published or first fetched ones. Exit code 3 if one has changed."""
    from rcodsr.checkpoints import store

    return _each(names or [item.name for item in store.list_weights() if item.cached], store.verify, "ok", json)


@app.command("rm", cls=Command)
def rm(
    names: _Names,
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="Show what would be removed.")] = False,
    json: _Json = False,
) -> int:
    """Remove weights from the cache. Bases are kept unless they are named."""
    from rcodsr.checkpoints import store

    return _each(names, lambda name: store.remove(name, dry_run), "would be removed" if dry_run else "removed", json)


def _each(names: list[str], action: Callable[[str], int], done: str, json: bool) -> int:
    """Run an action for every name. Failures do not stop the others."""
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
            help="Checkpoint (osediff.pkl, …), judge or teacher network, or a directory from `weights export`.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Directory; default: the cache for a checkpoint, the current directory for a network."
        ),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Directory or org/repo of the base, whose hashes are recorded.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("-y", "--overwrite", help="Replace an existing output.")] = False,
    json: _Json = False,
    quiet: _Quiet = False,
) -> int:
    """Convert published files to safetensors: OSEDiff, S3Diff, PiSA-SR, Real-ESRGAN, LPIPS, DISTS. Runs no code from them."""
    for file in files:
        if not file.exists():
            raise WeightsError(file, "no such file", "check the path")
    from rcodsr.checkpoints.export import check_target, convert
    from rcodsr.checkpoints.networks import read_network

    log = silent if quiet else note
    network = None if files[0].is_dir() else read_network(files)
    if network is not None:
        if base_model is not None:
            raise UsageError("--base-model", f"{network.name} has no base", "omit the option")
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
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory, or file for ONNX; written whole or not at all.")],
    merged: Annotated[
        bool, typer.Option("--merged", help="Merge an adapter into float16 weights that need no base; default: copy.")
    ] = False,
    format: Annotated[
        str,
        typer.Option("--format", help=f"{', '.join(_FORMATS)}; see docs/interchange.md.", autocompletion=words(*_FORMATS)),
    ] = "rcodsr",
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Directory or org/repo that replaces an adapter's own base.")
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Commit, branch or tag of org/repo.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Contact no server; use only cached files.")] = False,
    overwrite: Annotated[bool, typer.Option("-y", "--overwrite", help="Replace an existing checkpoint.")] = False,
    push: Annotated[
        str | None, typer.Option("--push-to-hub", metavar="ORG/REPO", help="Upload the directory to the Hugging Face Hub.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Create the repository as private.")] = False,
) -> int:
    """Write a checkpoint directory for --weights, or files for other programs, and optionally upload a directory."""
    if format not in _FORMATS:
        raise UsageError("--format", f"'{format}' is not known", f"use {', '.join(_FORMATS)}")
    if merged and format != "rcodsr":
        raise UsageError("--merged", f"contradicts --format {format}", "use only one of the two")
    if push is not None and format == "onnx":
        raise UsageError("--push-to-hub", "uploads a directory, and ONNX is one file", "upload it with `hf upload`")
    if private and push is None:
        raise UsageError("--private", "nothing is uploaded", "add --push-to-hub org/repo or omit the option")
    if offline and push is not None:
        raise UsageError("--offline", "contradicts --push-to-hub", "use only one of the two")
    from rcodsr.checkpoints.export import export
    from rcodsr.checkpoints.push import Destination

    destination = None if push is None else Destination(push, note)  # a missing token is reported before the work
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
