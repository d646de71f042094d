"""Checkpoints for others: copied as they are, or merged into weights that need no base."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError

from rcodsr.checkpoints.card import as_merged, model_card, write_notices
from rcodsr.checkpoints.config import CheckpointConfig, read_config
from rcodsr.checkpoints.format import check_files, save_model
from rcodsr.checkpoints.load import load_weights
from rcodsr.checkpoints.manifest import read_manifest
from rcodsr.checkpoints.named import converted_directory, find_weights, record_converted
from rcodsr.checkpoints.resolve import ResolvedWeights, resolve_base, sha256_all
from rcodsr.checkpoints.staging import staged
from rcodsr.config import WeightsRequest
from rcodsr.errors import OutputError, UsageError, WeightsError
from rcodsr.messages import Log, silent

_CARD = "README.md"


def export(request: WeightsRequest, directory: Path, merged: bool = False, overwrite: bool = False, log: Log = silent) -> None:
    """Write a checkpoint directory that `--weights` takes: whole, or not at all.

    Args:
        request: which weights.
        directory: where they go.
        merged: fold LoRA into the weights and store them as float16, so that no base is needed; else every file is copied.
        overwrite: replace a checkpoint that lies there.
        log: receives a line when something is fetched.

    Raises:
        UsageError: when the request contradicts itself, or the directory must not be replaced.
        WeightsError: when the weights are unknown, unavailable or damaged, or a merged one does not fit into float16.
        OutputError: when the directory cannot be written.
    """
    _check_request(request, merged)
    check_target(request.name, directory, overwrite)
    target = directory.resolve()  # through links; and . has no name
    if merged:
        _merge(request, target, log)
    else:
        _copy(request, target, log)


def convert(paths: Sequence[Path], directory: Path | None, base_model: str | None, log: Log = silent) -> ResolvedWeights:
    """Write a published checkpoint of OSEDiff, S3Diff or PiSA-SR as one of ours: whole, or not at all.

    Args:
        paths: the published files.
        directory: where it goes; None puts it where its name finds it.
        base_model: directory or repository of the base, whose hashes are then recorded.
        log: receives a line about what was found.

    Raises:
        WeightsError: when a file is damaged or dangerous, or a key is missing, unexpected, misshapen or not finite.
        OutputError: when the directory cannot be written.
    """
    from rcodsr.checkpoints.published import read_published

    published = read_published(paths)
    spec = published.config.spec
    if base_model is not None and spec.base is not None:
        base = resolve_base(spec.base, base_model, log=log)
        published = replace(published, config=replace(published.config, bases={spec.base: base.hashes}))
    log(published.summary)
    target = converted_directory(spec.name) if directory is None else directory.resolve()
    with writing(target):
        published.write(target)
    if directory is None:
        return record_converted(read_manifest()[spec.name])
    return ResolvedWeights(spec.name, directory, sha256_all(directory, published.config.files), "converted")


def _merge(request: WeightsRequest, target: Path, log: Log) -> None:
    loaded = load_weights(request, log=log)
    source = loaded.directory
    untrained = CheckpointConfig(loaded.model.spec, training={"steps": 0, "planned_steps": 0})
    config = untrained if source is None else read_config(source)
    card = as_merged(_card(source, config, "merged"))
    with writing(target):
        save_model(target, loaded.model, config.training, card)


def _copy(request: WeightsRequest, target: Path, log: Log) -> None:
    found = find_weights(request.name, request.revision, request.offline, log)
    config = check_files(found.directory)
    card = _card(found.directory, config, config.layout)
    with writing(target), staged(target) as new:
        for name in found.hashes:
            shutil.copyfile(found.directory / name, new / name)
        if sha256_all(new, list(found.hashes)) != found.hashes:
            raise WeightsError(found.directory, "has changed while it was copied", "run again when nothing writes to it")
        (new / _CARD).write_text(card, encoding="utf-8")
        write_notices(new, config.spec)


def _card(source: Path | None, config: CheckpointConfig, layout: str) -> str:
    """The source's card, or a new one where it has none: a repository's is not fetched."""
    path = source / _CARD if source is not None else None
    if path is not None and path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    return model_card(config.spec, config.training, layout)


def _check_request(request: WeightsRequest, merged: bool) -> None:
    if not merged and request.name.startswith("random:"):
        raise UsageError(request.name, "random weights have no files to copy", "add --merged")
    if not merged and request.base_model is not None:
        raise UsageError("--base-model", "a copy needs no base", "add --merged, or leave it out")


def check_target(source: str, directory: Path, overwrite: bool) -> None:
    """Refuse to replace what is no checkpoint, or was not meant to be replaced.

    Raises:
        UsageError: naming the remedy.
    """
    if not directory.is_dir():
        if directory.exists():
            raise UsageError(directory, "is a file", "choose a directory with -o")
        return
    if not any(directory.iterdir()):
        return
    if Path(source).is_dir() and directory.samefile(source):
        raise UsageError(directory, "is the source itself", "choose another directory with -o")
    if not overwrite:
        raise UsageError(directory, "exists already", "choose a new directory with -o, or replace it with -y")
    if not (directory / "config.json").is_file():
        raise UsageError(directory, "holds something else than a checkpoint", "choose a new directory with -o")


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Every way in which a directory cannot be written, in one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OutputError(target, f"cannot be written ({cause})", "free some space, or choose another place with -o") from error
