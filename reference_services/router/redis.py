"""Manifests in a Redis that the router's replicas share.

Of each tenant there is a hash of what holds, by project, and for each project a hash of its last manifests, by version:
`<namespace>:router:{<tenant>}:heads` and `…:manifests:<project>`. The braces keep what is a tenant's on one node of a
Cluster, where one script can change it whole.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from reference_services.redis import Database, Script, open_database
from reference_services.router.storage import (
    KEPT_VERSIONS,
    MAX_PROJECTS,
    Head,
    changed_since,
    too_many_projects,
)

_REGISTER = Script("""
local project, digest, replaces, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local text = redis.call('HGET', KEYS[1], project)
local held = text and cjson.decode(text)
if held and held.digest == digest then return {'same', text} end
if replaces ~= '' and not (held and held.digest == replaces) then return {'changed', text} end
if not held and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[6]) then return {'full', false} end
local version = held and held.version + 1 or 1
local head = cjson.encode({version = version, digest = digest, at = ARGV[5]})
redis.call('HSET', KEYS[1], project, head)
redis.call('HSET', KEYS[2], version, head .. '\\n' .. body)
redis.call('HDEL', KEYS[2], version - tonumber(ARGV[7]))
return {'new', head}
""")
"""What became of it, and the head that holds. Of project, digest, what it replaces, content, time, and two limits."""

_READ = Script("""
local text = redis.call('HGET', KEYS[1], ARGV[1])
if not text then return false end
local held = cjson.decode(text)
for version = held.version, 1, -1 do
    local found = redis.call('HGET', KEYS[2], version)
    if not found then return false end
    if ARGV[2] == '' or cjson.decode(string.match(found, '^[^\\n]*')).digest == ARGV[2] then
        return {found, held.version}
    end
end
return false
""")
"""Head and content of a manifest, and the version that holds. Of project and digest."""


class RedisManifestStore:
    """A `ManifestStore` in a Redis; see `open_redis_manifests`.

    Args:
        database: The Redis.
        namespace: The mesh, with which each key begins.
        clock: Unix time in seconds.
    """

    def __init__(self, database: Database, namespace: str, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._namespace = namespace
        self._clock = clock

    async def register(
        self, tenant: str, project: str, body: str, digest: str, replaces: str = ""
    ) -> tuple[Head, bool]:
        """See `ManifestStore.register`."""
        about: list[str | bytes | int] = [project, digest, replaces, body, repr(self._clock())]
        about += [MAX_PROJECTS, KEPT_VERSIONS]
        outcome, text = await self._database.run(_REGISTER, self._keys(tenant, project), about)
        if outcome == b"full":
            raise too_many_projects()
        head = _head(project, text) if text else None
        if outcome == b"changed" or head is None:
            raise changed_since(head)
        return head, outcome == b"new"

    async def heads(self, tenant: str) -> Sequence[Head]:
        """See `ManifestStore.heads`."""
        found = await self._database.execute("HGETALL", self._keys(tenant, "")[0])
        pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
        return sorted(
            (_head(project.decode(), text) for project, text in pairs), key=lambda head: head.project
        )

    async def read(self, tenant: str, project: str, digest: str = "") -> tuple[Head, str] | None:
        """See `ManifestStore.read`."""
        found = await self._database.run(_READ, self._keys(tenant, project), [project, digest])
        if found is None:
            return None
        text, _, body = found[0].partition(b"\n")
        return _head(project, text, current=found[1]), body.decode()

    async def check(self) -> None:
        """See `ManifestStore.check`."""
        await self._database.check()

    def _keys(self, tenant: str, project: str) -> list[str]:
        here = f"{self._namespace}:router:{{{tenant}}}"
        return [f"{here}:heads", f"{here}:manifests:{project}"]


@asynccontextmanager
async def open_redis_manifests(
    url: str, namespace: str, *, clock: Callable[[], float] = time.time
) -> AsyncGenerator[RedisManifestStore]:
    """Opens the storage in a Redis.

    Args:
        url: Where it is.
        namespace: The mesh.
        clock: Unix time in seconds.

    Raises:
        MeshError: It cannot be used.
    """
    async with open_database(url, "router", "ROUTER_DATABASE_URL") as database:
        yield RedisManifestStore(database, namespace, clock=clock)


def _head(project: str, text: bytes, current: int | None = None) -> Head:
    """A head as it is stored; `current` is the version that holds, where that may be another one."""
    found: dict[str, Any] = json.loads(text)
    version = int(found["version"])
    return Head(project, version, found["digest"], float(found["at"]), current in (None, version))
