"""`rcodsr weights`: checkpoints for others."""

from pathlib import Path
from typing import Annotated

import typer

from rcodsr.cli.streams import note, result_line
from rcodsr.errors import UsageError

app = typer.Typer(help="Export and publish checkpoints.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Export and publish checkpoints."""


@app.command("export")
def export(
    source: Annotated[str, typer.Argument(help="Name, checkpoint directory, org/repo, or random:VARIANT[:SEED].")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory; appears whole or not at all.")],
    merged: Annotated[
        bool, typer.Option("--merged", help="Fold an adapter into float16 weights that need no base; else copy.")
    ] = False,
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
    """Write a checkpoint directory that --weights takes, and upload it if asked to."""
    if private and push is None:
        raise UsageError("--private", "nothing is uploaded", "add --push-to-hub org/repo, or leave it out")
    if offline and push is not None:
        raise UsageError("--offline", "contradicts --push-to-hub", "leave one of the two out")
    from rcodsr.checkpoints.export import export
    from rcodsr.checkpoints.load import LoadRequest
    from rcodsr.checkpoints.push import Destination

    destination = None if push is None else Destination(push, note)  # a missing token is told before the work
    export(LoadRequest(source, base_model, revision, offline), output, merged, overwrite, note)
    result_line(str(output))
    if destination is not None:
        result_line(destination.upload(output, private))
    return 0
