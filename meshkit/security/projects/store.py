"""The verifier's side of the project store: a ring of keys that follows Redis, and outlives it.

The store is read whole at the start, after each loss of the connection, and every minute or so besides; in between,
rows are published as they are written, so that a key is known, or refused, everywhere within a moment. While Redis is
away, for however long, the keys that are known hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshkit.config.redis_url import RedisUrl
from meshkit.errors import Unavailable
from meshkit.redis.following import Followed, in_slices
from meshkit.redis.sealing import Sealer
from meshkit.security.keys import ChainedRing, KeyRing, KeyRow
from meshkit.security.projects.known import MAX_ROWS, KnownRows
from meshkit.security.projects.rows import RowCodec, events_channel, projects_key

PAGE = 200
"""Rows that Redis is asked for at once."""

READ_AT_MOST = 10
"""How many times as many rows as can be known are read: there may be some that are none of ours."""


class ProjectStore(Followed):
    """The keys in the Redis of a mesh, as one verifier knows them.

    Args:
        url: Where Redis is.
        namespace: Name of the mesh.
        sealer: Opens the rows.
        limit: Rows that are known at most. While there are more the store is not `complete`, and the log says so.
        options: Those of `Followed`.

    Raises:
        ValueError: The sealer has no keys.
    """

    what = "project store"
    kept = "the keys that are known hold"

    def __init__(
        self, url: RedisUrl, *, namespace: str, sealer: Sealer, limit: int = MAX_ROWS, **options: Any
    ) -> None:
        super().__init__(url, events_channel(namespace), **options)
        self._rows = KnownRows(RowCodec(sealer, namespace), limit=limit)
        self._limit = limit
        self._hash = projects_key(namespace)
        self._complete = False

    @property
    def _known(self) -> KnownRows:
        return self._rows

    @property
    def generation(self) -> int:
        """Counts the changes."""
        return self._known.changes

    @property
    def complete(self) -> bool:
        """Whether the store was read whole, at some time: before that nobody can say that a key is not in it."""
        return self._complete and not self._known.full

    @property
    def refused_rows(self) -> int:
        """How many rows were come upon that could not be used."""
        return self._known.refused

    async def find(self, project: str, kid: str) -> KeyRow | None:
        """The row of that name, or None; also None where the store is not `complete`."""
        return self._known.find(project, kid)

    async def _read(self) -> None:
        self._known.start_reading()
        fields: set[str] = set()
        async for page in self._database.hash_pages(self._hash, PAGE):
            await in_slices(page.items(), lambda item: self._known.take(_text(item[0]), item[1]))
            fields.update(map(_text, page))
            if len(fields) > READ_AT_MOST * self._limit:
                self._known.overflow()
                break
        else:
            self._known.end_reading(fields)
            self._complete = True

    def _take(self, message: bytes) -> None:
        name, _, value = message.partition(b" ")
        self._known.take(_text(name), value)


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


class StoredRing:
    """A chain of rings of which the last is a project store.

    A key that none of them has is not known; but as long as the store was not read whole nobody can say that, and the
    caller is told to try again, here or elsewhere. What the rings before the store have, counts meanwhile without it.

    Args:
        rings: The rings before the store.
        store: The store.
    """

    def __init__(self, rings: Sequence[KeyRing], store: ProjectStore) -> None:
        self._chain = ChainedRing((*rings, store))
        self._store = store

    @property
    def generation(self) -> int:
        """Changes when that of any of them does."""
        return self._chain.generation

    async def find(self, project: str, kid: str) -> KeyRow | None:
        """The row of that name, as `ChainedRing` finds it.

        Raises:
            Unavailable: None has it, and the store is not `complete`.
        """
        row = await self._chain.find(project, kid)
        if row is None and not self._store.complete:
            error = Unavailable(
                f"whether the key {project}:{kid} is known cannot be said: the project store was not read whole",
                reason="KEYS_NOT_READ",
            )
            error.unprocessed = True
            raise error
        return row
