"""The doctor's look at Redis: whether it answers, is new enough, evicts nothing, and lets us do what we must."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from secrets import token_hex
from typing import TYPE_CHECKING

from meshkit.cli.doctor.findings import Case, Finding, fault, good, note, warning
from meshkit.redis.trouble import RedisTrouble

if TYPE_CHECKING:
    from meshkit.config import RedisUrl, SharedConfig
    from meshkit.redis.database import Database

RIGHTS = "give the user the rights of docs/redis.md"

NEEDED = (
    ("GET",),
    ("EXISTS",),
    ("ZADD", 1, "a"),
    ("ZREM", "a"),
    ("ZSCORE", "a"),
    ("ZCARD",),
    ("ZRANGE", 0, 0),
    ("ZRANGEBYSCORE", 0, 0),
    ("ZSCAN", 0),
    ("HGET", "a"),
    ("HSET", "a", "b"),
    ("HDEL", "a"),
    ("HLEN",),
    ("HSCAN", 0),
    ("SADD", "a"),
    ("SMEMBERS",),
)
"""Commands that the mesh uses on keys, with what follows the key. On a text all but the first two change nothing."""

_PERMITTED = frozenset({"REDIS_KEY_TAKEN", "REDIS_FAILED"})
"""How a command fails that may be used: the key holds something else; there is no such script."""

EXPIRES_MS = 10_000
"""Milliseconds that the one key lasts which is written to try them."""


async def look_at_redis(case: Case) -> list[Finding]:
    """Looks at the Redis of the mesh, and at that of the registry where it is another."""
    from meshkit.config import RedisUrl, is_redis_url

    urls = [config.redis_url.get_secret_value() for config in (case.config, *case.configs)]
    urls += [config.registry_url for config in (case.config, *case.configs)]
    found = dict.fromkeys(RedisUrl.parse(url) for url in urls if is_redis_url(url))
    if not found:
        return [note("none is configured")]
    return [finding for url in found for finding in await look_at(url, case.config)]


async def look_at(url: RedisUrl, config: SharedConfig) -> list[Finding]:
    """Looks at one Redis; nothing stays behind in it."""
    from meshkit.redis.database import Database

    database = Database(url)
    try:
        return [finding async for finding in _looks(database, config)]
    except RedisTrouble as trouble:
        heals = "see that it runs, and can be reached from here"
        return [fault(str(trouble), heals if trouble.heals else "mend its URL, or the Redis")]
    finally:
        await database.close()


async def _looks(database: Database, config: SharedConfig) -> AsyncIterator[Finding]:
    await database.execute("TIME")  # connects
    begun = time.monotonic()
    reply = await database.execute("TIME")
    seconds, microseconds = next(iter(reply.values())) if isinstance(reply, dict) else reply
    took = time.monotonic() - begun
    yield good(f"{database.url} answers in {1000 * took:.0f} ms, {_secured(database.url)}")
    yield _clock(int(seconds) + int(microseconds) / 1e6 - (time.time() - took / 2), took, config)
    async for finding in _rights(database, config.namespace):
        yield finding
    yield await _version(database)
    yield await _eviction(database)


def _secured(url: RedisUrl) -> str:
    user = f"as {url.username or 'the default user'}" if url.authenticated else "without credentials"
    return f"{'over TLS' if url.tls else 'in plain text'}, {user}"


def _clock(ahead: float, took: float, config: SharedConfig) -> Finding:
    apart = f"its clock is {abs(ahead):.2f} s {'ahead' if ahead > 0 else 'behind'} (± {took / 2:.2f} s)"
    if abs(ahead) - took / 2 > config.clock_skew_s:
        return fault(
            f"{apart}, more than CU_CLOCK_SKEW_S ({config.clock_skew_s:g} s)", "set the clocks by NTP"
        )
    if abs(ahead) - took / 2 > config.clock_skew_s / 4:
        return warning(apart, "set the clocks by NTP, before it is more than CU_CLOCK_SKEW_S")
    return good(apart)


async def _rights(database: Database, namespace: str) -> AsyncIterator[Finding]:
    """Tries each command: on a key that holds a text, so that it is refused for that, or for want of rights."""
    key = f"{namespace}:doctor:{token_hex(8)}"
    tries: list[tuple[str | int, ...]] = [("SET", key, "1", "PX", EXPIRES_MS)]
    tries += [(command, key, *rest) for command, *rest in NEEDED]
    tries += [
        ("EVAL", "return 1", 1, key),
        ("EVALSHA", "0" * 40, 1, key),
        ("PUBLISH", f"{namespace}:doctor", ""),
    ]
    lacking = []
    for command in tries:
        try:
            await database.execute(*command)
        except RedisTrouble as trouble:
            if trouble.reason == "REDIS_RIGHTS":
                lacking.append(str(command[0]).lower())
            elif trouble.reason not in _PERMITTED:
                raise
    if lacking:
        yield fault(f"the user may not use {', '.join(lacking)} on {namespace}:*", RIGHTS)
    else:
        yield good(f"the user may do on {namespace}:* what the mesh needs")


async def _version(database: Database) -> Finding:
    try:
        reply = await database.execute("INFO", "server")
    except RedisTrouble:
        return note("this user may not ask for the version; it is new enough, or nothing would have worked")
    return good(f"Redis {_field(reply, 'redis_version')}")


async def _eviction(database: Database) -> Finding:
    ask = "ask one who may: `redis-cli config get maxmemory-policy`; it should be noeviction"
    try:
        reply = await database.execute("INFO", "memory")
    except RedisTrouble:
        return note("this user may not ask what is evicted", ask)
    policy = _field(reply, "maxmemory_policy")
    if policy == "noeviction":
        return good("nothing is evicted (noeviction)")
    mend = "set maxmemory-policy noeviction: what is evicted costs its callers a pause, and revocations are forgotten"
    return warning(f"keys may be evicted ({policy or 'unknown'})", mend)


def _field(reply: object, name: str) -> str:
    if isinstance(reply, dict):
        nested = next((each for each in reply.values() if isinstance(each, dict) and name in each), reply)
        return str(nested.get(name, ""))
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
    return next(
        (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(f"{name}:")), ""
    )
