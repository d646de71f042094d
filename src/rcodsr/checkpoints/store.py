"""Known weights and their local state: list, pull, locate, verify, remove."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rcodsr.checkpoints import named
from rcodsr.checkpoints.card import read_card
from rcodsr.checkpoints.config import CONFIG_FILE, WEIGHT_FILES, CheckpointConfig, read_config
from rcodsr.checkpoints.hub import RemoteFile, Repository
from rcodsr.checkpoints.manifest import REPO, ManifestEntry, read_manifest
from rcodsr.checkpoints.pins import Pin, read_pin, read_pins, write_pin
from rcodsr.checkpoints.resolve import ResolvedWeights, resolve_base, sha256_all
from rcodsr.errors import HubError, UsageError, WeightsError
from rcodsr.messages import Log, nearest, silent
from rcodsr.variants import VARIANTS


@dataclass(frozen=True)
class WeightsEntry:
    """Weights or a base, as shown by `weights list`. The fields are the keys of `--json`."""

    name: str
    status: str
    """packaged, hub, foreign, manual, unpublished, repository or local."""
    published: bool
    cached: bool
    bytes: int | None = None
    licence: str = ""
    source: str = ""
    """Local path or source."""
    about: str = ""
    needs: list[str] = field(default_factory=list)
    """Bases that it needs."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class PlannedFile:
    """A file that `pull` would fetch."""

    name: str
    source: str
    file: str
    bytes: int | None
    cached: bool


def list_weights() -> Iterator[WeightsEntry]:
    """Every entry of the manifest, and repositories used before. Contacts no server."""
    pins = read_pins()
    for name, entry in read_manifest().items():
        cached = entry.status == "packaged" or _lies_here(entry)
        pin = pins.get(name)
        source = entry.directory.name if entry.status == "packaged" else entry.page
        source = f"{pin.repo}@{pin.revision[:12]}" if pin else entry.sources[0].repo if entry.sources else source
        published = entry.status not in {"unpublished"}
        yield WeightsEntry(name, entry.status, published, cached, entry.size, entry.licence, source, entry.about, needs(name))
    for key, pin in pins.items():
        name = key.removesuffix("@main")
        if REPO.fullmatch(name.partition("@")[0]) and pin.repo == name.partition("@")[0]:
            found = _paths(pin)
            size = sum(file.bytes or 0 for file in pin.files)
            yield WeightsEntry(name, "repository", True, found is not None, size, source=f"{pin.repo}@{pin.revision[:12]}")


def describe(weights: str, log: Log = silent) -> WeightsEntry:
    """One entry: by name, a checkpoint directory, or a repository, whose model card and configuration are read.

    Raises:
        WeightsError: when it does not exist, or the Hub does not answer.
    """
    for item in list_weights():
        if item.name == weights and item.status != "repository":
            return item
    directory = Path(weights)
    if directory.is_dir():
        config = read_config(directory)
        size = sum((directory / file).stat().st_size for file in config.files if (directory / file).is_file())
        return _described(weights, "local", config, size, str(directory), read_card(directory / "README.md"))
    if not REPO.fullmatch(weights):
        raise _unknown(weights)
    repository = Repository(weights, log)
    commit, files = repository.commit(None)
    about = {file.name: file for file in files}
    if CONFIG_FILE not in about:
        raise WeightsError(weights, "not an rcodsr checkpoint (no config.json)", "choose another repository")
    config = read_config(repository.download(CONFIG_FILE, commit).parent)
    card = read_card(repository.download("README.md", commit)) if "README.md" in about else {}
    size = sum(about[file].bytes or 0 for file in config.files if file in about)
    return _described(weights, "repository", config, size, f"{weights}@{commit[:12]}", card)


def _unknown(name: str) -> WeightsError:
    near = nearest(name.lower(), read_manifest())
    hint = f"did you mean {near}? See" if near else "see"
    return WeightsError(name, "unknown weights", f"{hint} `rcodsr weights list`, or pass a directory or org/repo")


def _described(name: str, status: str, config: CheckpointConfig, size: int, source: str, card: dict[str, Any]) -> WeightsEntry:
    licence = str(card.get("license_name") or card.get("license") or "")
    about = f"{config.spec.name}, {config.layout}" + (f" over {card['base_model']}" if card.get("base_model") else "")
    cached = status == "local" or read_pin(f"{name}@main") is not None
    return WeightsEntry(name, status, True, cached, size, licence, source, about, _needs(config))


