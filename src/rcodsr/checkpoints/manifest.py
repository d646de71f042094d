"""The weights manifest `weights.toml`: names of checkpoints, where they come from, and what each file must hash to."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class ManifestFile:
    """One file of a checkpoint."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ManifestEntry:
    """One named checkpoint."""

    name: str
    status: str
    """packaged, or unpublished."""
    about: str
    licence: str
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
            files=tuple(ManifestFile(**file) for file in entry.get("files", ())),
        )
        for name, entry in values.items()
    }


def project_file(name: str) -> Path:
    """A file that stands at the top of the source tree and inside the package of an installed wheel."""
    installed = PACKAGE / name
    return installed if installed.exists() else PACKAGE.parents[1] / name
