"""What the registry in Redis survives, on a real server: see test_contract.py for what every registry does."""

import asyncio
import itertools
import logging
from pathlib import Path
from typing import Any

import pytest

from meshkit.config.redis_url import RedisUrl
from meshkit.discovery.redis import RedisRegistry, scripts
from meshkit.discovery.redis.keys import Keys
from meshkit.discovery.redis.rows import RowWriter
from meshkit.discovery.redis.store import Store
from meshkit.errors import AlreadyExists
from meshkit.instance import State
from meshkit.redis.database import Script
from meshkit.redis.sealing import Sealer
from meshkit.redis.server import LocalServer
from meshkit.redis.subscriptions import Feed
from meshkit.redis.trouble import RedisTrouble
from tests.discovery.brains import (
    KEYS,
    NEW,
    TTL,
    Eventually,
    Follow,
    Open,
    an_instance,
    crash,
    raw,
    rows,
    sealed,
)
from tests.redis.servers import client_of

# What Redis does


async def test_a_crashed_owner_is_gone_after_its_lease(
    server: LocalServer, open_at: Open, follow: Follow
) -> None:
    owners, watching = open_at(server.url), open_at(server.url)
    dying = await owners.register(an_instance("a"))
    await owners.register(an_instance("b"))
    follower = follow(watching)
    await follower.until_ids("a", "b")
    crash(dying)
    await follower.until_ids("b")
    assert b"brain-a" not in await rows(owners)


async def test_when_all_owners_crash_that_is_noticed_too(
    server: LocalServer, open_at: Open, follow: Follow
) -> None:
    owners, watching = open_at(server.url), open_at(server.url)
    dying = [await owners.register(an_instance(name)) for name in "abc"]
    follower = follow(watching)
    await follower.until_ids("a", "b", "c")
    for lease in dying:
        crash(lease)
    await follower.until_ids()
    assert follower.last.stale_since is None


async def test_more_may_die_at_once_than_one_sweep_prunes(
    server: LocalServer, open_at: Open, follow: Follow
) -> None:
    owners, watching = open_at(server.url), open_at(server.url)
    dying = [await owners.register(an_instance(f"{n}", port=100 + n)) for n in range(25)]
    follower = follow(watching)
    await follower.until(lambda seen: len(seen.instances) == 25)
    for lease in dying:
        crash(lease)
    await follower.until_ids()


@pytest.mark.parametrize("data", ["kept", "lost"])
async def test_a_restart_takes_nobody_out(
    data: str, server: LocalServer, open_at: Open, follow: Follow
) -> None:
    owners, watching = open_at(server.url), open_at(server.url)
    for name in "abc":
        await owners.register(an_instance(name))
    follower = follow(watching)
    await follower.until_ids("a", "b", "c")
    await server.kill()
    stale = await follower.until(lambda seen: seen.stale_since is not None)
    assert set(stale.instances) == {"brain-a", "brain-b", "brain-c"}
    before = len(follower.seen)
    await server.restart(wipe=data == "lost")
    await follower.until(lambda seen: seen.stale_since is None)
    async with asyncio.timeout(30):
        while set(await rows(watching)) != {b"brain-a", b"brain-b", b"brain-c"}:
            await asyncio.sleep(0.01)
    assert all(len(seen.instances) == 3 for seen in follower.seen[before:])


async def test_leases_survive_flushall(server: LocalServer, open_at: Open, follow: Follow) -> None:
    owners, watching = open_at(server.url), open_at(server.url)
    await owners.register(an_instance("a"))
    await owners.register(an_instance("b"))
    follower = follow(watching)
    await follower.until_ids("a", "b")
    await raw(owners, "FLUSHALL")
    async with asyncio.timeout(30):
        while len(await rows(owners)) < 2:
            await asyncio.sleep(0.01)
    assert await owners.services() == ["brain"]
    lease = await owners.register(an_instance("c"))
    await follower.until_ids("a", "b", "c")
    await lease.release()
    await follower.until_ids("a", "b")
    assert all(len(seen.instances) >= 2 for seen in follower.seen[follower.seen.index(follower.last) :])


async def test_a_pause_longer_than_a_lease_takes_nobody_out(
    server: LocalServer, open_at: Open, follow: Follow, eventually: Eventually
) -> None:
    owners, watching = open_at(server.url), open_at(server.url)
    leases = [await owners.register(an_instance(name)) for name in "abc"]
    follower = follow(watching)
    await follower.until_ids("a", "b", "c")
    before = len(follower.seen)
    server.pause()
    await follower.until(lambda seen: seen.stale_since is not None)
    server.resume()
    await follower.until(lambda seen: seen.stale_since is None)
    await eventually(lambda: all(lease.trouble is None for lease in leases))
    assert all(len(seen.instances) == 3 for seen in follower.seen[before:])
    assert set(await rows(owners)) == {b"brain-a", b"brain-b", b"brain-c"}


