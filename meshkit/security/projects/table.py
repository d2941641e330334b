"""The operator's side of the project store: reads rows, and writes them, each one atomically and to all who follow."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from meshkit.errors import Aborted, NotFound, ResourceExhausted
from meshkit.redis.database import Database, Script
from meshkit.redis.sealing import Sealer
from meshkit.security.keys import KeyRow
from meshkit.security.projects.known import MAX_ROWS
from meshkit.security.projects.rows import (
    ProjectRow,
    RowCodec,
    RowRefused,
    events_channel,
    field_of,
    projects_key,
)

PUT = Script(
    """
local rows, channel, field, row, expected, limit = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local found = redis.call('HGET', rows, field)
if (found and redis.sha1hex(found) or '') ~= expected then return 0 end
if not found and redis.call('HLEN', rows) >= limit then return -1 end
redis.call('HSET', rows, field, row)
redis.call('PUBLISH', channel, field .. ' ' .. row)
return 1
"""
)
"""Arguments: channel, field, row, hex SHA-1 of the value that it replaces (empty for none), rows at most. Returns 0
where another value is there, -1 where there is no room."""

FORGET = Script(
    """
local rows, field, expected = KEYS[1], ARGV[1], ARGV[2]
local found = redis.call('HGET', rows, field)
if not found or redis.sha1hex(found) ~= expected then return 0 end
return redis.call('HDEL', rows, field)
"""
)
"""Arguments: field, hex SHA-1 of its value. Publishes nothing: that a field is gone changes nothing for anybody."""

_PAGE = 200
_TRIES = 5
_LISTED = 10
"""How many times as many rows as there may be can still be looked at, so that somebody can mend it."""


@dataclass(frozen=True)
class Stored:
    """A value as it stands in Redis.

    Attributes:
        field: Its field.
        value: The value.
        row: The row, None where it cannot be used.
        refusal: Why not.
    """

    field: str
    value: bytes
    row: ProjectRow | None
    refusal: str = ""


class ProjectTable:
    """The rows of the project store in one Redis.

    Args:
        database: The Redis.
        namespace: Name of the mesh.
        sealer: Seals and opens the rows.
        author: Who writes them, for people.
        limit: Rows that there may be, those of removed keys included.
        clock: Unix time in seconds.

    Raises:
        ValueError: The sealer has no keys.
    """

    def __init__(
        self,
        database: Database,
        *,
        namespace: str,
        sealer: Sealer,
        author: str,
        limit: int = MAX_ROWS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._codec = RowCodec(sealer, namespace)
        self._hash = projects_key(namespace)
        self._channel = events_channel(namespace)
        self._author = author
        self._limit = limit
        self._clock = clock

    async def rows(self) -> list[Stored]:
        """All that is there, by field.

        Raises:
            RedisTrouble: It cannot be read.
            ResourceExhausted: There are far more rows than there may be.
        """
        if int(await self._database.execute("HLEN", self._hash)) > _LISTED * self._limit:
            raise self._overfull()
        found: dict[str, Stored] = {}
        async for page in self._database.hash_pages(self._hash, _PAGE):
            for name, value in page.items():
                field = name.decode(errors="backslashreplace")
                found[field] = self._stored(field, value)
        return [found[field] for field in sorted(found)]

    async def change(
        self, project: str, kid: str, revise: Callable[[KeyRow | None], KeyRow]
    ) -> tuple[KeyRow | None, KeyRow]:
        """Writes a key.

        Args:
            project: Whose key it is.
            kid: Its name.
            revise: Makes the key of the one that is there, None where there is none; called again where somebody else
                wrote meanwhile.

        Returns:
            The key that was there, and the one that is.

        Raises:
            Aborted: Others wrote the same key again and again.
            RedisTrouble: It cannot be written.
            ResourceExhausted: There is no room for another row.
            RowRefused: What is there cannot be used: it must be removed first.
            SealRefused: The row is too long.
        """
        for _ in range(_TRIES):
            stored = await self._get(project, kid)
            if stored is not None and stored.row is None:
                raise RowRefused(f"the row {stored.field} cannot be used: {stored.refusal}")
            before = stored.row.key if stored is not None and stored.row is not None else None
            key = revise(before)
            if await self._put(project, kid, key, stored):
                return before, key
        raise _contended(project, kid)

    async def remove(self, project: str, kid: str) -> None:
        """Writes that a key was removed, whatever its row is.

        Raises:
            Aborted: Others wrote the same key again and again.
            NotFound: There is no such key.
            RedisTrouble: It cannot be written.
        """
        for _ in range(_TRIES):
            stored = await self._get(project, kid)
            if stored is None or (stored.row is not None and stored.row.key is None):
                raise NotFound(f"there is no key {project}:{kid} in the project store", reason="KEY_UNKNOWN")
            if await self._put(project, kid, None, stored):
                return
        raise _contended(project, kid)

    async def forget(self, days: float) -> int:
        """Deletes what says that keys were removed, where that was done more than so many days ago.

        It is kept so that nobody can put an older copy of the key's row back. No such copy opens any longer once the
        sealing keys of that time are taken out of REDIS_SECRET_KEY.

        Returns:
            How many were deleted.

        Raises:
            RedisTrouble: The store cannot be read or written.
            ResourceExhausted: There are far more rows than there may be.
        """
        before = (self._clock() - days * 86_400) * 1000
        forgotten = 0
        for stored in await self.rows():
            row = stored.row
            if row is not None and row.key is None and row.written_at < before:
                forgotten += await self._database.run(
                    FORGET, [self._hash], [stored.field, _digest(stored.value)]
                )
        return forgotten

    async def _get(self, project: str, kid: str) -> Stored | None:
        field = field_of(project, kid)
        value = await self._database.execute("HGET", self._hash, field)
        return None if value is None else self._stored(field, value)

    def _stored(self, field: str, value: bytes) -> Stored:
        try:
            return Stored(field, value, self._codec.open(field, value))
        except RowRefused as refused:
            return Stored(field, value, None, str(refused))

    async def _put(self, project: str, kid: str, key: KeyRow | None, stored: Stored | None) -> bool:
        """Writes a key in the place of what is there; returns whether that was there still."""
        before = stored.row.written_at if stored is not None and stored.row is not None else -1
        now = max(int(self._clock() * 1000), before + 1)
        row = ProjectRow(project, kid, key, now, self._author)
        replaced = _digest(stored.value) if stored is not None else ""
        arguments: list[str | bytes | int] = [
            self._channel,
            row.field,
            self._codec.seal(row),
            replaced,
            self._limit,
        ]
        outcome = int(await self._database.run(PUT, [self._hash], arguments))
        if outcome < 0:
            raise self._overfull()
        return outcome == 1

    def _overfull(self) -> ResourceExhausted:
        return ResourceExhausted(
            f"the project store may have {self._limit} rows, and has no room: remove keys that nobody uses, and "
            "`meshkit projects forget` what was removed long ago; delete what is none of ours from the hash "
            f"{self._hash} with redis-cli",
            reason="PROJECTS_FULL",
        )


def _digest(value: bytes) -> str:
    return hashlib.sha1(value, usedforsecurity=False).hexdigest()


def _contended(project: str, kid: str) -> Aborted:
    return Aborted(
        f"others write the key {project}:{kid} at the same time: look with `meshkit projects list`, and try again",
        reason="KEY_CONTENDED",
    )
