"""The weights manifest `weights.toml`: names of checkpoints, where they come from, and what each file must hash to."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class ManifestFile:
    """One file of a checkpoint."""

    name: str
    bytes: int | None = None
    sha256: str | None = None
    """None: nobody has computed it yet; the resolver records what it finds at the first download."""


@dataclass(frozen=True)
class Source:
    """A repository on the Hub."""

    repo: str
    revision: str | None = None
    """40 hex digits, or None: the resolver pins the commit at the first download."""


@dataclass(frozen=True)
class ManifestEntry:
    """One named checkpoint or base."""

    name: str
    status: str
    """packaged, hub, or unpublished."""
    about: str
    licence: str
    sources: tuple[Source, ...]
    """Where it can be had, in the order they are tried."""
    files: tuple[ManifestFile, ...]

    @property
    def directory(self) -> Path:
        """Where a packaged checkpoint lives."""
        return PACKAGE / "assets" / self.name


def read_manifest() -> dict[str, ManifestEntry]:
    """All entries of the manifest by name."""
    values = tomllib.loads(project_file("weights.toml").read_text(encoding="utf-8"))
    return {
        name: ManifestEntry(
            name=name,
            status=entry["status"],
            about=entry["about"],
            licence=entry.get("licence", ""),
            sources=tuple(Source(**source) for source in entry.get("sources", ())),
            files=tuple(ManifestFile(**file) for file in entry.get("files", ())),
        )
        for name, entry in values.items()
    }


def project_file(name: str) -> Path:
    """A file that stands at the top of the source tree and inside the package of an installed wheel."""
    installed = PACKAGE / name
    return installed if installed.exists() else PACKAGE.parents[1] / name
