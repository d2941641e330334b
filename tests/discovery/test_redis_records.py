"""Records in Redis that cannot be used, or that somebody tampered with: nobody dials what they say."""

import asyncio
import json
import time
from dataclasses import replace

import pytest

from meshkit.config.secrets import SealingKey
from meshkit.discovery.redis import RedisRegistry
from meshkit.discovery.redis.rows import MAX_AGE_S, REWRITE_S, RowReader, RowWriter
from meshkit.instance import RECORD_VERSION, State
from meshkit.redis.sealing import Sealer
from meshkit.redis.server import LocalServer
from tests.discovery.brains import (
    KEYS,
    NEW,
    OLD,
    Follow,
    Open,
    an_instance,
    crash,
    raw,
    rows,
    sealed,
)


async def test_records_in_redis_do_not_tell_what_they_hold(server: LocalServer, open_at: Open) -> None:
    registry = open_at(server.url, NEW)
    await registry.register(an_instance("a"))
    (row,) = (await rows(registry)).values()
    assert row.startswith(b"v1.new.")
    assert b"10.0.0.1" not in row


async def test_a_key_is_rotated_without_losing_anybody(
    server: LocalServer, open_at: Open, follow: Follow
) -> None:
    before, after = open_at(server.url, OLD), open_at(server.url, NEW, OLD)
    await before.register(an_instance("a"))
    await after.register(an_instance("b"))
    await follow(after).until_ids("a", "b")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (b"", "not sealed"),
        (b"\xff\xfe", "not sealed"),
        (b"v1.new.AAAA", ""),
        (b"v9.new.AAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAA", "release"),
        (sealed(), "not sealed"),
        (sealed(OLD), "sealed with the key old"),
        (sealed(NEW, name="b"), ""),
    ],
    ids=["empty", "bytes", "cut", "future", "plain", "unknown key", "of another place"],
)
async def test_a_row_that_does_not_open_is_not_used(
    row: bytes, why: str, server: LocalServer, open_at: Open, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    registry = open_at(server.url, NEW)
    await registry.register(an_instance("z"))
    await raw(registry, "HSET", KEYS.instances, "brain-a", row)
    follower = follow(registry)
    await follower.until_ids("z")
    assert registry.refused_records == 1
    logged = [entry.getMessage() for entry in caplog.records if "is ignored" in entry.getMessage()]
    assert len(logged) == 1
    assert "'brain-a' of brain" in logged[0]
    assert why in logged[0]
    assert "`meshkit registry inspect` shows it, and unless its owner mends it, HDEL" in logged[0]
    (shown,) = follower.last.refused.items()
    assert shown[0] == "brain-a"
    assert f"is ignored: {shown[1]};" in logged[0]
    await raw(registry, "HDEL", KEYS.instances, "brain-a")
    await raw(registry, "CLIENT", "KILL", "TYPE", "pubsub")  # so that it reads again
    await follower.until(lambda seen: not seen.refused and seen.stale_since is None)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"service": "router"}, "it claims to be"),
        ({"instance_id": "brain-other"}, "it claims to be"),
        ({"address": "nowhere"}, "is not host:port"),
        ({"record_version": RECORD_VERSION + 2}, "upgrade this program"),
        ({"written_at": None}, "does not say when it was written"),
    ],
    ids=["other service", "other id", "no address", "future version", "no date"],
)
async def test_a_record_that_is_wrong_is_not_dialled(
    change: dict[str, object],
    why: str,
    server: LocalServer,
    open_at: Open,
    follow: Follow,
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = open_at(server.url, NEW)
    await registry.register(an_instance("z"))
    sealer = Sealer((NEW,))
    plain = json.loads(sealer.open(sealed(NEW), key=KEYS.instances, field="brain-a")) | change
    row = sealer.seal(json.dumps(plain).encode(), key=KEYS.instances, field="brain-a")
    await raw(registry, "HSET", KEYS.instances, "brain-a", row)
    await follow(registry).until_ids("z")
    assert registry.refused_records == 1
    assert why in caplog.text


async def test_sealed_records_are_not_read_without_the_key(
    server: LocalServer, open_at: Open, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    await open_at(server.url, NEW).register(an_instance("a"))
    plain = open_at(server.url)
    await follow(plain).until_ids()
    assert plain.refused_records == 1
    assert "REDIS_SECRET_KEY" in caplog.text


async def test_an_older_record_that_somebody_puts_back_is_refused(
    server: LocalServer, open_at: Open, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    owners, watching = open_at(server.url, NEW, ttl=30.0), open_at(server.url, NEW, ttl=30.0)
    lease = await owners.register(an_instance())
    old = (await rows(owners))[b"brain-a"]
    await lease.update(state=State.DRAINING)
    follower = follow(watching)
    await follower.until(lambda seen: seen.instances["brain-a"].state is State.DRAINING)
    epoch, _, count = (await raw(owners, "GET", KEYS.revision)).decode().partition(":")
    at = f"{epoch}:{int(count) + 1}"
    await raw(owners, "HSET", KEYS.instances, "brain-a", old)
    await raw(owners, "SET", KEYS.revision, at)
    await raw(owners, "PUBLISH", KEYS.events, f"{at} put brain-a ".encode() + old)
    await lease.update(weight=3)
    await follower.until(lambda seen: seen.instances["brain-a"].weight == 3)
    assert "somebody put it back" in caplog.text
    assert all(seen.instances["brain-a"].state is State.DRAINING for seen in follower.seen)


async def put_back(registry: RedisRegistry, row: bytes) -> None:
    """Writes a row and a lease that ends in an hour into the place of brain-a, and says so to those who watch."""
    epoch, _, count = (await raw(registry, "GET", KEYS.revision)).decode().partition(":")
    at = f"{epoch}:{int(count) + 1}"
    seconds, _ = await raw(registry, "TIME")
    await raw(registry, "ZADD", KEYS.leases, (int(seconds) + 3600) * 1000, "brain-a")
    await raw(registry, "HSET", KEYS.instances, "brain-a", row)
    await raw(registry, "SET", KEYS.revision, at)
    await raw(registry, "PUBLISH", KEYS.events, f"{at} put brain-a ".encode() + row)


async def test_the_last_row_of_one_that_was_released_is_refused_when_somebody_puts_it_back(
    server: LocalServer, open_at: Open, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    owners, watching = open_at(server.url, NEW), open_at(server.url, NEW)
    await owners.register(an_instance("b"))
    lease = await owners.register(an_instance("a"))
    follower = follow(watching)
    await follower.until_ids("a", "b")
    last = (await rows(owners))[b"brain-a"]
    await lease.release()
    await follower.until_ids("b")
    before = len(follower.seen)
    await put_back(owners, last)
    await follower.until(lambda seen: "brain-a" in seen.refused)
    await raw(owners, "CLIENT", "KILL", "TYPE", "pubsub")  # so that all is read again
    await follower.until(lambda seen: seen.stale_since is not None)
    await follower.until(lambda seen: seen.stale_since is None)
    assert follower.last.refused == {"brain-a": "its owner has released it: somebody put it back"}
    assert all(set(seen.instances) == {"brain-b"} for seen in follower.seen[before:])
    assert caplog.text.count("its owner has released it") == 1


async def test_a_new_watcher_takes_no_sealed_row_that_is_too_old(
    server: LocalServer, open_at: Open, follow: Follow
) -> None:
    long_ago = open_at(server.url, NEW, clock=lambda: time.time() - MAX_AGE_S - 60)
    await long_ago.register(an_instance("a"))
    await open_at(server.url, NEW).register(an_instance("b"))
    follower = follow(open_at(server.url, NEW))
    await follower.until_ids("b")
    assert "it was sealed too long ago" in follower.last.refused["brain-a"]


async def test_nobody_can_keep_a_dead_owner_by_its_lease_alone(
    server: LocalServer, open_at: Open, follow: Follow
) -> None:
    passed = 0.0
    owners = open_at(server.url, NEW, clock=lambda: time.time() + passed)
    watching = open_at(server.url, NEW, clock=lambda: time.time() + passed)
    dying = await owners.register(an_instance("a"))
    await owners.register(an_instance("b"))
    follower = follow(watching)
    await follower.until_ids("a", "b")
    crash(dying)
    await put_back(owners, (await rows(owners))[b"brain-a"])
    passed = MAX_AGE_S + 1
    await follower.until_ids("b")
    assert "it was sealed too long ago" in follower.last.refused["brain-a"]


@pytest.mark.parametrize("keys", [(NEW,), ()], ids=["sealed", "plain"])
def test_of_rows_that_are_too_old_nothing_is_remembered(keys: tuple[SealingKey, ...]) -> None:
    now, sealer = 0.0, Sealer(keys)
    reader = RowReader(sealer, KEYS.instances, "brain", clock=lambda: now, lifetime=MAX_AGE_S)
    staying = RowWriter(sealer, KEYS.instances, clock=lambda: now)
    for number in range(100):
        now = 60.0 * number
        assert reader.open("brain-z", staying.write(an_instance("z")))
        passing = replace(an_instance("a"), instance_id=f"brain-{number}")
        assert reader.open(passing.instance_id, staying.write(passing))
        reader.gone(passing.instance_id, released=True)
    most = MAX_AGE_S / 60 + 2
    assert max(len(reader._newest), len(reader._released)) <= most
    assert "brain-z" in reader._newest


async def test_an_owner_writes_its_row_anew_now_and_then_and_nobody_is_told_of_that(
    server: LocalServer, open_at: Open, follow: Follow
) -> None:
    passed = 0.0
    owners = open_at(server.url, NEW, clock=lambda: time.time() + passed)
    lease = await owners.register(an_instance("a"))
    follower = follow(open_at(server.url, NEW))
    await follower.until_ids("a")
    first = (await rows(owners))[b"brain-a"]
    revision = await raw(owners, "GET", KEYS.revision)
    passed = REWRITE_S
    async with asyncio.timeout(30):
        while (await rows(owners))[b"brain-a"] == first:
            await asyncio.sleep(0.01)
    assert await raw(owners, "GET", KEYS.revision) != revision
    await lease.update(weight=2)
    await follower.until(lambda seen: seen.instances["brain-a"].weight == 2)
    assert len(follower.seen) == 2


async def test_an_owner_mends_a_row_that_was_spoilt(
    server: LocalServer, open_at: Open, follow: Follow
) -> None:
    owners = open_at(server.url, NEW)
    await owners.register(an_instance("a"))
    follower = follow(owners)
    await follower.until_ids("a")
    await raw(owners, "HSET", KEYS.instances, "brain-a", "garbage")
    async with asyncio.timeout(30):
        while not (await rows(owners))[b"brain-a"].startswith(b"v1.new."):
            await asyncio.sleep(0.01)
    assert set(follower.last.instances) == {"brain-a"}


async def test_garbage_on_the_channel_makes_the_watcher_read_again(
    server: LocalServer, open_at: Open, follow: Follow
) -> None:
    owners = open_at(server.url)
    lease = await owners.register(an_instance("a"))
    follower = follow(owners)
    await follower.until_ids("a")
    for message in (b"", b"garbage", b"1:2 put", b"\xff:\xff put x y", b"9:9 boil brain-a "):
        await raw(owners, "PUBLISH", KEYS.events, message)
    await lease.update(weight=7)
    await follower.until(lambda seen: seen.instances["brain-a"].weight == 7)


async def test_of_two_that_claim_one_address_the_newer_is_called(
    server: LocalServer, open_at: Open, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    registry = open_at(server.url)
    await registry.register(an_instance("a", port=7, started_at=1.0))
    newer = await registry.register(an_instance("b", port=7, started_at=2.0))
    follower = follow(registry)
    await follower.until_ids("b")
    assert "brain-a and brain-b claim the address 10.0.0.1:7" in caplog.text
    await newer.release()
    await follower.until_ids("a")
    assert caplog.text.count("claim the address") == 1