async def test_an_owner_that_died_while_redis_was_away_is_given_up(
    server: LocalServer, open_at: Open, follow: Follow
) -> None:
    owners, watching = open_at(server.url), open_at(server.url)
    dying = await owners.register(an_instance("a"))
    await owners.register(an_instance("b"))
    follower = follow(watching)
    await follower.until_ids("a", "b")
    await server.kill()
    await follower.until(lambda seen: seen.stale_since is not None)
    crash(dying)
    await server.restart(wipe=True)
    await follower.until_ids("b")


async def test_redis_may_start_after_all_others(
    tmp_path: Path, open_at: Open, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    server = LocalServer(tmp_path / "redis")
    await server.start()
    await server.stop()
    owners, watching = open_at(server.url), open_at(server.url)
    follower = follow(watching)
    lease = await owners.register(an_instance())
    assert lease.trouble is not None
    assert lease.trouble.heals
    assert follower.seen == []
    with caplog.at_level(logging.INFO):
        async with server:
            await follower.until_ids("a")
    assert "lease of brain-a stands again" in caplog.text
    assert server.url not in caplog.text


async def test_an_update_made_while_redis_is_away_is_made_up_for(
    server: LocalServer, open_at: Open, follow: Follow
) -> None:
    owners, watching = open_at(server.url), open_at(server.url)
    lease = await owners.register(an_instance())
    follower = follow(watching)
    await follower.until_ids("a")
    await server.stop()
    await lease.update(state=State.DRAINING)
    assert lease.instance.state is State.DRAINING
    await server.start()
    await follower.until(lambda seen: seen.instances["brain-a"].state is State.DRAINING)


async def test_a_release_that_redis_is_not_told_of_lapses(
    server: LocalServer, open_at: Open, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    owners, watching = open_at(server.url), open_at(server.url)
    lease = await owners.register(an_instance("a"))
    await owners.register(an_instance("b"))
    follower = follow(watching)
    await follower.until_ids("a", "b")
    await server.stop()
    await lease.release()
    assert "could not release brain-a, whose lease ends by itself within 0.6 s" in caplog.text
    await server.start()
    await follower.until_ids("b")


async def test_a_row_that_somebody_deletes_is_written_again(
    server: LocalServer, open_at: Open, follow: Follow
) -> None:
    owners, watching = open_at(server.url), open_at(server.url)
    await owners.register(an_instance("a"))
    follower = follow(watching)
    await follower.until_ids("a")
    before = len(follower.seen)
    for key in KEYS.all:
        await raw(owners, "DEL", key)
        async with asyncio.timeout(30):
            while await raw(owners, "EXISTS", *KEYS.all) < len(KEYS.all):
                await asyncio.sleep(0.01)
        lease = await owners.register(an_instance("b"))
        await follower.until_ids("a", "b")
        await lease.release()
        await follower.until_ids("a")
    assert all("brain-a" in seen.instances for seen in follower.seen[before:])


async def test_a_row_without_a_lease_gets_one_and_then_ends(
    server: LocalServer, open_at: Open, follow: Follow
) -> None:
    owners, watching = open_at(server.url), open_at(server.url)
    dying = await owners.register(an_instance("a"))
    follower = follow(watching)
    await follower.until_ids("a")
    crash(dying)
    await raw(owners, "DEL", KEYS.leases)
    await follower.until_ids()
    assert await rows(owners) == {}


async def test_an_event_that_was_missed_is_noticed(
    server: LocalServer, open_at: Open, follow: Follow
) -> None:
    owners, watching = open_at(server.url), open_at(server.url)
    await owners.register(an_instance("a"))
    follower = follow(watching)
    await follower.until_ids("a")
    row = RowWriter(Sealer(()), KEYS.instances, clock=lambda: 1.0).write(an_instance("b"))
    seconds, _ = await raw(owners, "TIME")
    await raw(owners, "ZADD", KEYS.leases, int(seconds) * 1000 + 600_000, "brain-b")
    await raw(owners, "HSET", KEYS.instances, "brain-b", row)
    epoch, _, count = (await raw(owners, "GET", KEYS.revision)).decode().partition(":")
    await raw(owners, "SET", KEYS.revision, f"{epoch}:{int(count) + 1}")
    await follower.until_ids("a", "b")


async def test_a_burst_of_events_leaves_others_their_turn(
    server: LocalServer, open_at: Open, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshkit.redis.turns.SLICE_S", -1.0)  # each event is a slice
    watching = open_at(server.url, ttl=60.0)
    follower = follow(watching)
    await follower.until_ids()
    names = [f"{number}" for number in range(500)]
    received, applied = [0], [0]
    view = watching._watches["brain"]._view
    (feed,) = watching.store.subscriptions._feeds[KEYS.events]

    async def look() -> None:
        while True:
            applied.append(len(view._known))
            received.append(applied[-1] + len(feed._messages))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    async with client_of(server) as client, client.pipeline(transaction=False) as pipeline:
        for number, name in enumerate(names):
            row = sealed(instance=an_instance(name, port=1 + number))
            arguments = [KEYS.events, 60_000, f"brain-{name}", row, "1"]
            pipeline.eval(scripts.REGISTER.source, len(KEYS.all), *KEYS.all, *arguments)  # type: ignore[arg-type]
        await pipeline.execute()
    await follower.until(lambda snapshot: len(snapshot.instances) == len(names))
    looking.cancel()
    for counts in (received, applied):
        most = max(after - before for before, after in itertools.pairwise(counts))
        assert most <= 2, f"{most} events in one turn of the event loop"


async def test_a_backlog_of_events_is_worked_off_in_turns(
    server: LocalServer, open_at: Open, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshkit.redis.turns.SLICE_S", -1.0)
    monkeypatch.setattr("meshkit.discovery.redis.watch.BURST_S", float("inf"))
    watching = open_at(server.url, ttl=60.0)
    follower = follow(watching)
    await follower.until_ids()
    watch = watching._watches["brain"]
    feed = Feed(watching.store.subscriptions, "none")
    epoch, count = watch._revision
    for number in range(count + 1, count + 301):
        feed._deliver(f"{epoch}:{number} release brain-x ".encode())
    working = asyncio.create_task(watch._apply_burst(feed, await feed.next(0)))
    turns = 0
    while not working.done():
        await asyncio.sleep(0)
        turns += 1
    await working
    assert watch._revision == (epoch, count + 300)
    assert turns >= 300


async def test_a_watcher_that_is_cut_off_reads_again(
    server: LocalServer, open_at: Open, follow: Follow
) -> None:
    owners, watching = open_at(server.url), open_at(server.url)
    lease = await owners.register(an_instance("a"))
    follower = follow(watching)
    await follower.until_ids("a")
    for _ in range(3):
        await raw(owners, "CLIENT", "KILL", "TYPE", "pubsub")
        await lease.update(weight=lease.instance.weight + 1)
        await follower.until(
            lambda seen, weight=lease.instance.weight: seen.instances["brain-a"].weight == weight
        )
    await follower.until(lambda seen: seen.stale_since is None)


# Leases


async def test_leases_tell_what_they_have_left(server: LocalServer, open_at: Open) -> None:
    registry = open_at(server.url, ttl=30.0)
    await registry.register(an_instance("a"))
    await registry.register(an_instance("b"))
    left = await registry.leases("brain")
    assert set(left) == {"brain-a", "brain-b"}
    assert all(25 < seconds <= 30 for seconds in left.values())
    assert await registry.leases("router") == {}


async def test_an_id_of_another_process_is_refused(server: LocalServer, open_at: Open) -> None:
    one, other = open_at(server.url), open_at(server.url)
    await one.register(an_instance("a", port=1))
    with pytest.raises(AlreadyExists, match="brain-a is registered already"):
        await other.register(an_instance("a", port=2))
    await other.register(an_instance("b"))


async def test_a_registration_whose_reply_is_lost_is_no_other_process(
    server: LocalServer, open_at: Open, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = open_at(server.url, NEW)
    run, lost = Store.run, [scripts.REGISTER]

    async def unheard(store: Store, script: Script, keys: Keys, *arguments: str | bytes) -> Any:
        reply = await run(store, script, keys, *arguments)
        if lost and script is lost.pop():
            raise RedisTrouble("no reply", reason="REDIS_UNREACHABLE", heals=True)
        return reply

    monkeypatch.setattr(Store, "run", unheard)
    lease = await registry.register(an_instance())
    assert lease.trouble is not None
    await lease.update(weight=2)
    assert lease.trouble is None
    await follow(registry).until(lambda seen: seen.instances["brain-a"].weight == 2)


async def test_two_meshes_in_one_redis_do_not_notice_each_other(
    server: LocalServer, open_at: Open, follow: Follow
) -> None:
    one = open_at(server.url)
    other = RedisRegistry(RedisUrl.parse(server.url), namespace="other", sealer=Sealer(()), lease_ttl=TTL)
    await one.register(an_instance("a"))
    follower = follow(other)
    await follower.until(lambda _: True)
    assert follower.last.instances == {}
    assert await other.services() == []
    await other.close()
