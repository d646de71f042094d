"""Resolve a user's name for weights to a verified local directory: packaged, a path, or a commit on the Hub.

Every file is hashed each time it is used. Once files are downloaded and pinned, no server is contacted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from rcodsr.checkpoints.config import CONFIG_FILE, read_config
from rcodsr.checkpoints.hub import COMMIT, DIGEST, RemoteFile, Repository, address
from rcodsr.checkpoints.manifest import REPO, ManifestEntry, ManifestFile, Source, read_manifest, upscaling
from rcodsr.checkpoints.pins import Pin, read_pin, write_pin
from rcodsr.errors import HubError, UsageError, WeightsError
from rcodsr.messages import Log, nearest, silent, size_text

_CONFIG = ManifestFile(CONFIG_FILE)
LARGEST = 32 << 30
"""Maximum bytes of a hashed file. The largest base has 3.5 billion."""
PICKLES = (".pkl", ".pth")
"""Suffixes of others' checkpoints in the manifest."""
_FOREIGN = {".pkl", ".pth", ".pt", ".ckpt", ".bin", ".safetensors"}
"""Suffixes of single weight files, which are not loaded directly."""


@dataclass(frozen=True)
class ResolvedWeights:
    """A local checkpoint or base with verified files."""

    name: str
    directory: Path
    hashes: dict[str, str]
    """sha256 of each file, by its name in the directory."""
    source: str = "local"
    """packaged, local, or repository@commit."""

    @property
    def digest(self) -> str:
        """sha256 over the hashes of the files. Checkpoints with the same digest produce the same pixels."""
        return hashlib.sha256("".join(self.hashes[name] for name in sorted(self.hashes)).encode()).hexdigest()

    @property
    def id(self) -> str:
        """Name and abbreviated digest, as shown in records and reports."""
        return f"{self.name}@{self.digest[:12]}"


def resolve(weights: str, revision: str | None = None, offline: bool = False, log: Log = silent) -> ResolvedWeights:
    """Find weights and verify their files.

    Args:
        weights: a name of the manifest, a directory, or organisation/name of a repository on the Hub. Others' checkpoints
            (status foreign) are returned as published; `named.find_weights` converts them.
        revision: commit, branch or tag of a repository. A commit of 40 hex digits pins it.
        offline: contact no server.
        log: receives a line when something is fetched.

    Raises:
        UsageError: when a revision is passed for weights that have none.
        WeightsError: when the weights are unknown, unpublished or unavailable, or do not match their hashes.
    """
    manifest = read_manifest()
    entry = manifest.get(weights)
    is_repo = entry is None and not Path(weights).exists() and REPO.fullmatch(weights) is not None
    if revision is not None and not is_repo:
        raise UsageError(
            "--revision", f"{weights} is not a repository on the Hub", "omit the option, or use --weights org/repo"
        )
    if is_repo:
        return _Fetcher(f"{weights}@{revision or 'main'}", (Source(weights, revision),), (), offline, log).resolve()
    if entry is None:
        return _local(weights, manifest)
    if entry.status == "packaged":
        return _packaged(entry)
    if entry.status == "manual":
        file = entry.files[0].name
        remedy = f"get {file} from {entry.page}, then run `rcodsr weights convert {file}`"
        raise WeightsError(weights, "not on the Hub", remedy)
    if entry.status == "unpublished":
        raise WeightsError(
            weights,
            f"no weights are published ({entry.about})",
            f"train them (rcodsr train {weights} photos=DIRECTORY), or point --weights to a checkpoint directory or org/repo",
        )
    return _Fetcher(weights, entry.sources, entry.files, offline, log).resolve()


