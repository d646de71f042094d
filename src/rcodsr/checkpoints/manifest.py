"""The weights manifest `weights.toml`: names of checkpoints, their sources, and the hash of each file."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rcodsr.errors import WeightsError

PACKAGE = Path(__file__).parents[1]
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_inside(name: str) -> bool:
    """Whether a relative file name stays inside its directory, on every system."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and not {"..", "."} & {*name.split("/")} and not set(name) & set("\\:\0")


@dataclass(frozen=True)
class ManifestFile:
    """One file of a checkpoint."""

    name: str
    bytes: int | None = None
    sha256: str | None = None
    """Expected hash. None: not yet known, so the resolver records the hash of the first download."""

    def __post_init__(self) -> None:
        """Refuse names that point outside their directory.

        Raises:
            WeightsError: when the name does.
        """
        if not is_inside(self.name):
            raise WeightsError(self.name, "points outside its directory", "do not use this list of files")


@dataclass(frozen=True)
class Source:
    """A repository on the Hub."""

    repo: str
    revision: str | None = None
    """40 hex digits. None: the resolver pins the commit of the first download."""


@dataclass(frozen=True)
class ManifestEntry:
    """A named checkpoint or base."""

    name: str
    status: str
    """packaged, hub (a base), foreign (others' checkpoint, converted when fetched), manual (the same, but not on the Hub),
    or unpublished."""
    about: str
    licence: str
    sources: tuple[Source, ...]
    """Repositories, in the order they are tried."""
    files: tuple[ManifestFile, ...]
    bytes: int | None = None
    """Approximate download size, if files do not state theirs."""
    page: str = ""
    """Web page for weights that cannot be fetched."""

    def __post_init__(self) -> None:
        """Refuse names that point outside their directory.

        Raises:
            WeightsError: when the name does.
        """
        for name, rule in ((self.name, _NAME), *((source.repo, REPO) for source in self.sources)):
            if not rule.fullmatch(name):
                raise WeightsError("weights.toml", f"'{name}' is not a valid name", "install rcodsr again")

    @property
    def size(self) -> int | None:
        """Bytes of all files, possibly approximate."""
        known = [file.bytes for file in self.files]
        return sum(size for size in known if size is not None) if known and None not in known else self.bytes

    @property
    def directory(self) -> Path:
        """Directory of a packaged checkpoint."""
        return PACKAGE / "assets" / self.name


def read_manifest() -> dict[str, ManifestEntry]:
    """Read the entries of the manifest by name."""
    values = tomllib.loads(project_file("weights.toml").read_text(encoding="utf-8"))
    return {
        name: ManifestEntry(
            name=name,
            status=entry["status"],
            about=entry["about"],
            licence=entry.get("licence", ""),
            sources=tuple(Source(**source) for source in entry.get("sources", ())),
            files=tuple(ManifestFile(**file) for file in entry.get("files", ())),
            bytes=entry.get("bytes"),
            page=entry.get("page", ""),
        )
        for name, entry in values.items()
    }


def upscaling(manifest: dict[str, ManifestEntry]) -> list[str]:
    """Names of available weights that enlarge pictures, without bases and unpublished ones."""
    return [name for name, entry in manifest.items() if entry.status in {"packaged", "foreign", "manual"}]


def recipe_names() -> list[str]:
    """Names of the packaged recipes, such as `rcod-o` or `ablations/tiny`."""
    top = project_file("recipes")
    return sorted(path.relative_to(top).with_suffix("").as_posix() for path in top.rglob("*.toml"))


def project_file(name: str) -> Path:
    """Path of a file at the top of the source tree, which an installed wheel has inside the package."""
    installed = PACKAGE / name
    return installed if installed.exists() else PACKAGE.parents[1] / name