def needs(name: str) -> list[str]:
    """Names of the bases that weights of the manifest need."""
    spec = VARIANTS.get(name)
    return [] if spec is None else _needs(CheckpointConfig(spec, "adapter"))


def _needs(config: CheckpointConfig) -> list[str]:
    spec = config.spec
    if config.layout == "merged":
        return []
    words = spec.computes_prompt and spec.base is not None
    return [name for name in (spec.base, f"{spec.base}-text" if words else None, spec.vision) if name is not None]


def missing(weights: str, config: CheckpointConfig | None, base_model: str | None = None) -> dict[str, int | None]:
    """Weights and bases that are missing on this machine, with their bytes if known. Contacts no server.

    Args:
        weights: the user's name for them.
        config: configuration of local weights. None if they are missing.
        base_model: replacement for a base, which is then not listed.
    """
    known = {item.name: item for item in list_weights()}
    spec = VARIANTS.get(weights) if config is None else config.spec
    replaced = spec.base if spec is not None and base_model is not None else None
    if config is None and weights not in known:
        return {weights: None}
    wanted = _needs(config) if config is not None else [weights, *needs(weights)]
    items = [known[name] for name in wanted if name != replaced and name in known]
    return {item.name: item.bytes for item in items if not item.cached}


def pull(weights: str, revision: str | None = None, force: bool = False, log: Log = silent) -> list[ResolvedWeights]:
    """Fetch weights and their bases, convert them if needed, and verify every file.

    Raises:
        UsageError: when a revision is passed for weights that have none.
        WeightsError: when something is unavailable.
    """
    entry = read_manifest().get(weights)
    if force and (entry is None or entry.status != "packaged"):
        with suppress(WeightsError):
            remove(weights)
    if entry is not None and entry.status == "hub":
        return [resolve_base(weights, log=log)]
    found = named.find_weights(weights, revision, log=log)
    return [found, *(resolve_base(name, log=log) for name in _needs(read_config(found.directory)))]


def plan_pull(weights: str, revision: str | None = None, log: Log = silent) -> list[PlannedFile]:
    """Files that `pull` would fetch. Queries only their names and sizes.

    Raises:
        WeightsError: see `pull`.
    """
    entry = read_manifest().get(weights)
    if entry is None and not REPO.fullmatch(weights):
        raise _unknown(weights)
    if entry is not None and entry.status in {"packaged", "unpublished", "manual"}:
        pull(weights, log=log)  # nothing to fetch, or it reports why not
        return []
    files = _planned(weights, entry, revision, log)
    below = needs(weights) if entry is not None else []
    return files + [file for name in below for file in _planned(name, read_manifest()[name], None, log)]


def _planned(name: str, entry: ManifestEntry | None, revision: str | None, log: Log) -> list[PlannedFile]:
    """The files of one name, from the first source that answers."""
    known = read_pin(name)
    repos = [name] if entry is None else [source.repo for source in entry.sources]
    if known is not None and known.repo in repos:
        repos.sort(key=lambda repo: repo != known.repo)
    problem: WeightsError | None = None
    for repo in repos:
        repository = Repository(repo, log)
        try:
            commit, remote = repository.commit(known.revision if known and known.repo == repo else revision)
        except HubError:
            raise
        except WeightsError as error:
            problem = problem or error
            continue
        chosen = [file for file in remote if _is_wanted(file, entry)]
        return [
            PlannedFile(name, f"{repo}@{commit[:12]}", f.name, f.bytes, repository.cached(f.name, commit) is not None)
            for f in chosen
        ]
    raise problem or WeightsError(name, "has no source", "see `rcodsr weights list`")


def _is_wanted(file: RemoteFile, entry: ManifestEntry | None) -> bool:
    if entry is None:
        return file.name in {CONFIG_FILE, *WEIGHT_FILES}
    return any(file.name == wanted.name or file.name.endswith(f"/{wanted.name}") for wanted in entry.files)


def locate(weights: str) -> Path:
    """The directory of local weights, without hashing or a server.

    Raises:
        WeightsError: when they are not on this machine.
    """
    entry = read_manifest().get(weights)
    if entry is not None and entry.status == "packaged":
        return entry.directory
    if Path(weights).is_dir():
        read_config(Path(weights))
        return Path(weights)
    if entry is not None and entry.status in {"foreign", "manual"} and named.converted_pin(weights) is not None:
        return named.converted_directory(weights)
    pin = read_pin(weights) or read_pin(f"{weights}@main")
    found = _paths(pin) if pin is not None else None
    if pin is None and entry is None and not REPO.fullmatch(weights):
        raise _unknown(weights)
    if pin is None or found is None:
        raise WeightsError(weights, "not in the cache", f"run `rcodsr weights pull {weights}`")
    return found[0].parents[len(Path(pin.files[0].name).parts) - 1]


