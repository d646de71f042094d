"""Weights by name, including others' checkpoints, which are fetched as published, converted once, and cached."""

from pathlib import Path

from rcodsr.checkpoints.config import FORMAT_VERSION
from rcodsr.checkpoints.manifest import ManifestEntry, ManifestFile, read_manifest
from rcodsr.checkpoints.pins import Pin, read_pin, write_pin
from rcodsr.checkpoints.resolve import PICKLES, ResolvedWeights, resolve, sha256_all
from rcodsr.errors import OutputError, WeightsError
from rcodsr.messages import Log, silent


def find_weights(weights: str, revision: str | None = None, offline: bool = False, log: Log = silent) -> ResolvedWeights:
    """Find weights in rcodsr's format and verify their files, like `resolve`. Others' checkpoints are converted at first use.

    Raises:
        UsageError: when a revision is passed for weights that have none.
        WeightsError: when the weights are unknown, unavailable or damaged, or cannot be converted.
    """
    entry = read_manifest().get(weights)
    if entry is None or entry.status not in {"foreign", "manual"} or revision is not None:
        return resolve(weights, revision, offline, log)
    found = read_converted(weights, log)
    if found is not None:
        return found
    published = _published(entry, offline, log)
    from rcodsr.checkpoints.published import read_published

    paths = [published.directory / name for name in published.hashes if name.endswith(PICKLES)]
    log(f"{weights}: converting {', '.join(path.name for path in paths)} to safetensors")
    try:
        read_published(paths).write(converted_directory(weights))
    except OSError as error:
        cause = f"cannot be written ({error.strerror})"
        raise OutputError(converted_directory(weights), cause, "free some space or set HF_HOME") from error
    return record_converted(entry)


def _published(entry: ManifestEntry, offline: bool, log: Log) -> ResolvedWeights:
    try:
        return resolve(entry.name, None, offline, log)
    except WeightsError as error:
        if entry.status == "manual":
            raise
        files = " ".join(file.name for file in entry.files)
        remedy = f"{error.remedy}; or get {files} from {entry.page} and run `rcodsr weights convert {files}`"
        raise type(error)(error.subject, error.cause, remedy) from error


def converted_directory(name: str) -> Path:
    """Directory of a converted checkpoint."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "rcodsr" / "converted" / name


def record_converted(entry: ManifestEntry) -> ResolvedWeights:
    """Record the hashes of a converted checkpoint, so that later damage is detected."""
    directory = converted_directory(entry.name)
    names = sorted(path.name for path in directory.iterdir() if path.name != "README.md")
    hashes = sha256_all(directory, names)
    files = tuple(ManifestFile(name, (directory / name).stat().st_size, hashes[name]) for name in names)
    write_pin(_key(entry.name), Pin("", "converted", files))
    return ResolvedWeights(entry.name, directory, hashes, "converted")


def read_converted(name: str, log: Log = silent) -> ResolvedWeights | None:
    """A converted checkpoint, verified. None if it is missing, or damaged and to be converted again."""
    pin, directory = converted_pin(name), converted_directory(name)
    if pin is None:
        return None
    hashes = sha256_all(directory, [file.name for file in pin.files])
    if damaged := [file.name for file in pin.files if hashes[file.name] != file.sha256]:
        log(f"{directory / damaged[0]}: damaged (its sha256 has changed), converting it again")
        return None
    return ResolvedWeights(name, directory, hashes, "converted")


def converted_pin(name: str) -> Pin | None:
    """The record of a converted checkpoint whose files all exist."""
    pin = read_pin(_key(name))
    return pin if pin is not None and all((converted_directory(name) / file.name).is_file() for file in pin.files) else None


def forget_converted(name: str) -> None:
    """Delete the record of a converted checkpoint."""
    write_pin(_key(name), None)


def _key(name: str) -> str:
    return f"{name}, converted, format {FORMAT_VERSION}"
