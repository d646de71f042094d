"""From what a user calls weights to a verified local directory."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rcodsr.checkpoints.manifest import ManifestEntry, ManifestFile, read_manifest
from rcodsr.errors import WeightsError

DEFAULT = "rcod-tiny"


@dataclass(frozen=True)
class ResolvedWeights:
    """A checkpoint that is on this machine."""

    name: str
    directory: Path
    digest: str
    """sha256 over the contents of its files, 64 hex digits: two checkpoints with the same digest give the same pixels."""

    @property
    def id(self) -> str:
        """Name and abbreviated digest, as records and reports show it."""
        return f"{self.name}@{self.digest[:12]}"


def resolve(weights: str) -> ResolvedWeights:
    """Find weights by name or path; a packaged checkpoint's files must match the manifest.

    Args:
        weights: a name of the manifest or a checkpoint directory.

    Raises:
        WeightsError: when they are unknown, not published, or do not match their hashes.
    """
    manifest = read_manifest()
    entry = manifest.get(weights)
    if entry is None:
        return _local(weights, sorted(manifest))
    if entry.status != "packaged":
        raise WeightsError(
            weights, f"no weights are published ({entry.about})", "use --weights rcod-tiny or a checkpoint directory"
        )
    hashes = [_verify(entry, file) for file in entry.files]
    return ResolvedWeights(weights, entry.directory, _digest(hashes))


def _local(weights: str, known: list[str]) -> ResolvedWeights:
    directory = Path(weights)
    if not directory.is_dir():
        raise WeightsError(weights, "unknown weights", f"use one of {', '.join(known)}, or a checkpoint directory")
    files = [directory / "config.json", *sorted(directory.glob("*.safetensors"))]
    if not files[0].exists():
        raise WeightsError(weights, "not a checkpoint directory (no config.json)", "point --weights to one")
    return ResolvedWeights(directory.resolve().name, directory, _digest([sha256(file) for file in files]))


def _verify(entry: ManifestEntry, file: ManifestFile) -> str:
    path = entry.directory / file.name
    found = sha256(path)
    if found != file.sha256:
        raise WeightsError(path, "damaged (its sha256 is not the published one)", "install rcodsr again")
    return found


def sha256(path: Path) -> str:
    """Hash of a file, 64 hex digits.

    Raises:
        WeightsError: when it cannot be read.
    """
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(path, f"cannot be read ({error.strerror})", "install or export the checkpoint again") from error


def _digest(hashes: list[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
