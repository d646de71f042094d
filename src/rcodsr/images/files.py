"""Atomic writing of files."""

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
"""False on Windows, where an open file cannot be removed or renamed."""
_SPACE = "free some space and run again: finished pictures are kept"
_ELSEWHERE = "choose another path"
_WRITABLE = "choose a writable path with -o"
_IN_THE_WAY = "a file is in the way of a folder; choose another path with -o"
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EROFS: _WRITABLE,
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENAMETOOLONG: "use a shorter name with -o",
    errno.EFBIG: "the file system or a limit (ulimit -f) does not allow files of this size",
}
_OF_ONE_FILE = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTEMPTY, errno.EFBIG, errno.EILSEQ, errno.EINVAL}
"""Faults that depend on one name or size. Any other fault would affect the next picture too."""


def write_atomic(path: Path, data: bytes, as_old_as: Path | None = None) -> None:
    """Write a file atomically: temporary name in the same folder, fsync, rename, fsync of the folder.

    Args:
        path: output file.
        data: contents.
        as_old_as: a file whose modification time is copied, if the file system allows it.

    Raises:
        OutputError: when writing fails. The temporary file is removed and an old file is unchanged.
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
            if not _LOCKS:  # Windows cannot rename an open file
                temporary.replace(path)
        finally:
            with suppress(OSError):  # the first error is the one to report
                temporary.unlink(missing_ok=True)
        with suppress(PermissionError):  # a folder may be writable but not readable
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
        OutputError: when the stream is closed or its disk is full.
    """
    if stream is None:
        raise OutputError("standard output", "is closed", "use -o FILE")
    try:
        stream.write(data)
        stream.flush()
    except OSError as error:
        raise output_error(Path("standard output"), error) from error


def remove_stale_parts(directory: Path) -> None:
    """Remove temporary files left behind by processes that were killed while writing."""
    for part in directory.glob(f".*{_PART}"):
        with suppress(OSError):  # another user's part, or a folder of that name
            if _is_abandoned(part):
                part.unlink(missing_ok=True)


def make_directory(directory: Path) -> None:
    """Create a directory and its parents.

    Raises:
        OutputError: when it cannot be created.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(directory, error) from error


def require_writable(
    path: Path, inputs: Iterable[object] = (), *, overwrite: bool = True, makes_directory: bool = False
) -> None:
    """Check that a file can be written, before any expensive work. Writes nothing.

    Args:
        path: output file.
        inputs: files that the command reads, which are never written.
        overwrite: whether an existing file may be replaced.
        makes_directory: whether the command creates missing parent directories.

    Raises:
        UsageError: when the path is an input, or exists and may not be replaced.
        OutputError: when the path is a directory, its directory is missing, or either is not writable.
    """
    real = os.path.realpath(path)
    if any(os.path.realpath(str(one)) == real for one in inputs):
        raise UsageError(path, "would overwrite an input", "choose another name; inputs are never written")
    if path.is_dir():
        raise OutputError(path, "cannot be written (it is a directory)", _ELSEWHERE)
    if path.exists() and not overwrite:
        raise UsageError(path, "already exists", "choose another name or replace it with -y")
    above = path.parent
    while makes_directory and not above.exists():
        above = above.parent
    if not above.is_dir():
        raise OutputError(path, "cannot be written (its folder does not exist)", _ELSEWHERE)
    replaced = path.is_file() or not path.exists()  # by renaming; a pipe or a device is written directly
    if not os.access(above if replaced else path, os.W_OK):
        raise OutputError(path, "cannot be written (permission denied)", _ELSEWHERE)


def output_error(path: Path, error: OSError) -> OutputError:
    """Convert a failed write to an error with a remedy."""
    remedy = _REMEDIES.get(error.errno or 0, "choose another path with -o")
    lasting = error.errno not in _OF_ONE_FILE
    return OutputError(path, f"cannot be written ({error.strerror or error})", remedy, lasting=lasting)


def sync_directory(directory: Path) -> None:
    """Make renames within a directory survive a power cut. Some file systems cannot, and Windows need not.

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
    """Lock a temporary file for the lifetime of its writer. The lock ends with the process, however that ends."""
    if _LOCKS:
        import fcntl

        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_abandoned(part: Path) -> bool:
    """Whether nobody holds a temporary file: its process is dead, here or in another container that shares the folder."""
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
    # a file created just now may not be locked yet
    return part.stat().st_size > 0 or not _is_running(part)


def _is_running(part: Path) -> bool:
    try:
        os.kill(int(part.name.removesuffix(_PART).rpartition(".")[2]), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:  # another user's process
        pass
    return True
