"""The keys file: key rows of other projects in TOML, read again when it changes, all or nothing.

    [[key]]
    project = "shop"
    kid = "2026a"
    token_key = "…"        # 32 bytes, base64url without padding; from `meshkit keys export --for brain`
    proof_key = "…"
    grants = { tenants = ["acme"], permissions = ["brain:read"], subjects = ["*"], delegate = [] }

A row with `status = "retired"` needs no keys: it refuses a key wherever else that is found.

Derived keys are keys as a secret is, to one service only: so a file that others may read is refused whatever its rows
hold. Its group may read it, as where an orchestrator mounts it for one, but not write it.
"""

from __future__ import annotations

import stat
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from meshkit.config.stamps import stamp
from meshkit.security.keyrows import parse_row
from meshkit.security.keys import KeyRow, StaticRing

log = structlog.get_logger("meshkit.security")


_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS = _WRITE | stat.S_IROTH


def parse_keys(text: str) -> list[KeyRow]:
    """Reads the rows of a keys file.

    Raises:
        ValueError: What is wrong, and in which row; never a key.
    """
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is not TOML: {error}") from None
    if unknown := sorted(set(document) - {"key"}):
        raise ValueError(f"has unknown tables {', '.join(unknown)}; only [[key]] is known")
    tables = document.get("key", [])
    if not isinstance(tables, list):
        raise ValueError("has [key] where [[key]] is meant")
    rows = [parse_row(table, f"[[key]] number {place}") for place, table in enumerate(tables, 1)]
    names = [(row.project, row.kid) for row in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"has the key {':'.join(twice[0])} twice")
    return rows


def read_keys(path: Path) -> list[KeyRow]:
    """The rows of a keys file, which its owner only may write, and not everybody read.

    Raises:
        ValueError: It cannot be read, or is wrong; never a key.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if wrong := _OTHERS & mode:
            done = "written" if wrong & _WRITE else "read"
            whom = "its group" if not wrong & stat.S_IRWXO else "everybody"
            raise ValueError(f"can be {done} by {whom} (mode {mode:04o}): chmod 600 it")
        return parse_keys(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"keys file {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError(f"keys file {path} is not UTF-8") from None
    except ValueError as error:
        raise ValueError(f"keys file {path} {error}") from None


class FileRing:
    """The rows of a keys file. It is looked at again at most once a second, when a key is asked for.

    A file that became broken or unreadable keeps the rows that were read last, and the log says so once.

    Args:
        path: The file.
        clock: A monotonic clock, in seconds.

    Raises:
        ValueError: The file cannot be read, or is wrong, at the start.
    """

    RECHECK = 1.0

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._generation = 0
        self._stamp = stamp(path)
        self._rows = self._load()
        self._checked = clock()

    @property
    def generation(self) -> int:
        """Counts the times that the file was read; looks at the file when that was not done lately."""
        self._refresh()
        return self._generation

    async def find(self, project: str, kid: str) -> KeyRow | None:
        """The row of that name, or None."""
        self._refresh()
        return await self._rows.find(project, kid)

    def _load(self) -> StaticRing:
        return StaticRing(read_keys(self._path))

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._checked < self.RECHECK:
            return
        self._checked = now
        found = stamp(self._path)
        if found == self._stamp:
            return
        self._stamp = found
        try:
            self._rows = self._load()
        except ValueError as error:
            log.error("keys file kept as it was", reason=str(error))
            return
        self._generation += 1
        log.info("keys file read again", path=str(self._path))
