"""The owner's side of a file registry: the lock and the record of one instance."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from pathlib import Path

from meshkit.discovery import folder, record
from meshkit.errors import AlreadyExists
from meshkit.instance import Instance


class Place:
    """What one instance holds in the folder. All of it blocks: call it in a thread, or in several.

    Args:
        root: The registry's folder.
        instance: Who takes the place.
    """

    def __init__(self, root: Path, instance: Instance) -> None:
        self._root = root
        self._instance = instance
        self._record = root / instance.service / (instance.instance_id + folder.RECORD)
        self._lock = self._record.with_name(instance.instance_id + folder.LOCK)
        self._descriptor = -1
        self._size = 0
        self._inode = 0
        self._size = 0
        self._written = False
        self._left = False
        self._guard = threading.Lock()

    def take(self) -> None:
        """Takes the lock and writes the record. Where that fails, nothing is left behind.

        Raises:
            AlreadyExists: Somebody else holds the place.
            OSError: The folder cannot be written, or is none to trust.
        """
        with self._guard:
            try:
                self._hold()
                self._write()
            except BaseException:
                self._leave()
                raise

    def write(self, instance: Instance) -> None:
        """Replaces the record at once and whole. Where that fails, the next renewal does it.

        Raises:
            AlreadyExists: Somebody else holds the place.
            OSError: The folder cannot be written.
        """
        with self._guard:
            self._instance = instance
            self._written = False
            self._renew()

    def renew(self) -> None:
        """Says that the owner lives, and puts back what of the place was lost.

        Raises:
            AlreadyExists: Somebody else holds the place.
            OSError: The folder cannot be written.
        """
        with self._guard:
            self._renew()

    def leave(self) -> None:
        """Removes the record, then the lock. Left twice is left.

        Raises:
            OSError: They cannot be removed; the lock is given up all the same, so readers know.
        """
        with self._guard:
            self._leave()

    def abandon(self) -> None:
        """Closes the lock and touches nothing else: what the death of a process does.

        In the child of a fork this lets go of the parent's lock, which the parent keeps: it is given up when
        its last descriptor is closed. No guard is taken, since a fork may have copied it taken.
        """
        self._left = True
        self._close()

    def _renew(self) -> None:
        if self._left:
            return
        if self._descriptor < 0 or not folder.stands_at(self._descriptor, self._lock):
            self._hold()
        if not self._written or not self._touch():
            self._write()

    def _touch(self) -> bool:
        """Renews the record that we wrote; False where it is gone or another stands in its place."""
        try:
            seen = os.lstat(self._record)
            if (seen.st_ino, seen.st_size) != (self._inode, self._size):
                return False
            os.utime(self._record)
        except FileNotFoundError:
            return False
        return True

    def _hold(self) -> None:
        folder.make(self._root, self._instance.service)
        descriptor = folder.hold(self._lock)
        if descriptor is None:
            raise AlreadyExists(
                f"{self._instance.instance_id} is registered by another process: each boot needs its own id",
                reason="INSTANCE_REGISTERED",
            )
        self._close()
        self._descriptor = descriptor
        self._written = False

    def _write(self) -> None:
        temporary = self._record.with_name(
            f".{self._instance.instance_id}.{secrets.token_hex(4)}{folder.TEMPORARY}"
        )
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                self._size = file.write(record.dump(self._instance))
                self._inode = os.fstat(file.fileno()).st_ino
            os.replace(temporary, self._record)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        self._written = True

    def _leave(self) -> None:
        if self._left:
            return
        self._left = True
        try:
            if self._descriptor >= 0 and folder.stands_at(self._descriptor, self._lock):
                self._record.unlink(missing_ok=True)
                self._lock.unlink(missing_ok=True)
        finally:
            self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
