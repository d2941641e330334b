"""The folder of a file registry: its layout, who may use it, and how a lock tells whether an owner lives.

`<folder>/<service>/<instance_id>.json` is a record, `<instance_id>.lock` beside it is held by its owner for
life:

- An owner takes the lock (`flock`, exclusive), then writes the record. It removes the record, then the lock.
- A reader asks for the lock *shared* and without waiting. It gets it only where no owner holds it. Readers do
  not exclude each other, so one that asks is never taken for an owner by another.
- A sweeper holds `.sweep` exclusively, so there is one at a time, and the lock of what it removes *shared*:
  that keeps an owner from taking it, and readers still find it free.
- Who takes a lock compares the inode that it locked with the one that stands at the path: a lock that was
  swept between opening and locking is no lock, and is taken anew.

The kernel drops a lock when the last descriptor of it is closed, which the death of a process does at once. A
child made by fork shares its parent's descriptors: they are closed on exec, and in children of `os.fork` by a
hook (see `file.py`). A child forked by foreign code that neither execs nor runs Python's hooks keeps a dead
parent's lock held.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterable
from pathlib import Path

INSTANCE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What an instance id must be so that it can name a file."""

RECORD, LOCK, TEMPORARY, SWEEP = ".json", ".lock", ".tmp", ".sweep"

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_LOCK = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_LOCK_ATTEMPTS = 200
_LOCK_PAUSE_S = 0.005


class FolderUnusable(OSError):
    """The folder is not one that a registry may trust; the message says how to mend it."""


class NoRecord(OSError):
    """What bears the name of a record is no regular file."""


def check(folder: Path) -> None:
    """Makes sure that the folder is one, is ours, and that nobody else can write into it.

    Raises:
        FolderUnusable: It is not.
        OSError: It cannot be looked at.
    """
    status = os.stat(folder)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if status.st_uid != os.geteuid():
        raise FolderUnusable(
            f"registry folder {folder} belongs to user {status.st_uid}, not to {os.geteuid()}: "
            f"chown it, or name another folder in CU_REGISTRY_URL"
        )
    if status.st_mode & 0o022:
        raise FolderUnusable(
            f"registry folder {folder} can be written by others (mode {stat.S_IMODE(status.st_mode):o}), "
            f"who could take over its services: chmod go-w {folder}"
        )


def explain(error: OSError, folder: Path) -> str:
    """One sentence for the operator: which path, what is wrong, what to do."""
    if isinstance(error, FolderUnusable):
        return str(error)
    path = error.filename if isinstance(error.filename, str) and "/" in error.filename else str(folder)
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return (
            f"registry folder {folder}: a file stands where a folder should ({path}): "
            f"remove it, or name another folder in CU_REGISTRY_URL"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"registry folder {folder}: {os.strerror(error.errno)} at {path}: "
            f"give user {os.geteuid()} the right to it, or name another folder in CU_REGISTRY_URL"
        )
    return f"registry folder {folder}: {error.strerror or error} at {path}"


def make(folder: Path, service: str) -> Path:
    """Makes the folder of a service where it is missing, for its owner only, and returns it.

    Raises:
        OSError: It cannot be made, or is none to trust.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check(folder)
    place = folder / service
    place.mkdir(mode=0o700, exist_ok=True)
    return place


def hold(path: Path) -> int | None:
    """Takes the lock of an instance, and returns its descriptor; None where another owner has it.

    It asks for up to a second, since a reader or a sweeper may have the lock for an instant. Blocks: call it
    in a thread.

    Raises:
        OSError: The lock cannot be opened.
    """
    for attempt in range(_LOCK_ATTEMPTS):
        if attempt:
            time.sleep(_LOCK_PAUSE_S)
        descriptor = os.open(path, _LOCK, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if stands_at(descriptor, path):
                return descriptor
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    return None


def stands_at(descriptor: int, path: str | Path, *, dir_fd: int | None = None) -> bool:
    """Whether the open file is the one at that path still."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, dir_fd=dir_fd, follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_held(instance_id: str, dir_fd: int) -> bool | None:
    """Whether an owner holds the lock of an instance; None where there is no lock.

    Raises:
        OSError: It cannot be told.
    """
    try:
        descriptor = os.open(instance_id + LOCK, _READ, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def read_record(instance_id: str, dir_fd: int, *, limit: int) -> bytes | None:
    """Reads at most `limit` bytes of a record; None where it is gone.

    Raises:
        NoRecord: It is a link, a folder, or something else that is no file.
        OSError: It cannot be read.
    """
    try:
        descriptor = os.open(instance_id + RECORD, _READ, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise NoRecord("it is not a regular file") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NoRecord("it is not a regular file")
        return os.read(descriptor, limit)
    finally:
        os.close(descriptor)


def age(name: str, dir_fd: int, now: float) -> float | None:
    """Seconds since a file was renewed; None where it is gone."""
    try:
        return now - os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return None


def sweep(
    instance_ids: Iterable[str], temporaries: Iterable[str], dir_fd: int, *, older: float, now: float
) -> None:
    """Removes what crashed owners left, unless somebody is sweeping already.

    Args:
        instance_ids: Instances whose record, lock or both may be garbage.
        temporaries: Names of files that were never finished.
        dir_fd: The service's folder.
        older: Only what is older than this is garbage, in seconds.
        now: Unix time in seconds.

    Raises:
        OSError: The folder cannot be written.
    """
    mutex = os.open(SWEEP, _LOCK, 0o600, dir_fd=dir_fd)
    try:
        fcntl.flock(mutex, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in temporaries:
            _remove(name, dir_fd)
        for instance_id in instance_ids:
            _sweep_one(instance_id, dir_fd, older=older, now=now)
    except BlockingIOError:
        pass
    finally:
        os.close(mutex)


def _sweep_one(instance_id: str, dir_fd: int, *, older: float, now: float) -> None:
    lock = instance_id + LOCK
    descriptor = os.open(lock, _LOCK, 0o600, dir_fd=dir_fd)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        since = age(instance_id + RECORD, dir_fd, now)
        if stands_at(descriptor, lock, dir_fd=dir_fd) and (since is None or since > older):
            _remove(instance_id + RECORD, dir_fd)
            _remove(lock, dir_fd)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


def _remove(name: str, dir_fd: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=dir_fd)
