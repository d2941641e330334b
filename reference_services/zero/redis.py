"""A vault in a Redis that replicas share.

A session is one hash, `<namespace>:zero:{<tenant>}:session:<id>`, that Redis itself lets go when the session expires,
with its key and all of its values. Beside it stands, for each tenant, a sorted set of the sessions' ids by when they
expire: who makes a session takes some out that are over, so it holds no more than there were sessions at a time. The
braces keep what is a tenant's on one node of a Cluster, where one script can change it whole.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from meshkit import Unavailable
from reference_services.redis import Database, Script, open_database
from reference_services.zero.vault import Draft, Holdings, Sealed, Session, SessionGone, VaultFull

T = TypeVar("T")

_BATCH = 500
_ATTEMPTS = 50
"""How often values are numbered anew, since another replica added to the session meanwhile: one of them succeeds."""

_OPEN = Script("""
local now, fresh = tonumber(ARGV[2]), tonumber(ARGV[7])
local row = redis.call('HMGET', KEYS[1], 'tag', 'key_id', 'wrapped_key', 'expires_at')
if row[1] and tonumber(row[4]) > now then
    if fresh > tonumber(row[4]) then row[4] = ARGV[7] end
else
    redis.call('UNLINK', KEYS[1])
    local gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[2], 'LIMIT', 0, 100)
    if #gone > 0 then redis.call('ZREM', KEYS[2], unpack(gone)) end
    if redis.call('ZCOUNT', KEYS[2], '(' .. ARGV[2], '+inf') >= tonumber(ARGV[3]) then return false end
    row = {ARGV[4], ARGV[5], ARGV[6], ARGV[7]}
    redis.call('HSET', KEYS[1], 'tag', row[1], 'key_id', row[2], 'wrapped_key', row[3], 'last', 0, 'kinds', '{}')
end
redis.call('HSET', KEYS[1], 'expires_at', row[4])
redis.call('ZADD', KEYS[2], row[4], ARGV[1])
local left = math.ceil((tonumber(row[4]) - now) * 1000)
redis.call('PEXPIRE', KEYS[1], left)
if redis.call('PTTL', KEYS[2]) < left then redis.call('PEXPIRE', KEYS[2], left) end
return row
""")
"""The session, made where there is none; false where there are too many. Of id, now, limit, and the fresh session."""

_THERE = """
local there = redis.call('HMGET', KEYS[1], 'wrapped_key', 'expires_at', 'last')
if not there[1] or there[1] ~= ARGV[1] or tonumber(there[2]) <= tonumber(ARGV[2]) then return false end
"""

_NUMBERS = Script(f"""{_THERE}
local found = {{tonumber(there[3])}}
for i = 3, #ARGV do found[#found + 1] = redis.call('HGET', KEYS[1], 'lookup:' .. ARGV[i]) end
return found
""")
"""The last number, and that of each lookup; false where the session is gone. Of wrapped key, now, lookups."""

_ADD = Script(f"""{_THERE}
local last = tonumber(ARGV[3])
if tonumber(there[3]) ~= last then return 0 end
local kinds = cjson.decode(redis.call('HGET', KEYS[1], 'kinds'))
for i = 4, #ARGV, 3 do
    last = last + 1
    redis.call('HSET', KEYS[1], 'lookup:' .. ARGV[i], last, 'value:' .. last, ARGV[i + 1] .. ':' .. ARGV[i + 2])
    kinds[ARGV[i + 1]] = (kinds[ARGV[i + 1]] or 0) + 1