def resolve_base(name: str, override: str | None = None, offline: bool = False, log: Log = silent) -> ResolvedWeights:
    """Find a base of an adapter.

    Args:
        name: a base of the manifest.
        override: a directory laid out like the base's repository, or organisation/name of another repository.
        offline: contact no server.
        log: receives a line when something is fetched.

    Raises:
        WeightsError: see `resolve`.
    """
    entry = read_manifest().get(name)
    if entry is None or entry.status != "hub":
        raise WeightsError(name, "unknown base", "update rcodsr, or export the checkpoint merged")
    if override is None:
        return _Fetcher(name, entry.sources, entry.files, offline, log).resolve()
    if Path(override).is_dir():
        names = [file.name for file in entry.files]
        return ResolvedWeights(name, Path(override), sha256_all(Path(override), names))
    if not REPO.fullmatch(override):
        raise WeightsError(override, "no such directory", "pass --base-model a directory or organisation/name")
    return _Fetcher(f"{name}@{override}", (Source(override),), entry.files, offline, log).resolve()


def _packaged(entry: ManifestEntry) -> ResolvedWeights:
    hashes = sha256_all(entry.directory, [file.name for file in entry.files])
    for file in entry.files:
        if hashes[file.name] != file.sha256:
            path = entry.directory / file.name
            raise WeightsError(path, "damaged (its sha256 is not the published one)", "install rcodsr again")
    return ResolvedWeights(entry.name, entry.directory, hashes, "packaged")


def known_digest(name: str) -> str | None:
    """Digest of a base at its last verification. None if it was never verified."""
    pin = read_pin(name)
    if pin is None or any(file.sha256 is None for file in pin.files):
        return None
    return ResolvedWeights(name, Path(), {file.name: str(file.sha256) for file in pin.files}).digest


def _local(weights: str, manifest: dict[str, ManifestEntry]) -> ResolvedWeights:
    directory = Path(weights)
    if not directory.is_dir():
        if directory.suffix.lower() in _FOREIGN and directory.exists():
            remedy = f"run `rcodsr weights convert {weights}`, or point --weights to a checkpoint directory"
            raise WeightsError(weights, "a single weight file cannot be loaded", remedy)
        if directory.exists():
            raise WeightsError(weights, "not a directory", "pass the directory that contains config.json")
        if weights.startswith((".", "/", "~")) or "\\" in weights or weights.endswith("/"):
            raise WeightsError(weights, "no such directory", "check the path; a checkpoint is a directory with a config.json")
        raise WeightsError(weights, "unknown weights", _nearest(weights, manifest))
    return ResolvedWeights(directory.resolve().name, directory, sha256_all(directory, read_config(directory).files))


def _nearest(weights: str, manifest: dict[str, ManifestEntry]) -> str:
    """Suggest the nearest known name, and list the valid ones."""
    names = upscaling(manifest)
    near = nearest(weights.lower(), [name for name, entry in manifest.items() if entry.status != "hub"])
    others = f"{', '.join(names)}, random:rcod-o, a checkpoint directory, or org/repo"
    return f"did you mean {near}? It may be {others}" if near else f"use one of {others}"


