"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from rcodsr.errors import OutputError, UsageError

_PART = ".rcodsr-part"
_LOCKS = find_spec("fcntl") is not None
"""False on Windows, which lets nobody remove or rename a file that is open."""
_SPACE = "free some space and run again: finished pictures are kept"
_ELSEWHERE = "choose another place"
_WRITABLE = "choose a writable place with -o"
_IN_THE_WAY = "a file stands where a folder is needed; choose another place with -o"
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EROFS: _WRITABLE,
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENAMETOOLONG: "give a shorter name with -o",
    errno.EFBIG: "the file system or a limit (ulimit -f) allows no file of this size",
}
_OF_ONE_FILE = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTEMPTY, errno.EFBIG, errno.EILSEQ, errno.EINVAL}
"""Faults of one name or one size; any other would hit the next picture as well."""


def write_atomic(path: Path, data: bytes, as_old_as: Path | None = None) -> None:
    """Write a file whole or not at all: temporary name in the same folder, fsync, rename, fsync of the folder.

    Args:
        path: the file.
        data: what it holds.
        as_old_as: a file whose time of modification it gets, where the file system lets it.

    Raises:
        OutputError: when it cannot be written; the temporary file is gone and an old file untouched.
    """
    # hashed, because a name of 255 bytes is legal and a longer temporary one is not
    short = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    temporary = path.with_name(f".{short}.{secrets.token_hex(4)}.{os.getpid()}{_PART}")
    try:
        try:
            with temporary.open("wb") as handle:
                _claim(handle)
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
                if as_old_as is not None:
                    _keep_time(as_old_as, temporary)
                if _LOCKS:  # while it is claimed
                    temporary.replace(path)
            if not _LOCKS:  # Windows renames no open file
                temporary.replace(path)
        finally:
            with suppress(OSError):  # the first error is the one to tell
                temporary.unlink(missing_ok=True)
        with suppress(PermissionError):  # a folder may be writable and not readable
            sync_directory(path.parent)
    except OSError as error:
        raise output_error(path, error) from error


def _keep_time(source: Path, copy: Path) -> None:
    with suppress(OSError):  # the picture matters more
        status = source.stat()
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))


def write_stream(stream: BinaryIO | None, data: bytes) -> None:
    """Write a whole picture to standard output.

    Raises:
        OutputError: when the stream is full or closed.
    """
    if stream is None:
        raise OutputError("standard output", "is closed", "use -o FILE")
    try:
        stream.write(data)
        stream.flush()
    except OSError as error:
        raise output_error(Path("standard output"), error) from error


def remove_stale_parts(directory: Path) -> None:
    """Remove temporary files that processes killed in the middle of a write have left behind."""
    for part in directory.glob(f".*{_PART}"):
        with suppress(OSError):  # another user's part, or a folder of that name
            if _is_abandoned(part):
                part.unlink(missing_ok=True)


def make_directory(directory: Path) -> None:
    """Create a directory and its parents.

    Raises:
        OutputError: when that is not possible.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(directory, error) from error


def require_writable(
    path: Path, inputs: Iterable[object] = (), *, overwrite: bool = True, makes_directory: bool = False
) -> None:
    """See that a file can be written, before anything expensive happens. Writes nothing.

    Args:
        path: the file.
        inputs: what the command reads; none of it is ever written.
        overwrite: whether an existing file may be replaced.
        makes_directory: whether the command makes the directories above that are missing.

    Raises:
        UsageError: when it is one of the inputs, or exists and may not be replaced.
        OutputError: when it is a directory, its directory is missing, or either cannot be written.
    """
    real = os.path.realpath(path)
    if any(os.path.realpath(str(one)) == real for one in inputs):
        raise UsageError(path, "would overwrite an input", "choose another name; inputs are never written")
    if path.is_dir():
        raise OutputError(path, "cannot be written (it is a directory)", _ELSEWHERE)
    if path.exists() and not overwrite:
        raise UsageError(path, "exists already", "choose another name, or replace it with -y")
    above = path.parent
    while makes_directory and not above.exists():
        above = above.parent
    if not above.is_dir():
        raise OutputError(path, "cannot be written (its folder does not exist)", _ELSEWHERE)
    replaced = path.is_file() or not path.exists()  # by renaming; a pipe or a device is written to
    if not os.access(above if replaced else path, os.W_OK):
        raise OutputError(path, "cannot be written (permission denied)", _ELSEWHERE)


def output_error(path: Path, error: OSError) -> OutputError:
    """Our sentence for a failed write."""
    remedy = _REMEDIES.get(error.errno or 0, "choose another place with -o")
    lasting = error.errno not in _OF_ONE_FILE
    return OutputError(path, f"cannot be written ({error.strerror or error})", remedy, lasting=lasting)


def sync_directory(directory: Path) -> None:
    """Make renames within a directory survive a power cut; some file systems cannot, and Windows need not.

    Raises:
        OSError: when the directory cannot be read or its disk fails.
    """
    if sys.platform == "win32":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)


def _claim(handle: BinaryIO) -> None:
    """Lock a part for as long as its writer lives; the lock falls with the process, whatever ends it."""
    if _LOCKS:
        import fcntl

        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_abandoned(part: Path) -> bool:
    """Whether nobody holds a part: its process is dead, here or in another container that shares the folder."""
    if not _LOCKS:
        return part.is_file()
    import fcntl

    handle = os.open(part, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    # a part of this very moment may be about to be claimed
    return part.stat().st_size > 0 or not _is_running(part)


def _is_running(part: Path) -> bool:
    try:
        os.kill(int(part.name.removesuffix(_PART).rpartition(".")[2]), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:  # another user's process
        pass
    return True