end
redis.call('HSET', KEYS[1], 'last', last, 'kinds', cjson.encode(kinds))
return 1
""")
"""Adds values behind the last number, if it is still that one. Of wrapped key, now, last number, and three for each."""

_DESTROY = Script("""
local expires_at = redis.call('HGET', KEYS[1], 'expires_at')
redis.call('UNLINK', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return expires_at and tonumber(expires_at) > tonumber(ARGV[2]) and 1 or 0
""")
"""Deletes a session; whether it had not expired. Of id and now."""


class RedisVault:
    """The vault of `reference_services.zero.vault` in a Redis; see `open_redis_vault`.

    Args:
        database: The Redis.
        namespace: The mesh, with which each key begins.
    """

    def __init__(self, database: Database, namespace: str) -> None:
        self._database = database
        self._namespace = namespace

    async def open(self, tenant: str, session_id: str, fresh: Session, *, now: float, limit: int) -> Session:
        """See `Vault.open`."""
        keys = [self._session(tenant, session_id), self._sessions(tenant)]
        about: list[str | bytes | int] = [session_id, repr(now), limit]
        about += [fresh.tag, fresh.key_id, fresh.wrapped_key, repr(fresh.expires_at)]
        row = await self._database.run(_OPEN, keys, about)
        if row is None:
            raise VaultFull
        return _read(row)

    async def remember(
        self,
        tenant: str,
        session_id: str,
        session: Session,
        drafts: Sequence[Draft],
        *,
        now: float,
        limit: int,
    ) -> list[int]:
        """See `Vault.remember`."""
        key, there = self._session(tenant, session_id), (session.wrapped_key, repr(now))
        for _ in range(_ATTEMPTS):
            found = await self._database.run(_NUMBERS, [key], [*there, *(draft.lookup for draft in drafts)])
            if found is None:
                raise SessionGone
            last, *known = found
            numbers = {draft.lookup: int(n) for draft, n in zip(drafts, known, strict=True) if n is not None}
            fresh = {draft.lookup: draft for draft in drafts if draft.lookup not in numbers}
            if last + len(fresh) > limit:
                raise VaultFull
            numbers |= {lookup: number for number, lookup in enumerate(fresh, last + 1)}
            if not fresh:
                return [numbers[draft.lookup] for draft in drafts]
            values = await asyncio.to_thread(_sealed, list(fresh.values()), last + 1)
            added = await self._database.run(_ADD, [key], [*there, last, *values])
            if added is None:
                raise SessionGone
            if added:
                return [numbers[draft.lookup] for draft in drafts]
        raise Unavailable("other calls keep adding to the session: try again", reason="DATABASE_BUSY")

    async def find(self, tenant: str, session_id: str, *, now: float) -> Session | None:
        """See `Vault.find`."""
        key = self._session(tenant, session_id)
        row = await self._database.execute("HMGET", key, "tag", "key_id", "wrapped_key", "expires_at")
        return _read(row) if row[0] is not None and float(row[3]) > now else None

    async def recall(self, tenant: str, session_id: str, numbers: Iterable[int]) -> dict[int, Sealed]:
        """See `Vault.recall`."""
        key, found = self._session(tenant, session_id), {}
        for some in _batches(sorted(set(numbers))):
            values = await self._database.execute("HMGET", key, *(f"value:{number}" for number in some))
            for number, value in zip(some, values, strict=True):
                if value is not None:
                    label, _, sealed = value.partition(b":")
                    found[number] = Sealed(label.decode(), sealed)
        return found

    async def destroy(self, tenant: str, session_id: str, *, now: float) -> bool:
        """See `Vault.destroy`."""
        keys = [self._session(tenant, session_id), self._sessions(tenant)]
        return bool(await self._database.run(_DESTROY, keys, [session_id, repr(now)]))

    async def sweep(self, *, now: float, limit: int) -> int:
        """See `Upkeep.sweep`. There is nothing to do: Redis lets expired sessions go by itself."""
        return 0

    async def holdings(self, tenant: str, *, now: float) -> Holdings:
        """See `Upkeep.holdings`."""
        sessions: set[str] = set()
        entities: Counter[str] = Counter()
        async for page in self._database.members(self._sessions(tenant), _BATCH):
            fresh = {member.decode() for member, expires_at in page if expires_at > now} - sessions
            sessions |= fresh
            for kinds in await asyncio.gather(*(self._kinds(tenant, each) for each in fresh)):
                entities.update(kinds)
        return Holdings(len(sessions), dict(entities))

    async def check(self) -> None:
        """See `Upkeep.check`."""
        await self._database.check()

    async def _kinds(self, tenant: str, session_id: str) -> dict[str, int]:
        kinds = await self._database.execute("HGET", self._session(tenant, session_id), "kinds")
        found: dict[str, int] = json.loads(kinds or "{}")
        return found

    def _session(self, tenant: str, session_id: str) -> str:
        return f"{self._namespace}:zero:{{{tenant}}}:session:{session_id}"

    def _sessions(self, tenant: str) -> str:
        return f"{self._namespace}:zero:{{{tenant}}}:sessions"


@asynccontextmanager
async def open_redis_vault(url: str, namespace: str) -> AsyncIterator[RedisVault]:
    """Opens the vault in a Redis.

    Args:
        url: Where it is.
        namespace: The mesh.

    Raises:
        MeshError: It cannot be used.
    """
    async with open_database(url, "zero", "ZERO_DATABASE_URL") as database:
        yield RedisVault(database, namespace)


def _read(row: Sequence[bytes]) -> Session:
    tag, key_id, wrapped_key, expires_at = row
    return Session(tag.decode(), key_id.decode(), wrapped_key, float(expires_at))


def _sealed(drafts: Sequence[Draft], first: int) -> list[bytes | str]:
    """What a script stores of each draft, one after another: lookup, label, sealed value."""
    values: list[bytes | str] = []
    for number, draft in enumerate(drafts, first):
        values += [draft.lookup, draft.label, draft.seal(number)]
    return values


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), _BATCH):
        yield items[first : first + _BATCH]