class _Fetcher:
    """Fetches the files of a name into the cache: pinned commit first, then the sources in order.

    Args:
        key: name of the pin.
        sources: repositories to try.
        files: files to fetch. Empty: all files of our checkpoint format.
        offline: contact no server.
        log: receives a line when something is fetched.
    """

    def __init__(self, key: str, sources: Sequence[Source], files: Sequence[ManifestFile], offline: bool, log: Log) -> None:
        from huggingface_hub import constants

        self.key, self.sources, self.files, self.log = key, sources, files, log
        self.offline = offline or constants.is_offline_mode()

    def resolve(self) -> ResolvedWeights:
        """Verified files, without a request if they are cached and pinned."""
        for pin in self._known_pins():
            paths = self._cached(pin)
            if paths is not None and (hashes := self._verified(pin, paths)) is not None:
                return self._done(pin, paths, hashes)
        if self.offline:
            repo = self.sources[0].repo
            raise WeightsError(self.key, "not in the cache, and offline", f"run once online, or `hf download {repo}`")
        _warn_of_plain_http(self.log)
        problems: list[WeightsError] = []
        known = read_pin(self.key)
        for source in sorted(self.sources, key=lambda source: known is not None and source.repo != known.repo):
            if problems:
                self.log(f"{problems[-1].subject}: {problems[-1].cause}; trying {source.repo}")
            try:
                return self._download(source)
            except HubError as error:
                raise (problems or [error])[0] from error
            except WeightsError as error:
                problems.append(error)
        first, *others = problems
        also = f" (and {', '.join(error.subject for error in others)}: {others[-1].cause})" if others else ""
        raise WeightsError(first.subject, first.cause + also, first.remedy) from first

    def _known_pins(self) -> Iterable[Pin]:
        """Yield the recorded pin, or else pins for cached files of the sources, possibly fetched by another program."""
        recorded = read_pin(self.key)
        if recorded is not None:
            yield recorded
            return
        for source in self.sources:
            revision = source.revision or "main"
            names = [file.name for file in self.files] or [CONFIG_FILE]
            paths = [Repository(source.repo, self.log).cached(name, revision) for name in names]
            first = paths[0]
            if first is None or None in paths:
                continue
            snapshot = _root(first, names[0])
            files = self.files or _checkpoint_files(snapshot)
            if all((snapshot / file.name).is_file() for file in files):
                yield Pin(source.repo, snapshot.name, tuple(_with_cache_hash(snapshot, file) for file in files))

    def _cached(self, pin: Pin) -> list[Path] | None:
        repository = Repository(pin.repo, self.log)
        paths = [repository.cached(file.name, pin.revision) for file in pin.files]
        found = [path for path in paths if path is not None]
        return found if len(found) == len(paths) and found else None

    def _verified(self, pin: Pin, paths: list[Path]) -> dict[str, str] | None:
        """Hashes of the files if all match the pin. Damaged files are removed from the cache, to be fetched again.

        Raises:
            WeightsError: naming the damaged file, when nothing may be fetched.
        """
        hashes = sha256_all(_root(paths[0], pin.files[0].name), [file.name for file in pin.files])
        pairs = zip(pin.files, paths, strict=True)
        damaged = [path for file, path in pairs if not _is_as_expected(path, hashes[file.name], file.sha256)]
        for path in damaged:
            if self.offline:
                raise WeightsError(path, "damaged (its sha256 has changed)", "run once online to fetch it again")
            self.log(f"{path}: damaged (its sha256 has changed), fetching it again")
            Repository(pin.repo, self.log).discard(path)
        return None if damaged else hashes

    def _download(self, source: Source) -> ResolvedWeights:
        repository, known = Repository(source.repo, self.log), read_pin(self.key)
        revision = known.revision if known is not None and known.repo == source.repo else source.revision
        commit, remote = repository.commit(revision)
        described = {file.name: file for file in remote}
        if not self.files and CONFIG_FILE not in described:
            raise WeightsError(source.repo, "not an rcodsr checkpoint (no config.json)", "choose another repository")
        fixed = {file.name: file.sha256 for file in known.files} if known is not None else {}
        repository.sweep()
        paths, files = [], []
        # config.json lists the files of an rcodsr checkpoint, so it is fetched first
        wanted = [_placed(file, described) for file in self.files] or [_CONFIG]
        for file in wanted:
            about = described.get(file.name)
            self._announce(repository, file.name, commit, about)
            expected = file.sha256 or fixed.get(file.name) or (about.digest if about is not None else None)
            path, found = _fetch(repository, file.name, commit, expected)
            paths.append(path)
            files.append(ManifestFile(file.name, path.stat().st_size, found))
            if file is _CONFIG:
                wanted += [ManifestFile(name) for name in read_config(path.parent).files[1:]]
        pin = Pin(source.repo, commit, tuple(files))
        if source.revision is None or not COMMIT.fullmatch(source.revision):
            self.log(f"{self.key}: pinned to {source.repo} at commit {commit}")
        return self._done(pin, paths, {file.name: str(file.sha256) for file in files})

    def _announce(self, repository: Repository, name: str, commit: str, about: RemoteFile | None) -> None:
        if repository.cached(name, commit) is None:
            size = f" ({size_text(about.bytes)})" if about is not None and about.bytes and about.bytes > 1e6 else ""
            self.log(f"fetching {repository.repo}@{commit[:12]} {name}{size}")

    def _done(self, pin: Pin, paths: list[Path], hashes: dict[str, str]) -> ResolvedWeights:
        files = tuple(ManifestFile(f.name, p.stat().st_size, hashes[f.name]) for f, p in zip(pin.files, paths, strict=True))
        whole = Pin(pin.repo, pin.revision, files)
        if read_pin(self.key) != whole:
            write_pin(self.key, whole)
        directory = _root(paths[0], pin.files[0].name)
        return ResolvedWeights(self.key.partition("@")[0], directory, hashes, f"{pin.repo}@{pin.revision}")