def verify(weights: str) -> int:
    """Hash all files of weights again. Returns their bytes.

    Raises:
        WeightsError: when they are missing, or naming the first file that has changed.
    """
    entry = read_manifest().get(weights)
    if entry is not None and entry.status == "packaged":
        found = named.find_weights(weights)
        return sum((found.directory / file).stat().st_size for file in found.hashes)
    if Path(weights).is_dir():
        from rcodsr.checkpoints.format import check_files

        return sum((Path(weights) / file).stat().st_size for file in check_files(Path(weights)).files)
    directory = locate(weights)
    pin = (
        named.converted_pin(weights)
        if directory == named.converted_directory(weights)
        else read_pin(weights) or read_pin(f"{weights}@main")
    )
    assert pin is not None  # otherwise it would not have been located
    hashes = sha256_all(directory, [file.name for file in pin.files])
    for file in pin.files:
        if hashes[file.name] != file.sha256:
            cause = f"damaged (its sha256 has changed to {hashes[file.name][:12]}…)"
            raise WeightsError(directory / file.name, cause, f"run `rcodsr weights pull --force {weights}`")
    return sum(file.bytes or 0 for file in pin.files)


def remove(weights: str, dry_run: bool = False) -> int:
    """Remove weights from the cache, but not their bases. Returns the number of bytes.

    Raises:
        UsageError: when they are part of the package, or a directory of the user's.
        WeightsError: when they are not in the cache.
    """
    entry = read_manifest().get(weights)
    if entry is not None and entry.status == "packaged":
        raise UsageError(weights, "comes with the package", "uninstall rcodsr to remove it")
    if entry is None and Path(weights).is_dir():
        raise UsageError(weights, "your own directory", "remove it yourself")
    freed = _remove_converted(weights, dry_run)
    for key in (weights, f"{weights}@main"):
        if (pin := read_pin(key)) is not None:
            freed = (freed or 0) + _remove_pinned(key, pin, dry_run)
    if freed is None:
        raise WeightsError(weights, "not in the cache", "see `rcodsr weights list`")
    return freed


def _remove_converted(name: str, dry_run: bool) -> int | None:
    pin = named.converted_pin(name)
    if pin is None:
        return None
    if not dry_run:
        named.forget_converted(name)
        shutil.rmtree(named.converted_directory(name), ignore_errors=True)
    return sum(file.bytes or 0 for file in pin.files)


def _remove_pinned(key: str, pin: Pin, dry_run: bool) -> int:
    """Remove the files of a pin that no other pin needs. Contents shared with other commits or repositories are kept."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    where = (pin.repo, pin.revision)
    others = [other for name, other in read_pins().items() if name != key and (other.repo, other.revision) == where]
    names = {file.name for file in pin.files} - {file.name for other in others for file in other.files}
    freed = 0
    with suppress(CacheNotFound):
        cache = scan_cache_dir()
        repositories = [repo for repo in cache.repos if (repo.repo_type, repo.repo_id) == ("model", pin.repo)]
        commits = [commit for repo in repositories for commit in repo.revisions if commit.commit_hash == pin.revision]
        strategy = cache.delete_files(
            *(file for c in commits for file in c.files if file.file_path.relative_to(c.snapshot_path).as_posix() in names)
        )
        freed = strategy.expected_freed_size
        if not dry_run:
            strategy.execute()
    if not dry_run:
        write_pin(key, None)
    return freed


def _lies_here(entry: ManifestEntry) -> bool:
    if entry.status in {"foreign", "manual"} and named.converted_pin(entry.name) is not None:
        return True
    pin = read_pin(entry.name)
    return pin is not None and _paths(pin) is not None


def _paths(pin: Pin) -> list[Path] | None:
    """The files of a pin if all of them are in the cache."""
    if not pin.repo:
        return None
    repository = Repository(pin.repo, silent)
    found = [repository.cached(file.name, pin.revision) for file in pin.files]
    return [path for path in found if path is not None] if None not in found else None
