"""Export checkpoints: copied, merged into weights that need no base, or in the formats of peft and diffusers."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError

from rcodsr.checkpoints import interchange
from rcodsr.checkpoints.card import as_merged, model_card, write_notices
from rcodsr.checkpoints.config import CheckpointConfig, read_config
from rcodsr.checkpoints.format import check_files, save_model, write
from rcodsr.checkpoints.load import load_weights
from rcodsr.checkpoints.manifest import read_manifest
from rcodsr.checkpoints.named import converted_directory, find_weights, record_converted
from rcodsr.checkpoints.resolve import ResolvedWeights, resolve_base, sha256_all
from rcodsr.checkpoints.staging import staged
from rcodsr.errors import OutputError, UsageError, WeightsError
from rcodsr.messages import Log, silent
from rcodsr.options import WeightsRequest
from rcodsr.variants import VARIANTS, VariantSpec

_CARD = "README.md"


def export(
    request: WeightsRequest,
    directory: Path,
    merged: bool = False,
    overwrite: bool = False,
    log: Log = silent,
    format: str = "rcodsr",
) -> None:
    """Write a checkpoint directory for `--weights`, or one of `interchange`, atomically.

    Args:
        request: which weights.
        directory: output directory.
        merged: merge LoRA into the weights and store them as float16, so that no base is needed. Otherwise copy every file.
        overwrite: replace an existing checkpoint.
        log: receives a line when something is fetched.
        format: rcodsr, or one of `interchange`.

    Raises:
        UsageError: when the request contradicts itself or the format, or the directory must not be replaced.
        WeightsError: when the weights are unknown, unavailable or damaged, or a merged value does not fit into float16.
        OutputError: when the directory cannot be written.
    """
    _check_request(request, merged or format == interchange.MERGED)
    check_target(request.name, directory, overwrite)
    target = directory.resolve()  # resolve links, and because . has no name
    if format == interchange.MERGED:
        interchange.check(spec_of(request, log), format)
        _merge_for_diffusers(request, target, log)
    elif format in interchange.LORA_FORMATS:
        _adapter(request, target, format, log)
    elif merged:
        _merge(request, target, log)
    else:
        _copy(request, target, log)


def convert(paths: Sequence[Path], directory: Path | None, base_model: str | None, log: Log = silent) -> ResolvedWeights:
    """Convert a published checkpoint of OSEDiff, S3Diff or PiSA-SR to rcodsr's format, atomically.

    Args:
        paths: the published files, or a directory of `interchange` to convert back.
        directory: output directory. None stores it in the cache under its name.
        base_model: directory or repository of the base, whose hashes are recorded.
        log: receives a line about the contents.

    Raises:
        WeightsError: when a file is damaged or dangerous, or a key is missing, unexpected, misshapen or not finite.
        OutputError: when the directory cannot be written.
    """
    if len(paths) == 1 and paths[0].is_dir():
        return _convert_back(paths[0], directory, base_model, log)
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


def _convert_back(source: Path, directory: Path | None, base_model: str | None, log: Log) -> ResolvedWeights:
    """Convert a directory of `interchange` back to rcodsr's format."""
    if directory is None:
        raise UsageError(source, "needs an output directory", "use -o DIRECTORY")
    if base_model is not None:
        raise UsageError("--base-model", "the bases are recorded in the checkpoint", "omit the option")
    config, tables = interchange.read(source)
    log(f"{source}: {config.spec.name}, {sum(map(len, tables.values()))} tensors, none left over")
    with writing(directory.resolve()):
        write(directory.resolve(), tables, config, model_card(config.spec, config.training, config.layout))
    return ResolvedWeights(config.spec.name, directory, sha256_all(directory, config.files), "converted")


def spec_of(request: WeightsRequest, log: Log = silent) -> VariantSpec:
    """The variant of weights, before any of them is read or generated.

    Raises:
        UsageError: when random weights name no variant.
        WeightsError: when the weights are unknown, unavailable or damaged.
    """
    if request.name.startswith("random:"):
        known = VARIANTS.get(request.name.split(":")[1])
        return load_weights(request, log=log).model.spec if known is None else known  # which reports what is wrong
    return read_config(find_weights(request.name, request.revision, request.offline, log).directory).spec


def _adapter(request: WeightsRequest, target: Path, format: str, log: Log) -> None:
    source = find_weights(request.name, request.revision, request.offline, log).directory
    with writing(target), staged(target) as new:
        beside = interchange.write_adapter(source, new, format)
    if beside:
        log(f"{target}: {', '.join(beside)} beside the LoRA, for weights that {format} cannot store")


def _merge_for_diffusers(request: WeightsRequest, target: Path, log: Log) -> None:
    loaded = load_weights(request, log=log)
    untrained = CheckpointConfig(loaded.model.spec, training={"steps": 0, "planned_steps": 0})
    config = untrained if loaded.directory is None else read_config(loaded.directory)
    with writing(target), staged(target) as new:
        interchange.write_merged(new, loaded.model, config)


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
            raise WeightsError(found.directory, "changed while it was copied", "run again when nothing writes to it")
        (new / _CARD).write_text(card, encoding="utf-8")
        write_notices(new, config.spec)


def _card(source: Path | None, config: CheckpointConfig, layout: str) -> str:
    """The source's card, or a new one if it has none. A repository's card is not fetched."""
    path = source / _CARD if source is not None else None
    if path is not None and path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    return model_card(config.spec, config.training, layout)


def _check_request(request: WeightsRequest, merged: bool) -> None:
    if not merged and request.name.startswith("random:"):
        raise UsageError(request.name, "random weights have no files to copy", "add --merged")
    if not merged and request.base_model is not None:
        raise UsageError("--base-model", "a copy needs no base", "add --merged or omit the option")


def check_target(source: str, directory: Path, overwrite: bool) -> None:
    """Refuse to replace a directory that is not a checkpoint, or without `overwrite`.

    Raises:
        UsageError: when the directory must not be replaced.
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
        raise UsageError(directory, "already exists", "choose a new directory with -o or replace it with -y")
    if not any((directory / name).is_file() for name in ("config.json", interchange.NAME)):
        raise UsageError(directory, "is not a checkpoint directory", "choose a new directory with -o")


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn every failure to write a directory into an `OutputError`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OutputError(target, f"cannot be written ({cause})", "free some space, or choose another path with -o") from error