def _fetch(repository: Repository, name: str, commit: str, expected: str | None) -> tuple[Path, str]:
    """Fetch a file with the expected hash. A wrong file is deleted and fetched once more.

    Raises:
        WeightsError: when the file is wrong again. See also `Repository.download`.
    """
    for _ in range(2):
        path = repository.download(name, commit)
        found = sha256(path)
        if _is_as_expected(path, found, expected or _cache_hash(path)):
            return path, found
        repository.discard(path)
    cause = f"{name} is not the published file (its sha256 is {found[:12]}…)"
    raise WeightsError(f"{repository.repo}@{commit[:12]}", cause, "do not use this source; report it")


def _is_as_expected(path: Path, found: str, expected: str | None) -> bool:
    """Whether a file has the expected sha256 (`found`) or git blob sha1. None expects nothing."""
    if expected is not None and len(expected) == 40:
        data = path.read_bytes()  # the Hub lists the sha1 only for small files
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == expected
    return expected in {None, found}


def _checkpoint_files(snapshot: Path) -> list[ManifestFile]:
    """Files of an rcodsr checkpoint. Only config.json if that is unreadable."""
    try:
        return [ManifestFile(name) for name in read_config(snapshot).files]
    except WeightsError:  # its hash shows later whether it is damaged and must be fetched again
        return [_CONFIG]


def _placed(file: ManifestFile, described: Iterable[str]) -> ManifestFile:
    """The file at its path in the repository: mirrors of others' checkpoints put them in different folders."""
    found = [name for name in described if PurePosixPath(name).name == file.name]
    moved = file.name.endswith(PICKLES) and file.name not in found and len(found) == 1
    return replace(file, name=found[0]) if moved else file


def _with_cache_hash(snapshot: Path, file: ManifestFile) -> ManifestFile:
    """The file with the hash under which the Hub's cache stores it."""
    return ManifestFile(file.name, file.bytes, file.sha256 or _cache_hash(snapshot / file.name))


def _cache_hash(path: Path) -> str | None:
    """The hash by which the Hub's cache names a file's contents, if it is one.

    It is the name of the link's target, which may itself be a link to contents shared by several repositories.
    """
    blob = path.readlink().name if path.is_symlink() else path.name
    return blob if DIGEST.fullmatch(blob) else None


def _root(path: Path, name: str) -> Path:
    """The directory to which `name` is relative."""
    return path.parents[len(Path(name).parts) - 1]


def _warn_of_plain_http(log: Log) -> None:
    if not re.match(r"https://|http://(localhost|127\.|\[::1\])", address()):
        log(f"HF_ENDPOINT {address()} is not encrypted")


def sha256_all(directory: Path, names: Sequence[str]) -> dict[str, str]:
    """Hashes of several files, computed in parallel."""
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(names, pool.map(lambda name: sha256(directory / name), names), strict=True))


def sha256(path: Path) -> str:
    """Hash of a file, 64 hex digits.

    Raises:
        WeightsError: when it cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise WeightsError(path, "not a file", "delete it and fetch or export the checkpoint again")
        if path.is_file() and path.stat().st_size > LARGEST:
            raise WeightsError(
                path,
                f"{size_text(path.stat().st_size)} is larger than any supported weight file",
                "delete it and fetch it again",
            )
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(path, f"cannot be read ({error.strerror})", "install or export the checkpoint again") from error
