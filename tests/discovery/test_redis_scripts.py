"""The scripts, one by one, on a real server: leases of minutes, so that no time passes that would matter."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meshkit.config.redis_url import RedisUrl
from meshkit.discovery.redis import scripts
from meshkit.discovery.redis.keys import Keys
from meshkit.redis.database import Database, Script
from meshkit.redis.server import LocalServer

KEYS = Keys("contextunity", "brain")
TTL = 600_000
"""Milliseconds."""


@dataclass
class Scripts:
    """The keys of one service."""

    database: Database

    async def run(self, script: Script, *arguments: str) -> Any:
        return await self.database.run(script, KEYS.all, [KEYS.events, TTL, *arguments])

    async def do(self, *command: str | int) -> Any:
        return await self.database.execute(*command)

    async def now(self) -> int:
        seconds, microseconds = await self.do("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def sweep(self) -> tuple[str, int]:
        revision, wait = await self.run(scripts.SWEEP)
        return revision.decode(), wait

    async def pulse(self) -> tuple[int, int]:
        last, _, spared = (await self.do("GET", KEYS.pulse)).decode().partition(":")
        return int(last), int(spared)

    async def register_lapsed(self, *names: str) -> None:
        """Instances whose leases have ended."""
        for name in names:
            assert await self.run(scripts.REGISTER, name, "record", "1")
            await self.do("ZADD", KEYS.leases, 1, name)

    async def names(self) -> set[str]:
        rows, leases = await self.do("HKEYS", KEYS.instances), await self.do("ZRANGE", KEYS.leases, 0, -1)
        assert set(rows) == set(leases)
        return {name.decode() for name in rows}


@pytest.fixture
async def brain(tmp_path: Path) -> AsyncIterator[Scripts]:
    async with LocalServer(tmp_path / "redis") as server:
        database = Database(RedisUrl.parse(server.url))
        yield Scripts(database)
        await database.close()


async def test_a_lease_that_has_ended_is_swept_while_the_pulse_beats(brain: Scripts) -> None:
    await brain.register_lapsed("a", "b")
    now = await brain.now()
    await brain.do("SET", KEYS.pulse, f"{now - TTL // 2 + 10_000}:{now}")
    before = (await brain.sweep())[0]
    assert await brain.names() == set()
    assert before.endswith(":4"), "two registered, two expired"


async def test_after_half_a_lease_of_silence_nothing_is_swept_for_a_whole_one(brain: Scripts) -> None:
    await brain.register_lapsed("a")
    now = await brain.now()
    await brain.do("SET", KEYS.pulse, f"{now - TTL // 2 - 1}:0")
    _, wait = await brain.sweep()
    assert await brain.names() == {"a"}
    last, spared = await brain.pulse()
    assert spared == last + TTL
    assert now <= last <= await brain.now()
    assert wait == TTL // 4, "sooner than a silence would be taken for another absence"
    await brain.sweep()
    assert (await brain.pulse())[1] == spared, "it does not grow while scripts run"
    assert await brain.names() == {"a"}


async def test_when_that_time_is_over_sweeping_goes_on(brain: Scripts) -> None:
    await brain.register_lapsed("a")
    now = await brain.now()
    await brain.do("SET", KEYS.pulse, f"{now}:{now - 1}")
    await brain.sweep()
    assert await brain.names() == set()


@pytest.mark.parametrize("pulse", [None, "garbage", "", "{future}:0"])
async def test_a_pulse_that_is_gone_or_spoilt_counts_as_silence(brain: Scripts, pulse: str | None) -> None:
    await brain.register_lapsed("a")
    if pulse is None:
        await brain.do("DEL", KEYS.pulse)
    else:
        await brain.do("SET", KEYS.pulse, pulse.format(future=await brain.now() + TTL))
    await brain.sweep()
    assert await brain.names() == {"a"}
    last, spared = await brain.pulse()
    assert spared == last + TTL


@pytest.mark.parametrize("script", ["REGISTER", "RENEW", "RELEASE", "SWEEP"])
async def test_every_script_leaves_its_pulse(brain: Scripts, script: str) -> None:
    arguments = {"REGISTER": ("a", "record", "1"), "RENEW": ("a", "digest"), "RELEASE": ("a",), "SWEEP": ()}
    before = await brain.now()
    await brain.run(getattr(scripts, script), *arguments[script])
    assert before <= (await brain.pulse())[0] <= await brain.now()


async def test_a_renewal_finds_what_is_missing(brain: Scripts) -> None:
    digest = "5ac1e2d1cbb4e4d8e4d2a6d2f9f0d4a7e0cd1d57"
    assert not await brain.run(scripts.RENEW, "a", digest)
    await brain.run(scripts.REGISTER, "a", "record", "1")
    assert not await brain.run(scripts.RENEW, "a", digest), "the row is another one"
    digest = (await brain.do("EVAL", "return redis.sha1hex('record')", 0)).decode()
    assert await brain.run(scripts.RENEW, "a", digest)
    for key in (KEYS.leases, KEYS.instances, KEYS.revision):
        await brain.do("DEL", key)
        assert not await brain.run(scripts.RENEW, "a", digest), key
        await brain.run(scripts.REGISTER, "a", "record", "0")
        assert await brain.run(scripts.RENEW, "a", digest)


async def test_a_sweep_gives_a_row_without_a_lease_one(brain: Scripts) -> None:
    await brain.do("HSET", KEYS.instances, "a", "record")
    _, wait = await brain.sweep()
    assert await brain.names() == {"a"}
    left = int(await brain.do("ZSCORE", KEYS.leases, "a")) - await brain.now()
    assert TTL - 60_000 < left <= TTL
    assert 0 < wait <= TTL


async def test_one_sweep_prunes_ten_at_most_and_asks_for_another_at_once(brain: Scripts) -> None:
    await brain.register_lapsed(*(f"a-{number:02}" for number in range(15)))
    now = await brain.now()
    await brain.do("SET", KEYS.pulse, f"{now}:0")
    _, wait = await brain.sweep()
    assert (len(await brain.names()), wait) == (5, 0)
    _, wait = await brain.sweep()
    assert (await brain.names(), wait) == (set(), TTL)
