"""What the registry in Redis survives, on a real server: see test_contract.py for what every registry does."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from meshkit.config.redis_url import RedisUrl
from meshkit.config.secrets import SealingKey
from meshkit.discovery.redis import RedisRegistry
from meshkit.discovery.redis.keys import Keys
from meshkit.discovery.redis.lease import RedisLease
from meshkit.discovery.redis.rows import RowWriter
from meshkit.errors import AlreadyExists, Unavailable
from meshkit.instance import RECORD_VERSION, Instance, State
from meshkit.redis.sealing import Sealer
from meshkit.redis.server import LocalServer
from tests.certificates import Certificates
from tests.redis.servers import acl_server, cluster, sentinels, tls_server

Follow = Callable[..., Any]
Eventually = Callable[..., Awaitable[None]]
Open = Callable[..., RedisRegistry]

TTL = 0.6
KEYS = Keys("contextunity", "brain")
OLD = SealingKey("old", b"o" * 32)
NEW = SealingKey("new", b"n" * 32)
ROOT = Path(__file__).parents[2]


def an_instance(name: str = "a", port: int = 0, started_at: float = 0.0) -> Instance:
    return Instance(
        service="brain",
        instance_id=f"brain-{name}",
        address=f"10.0.0.1:{port or 1 + ord(name) - ord('a')}",
        started_at=started_at,
    )


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[LocalServer]:
    async with LocalServer(tmp_path / "redis") as running:
        yield running


@pytest.fixture
async def open_at() -> AsyncIterator[Open]:
    """Opens registries; they are closed when the test ends."""
    async with AsyncExitStack() as stack:

        def open_(url: str, *keys: SealingKey, ttl: float = TTL, **options: Any) -> RedisRegistry:
            made = RedisRegistry(
                RedisUrl.parse(url),
                namespace="contextunity",
                sealer=Sealer(keys),
                lease_ttl=ttl,
                **options,
            )
            stack.push_async_callback(made.close)
            return made

        yield open_


def crash(lease: RedisLease) -> None:
    """Ends the renewing as the death of its process would: Redis is not told."""
    assert lease._holding is not None
    lease._holding.cancel()
    lease._registry.forget(lease)


async def rows(registry: RedisRegistry) -> dict[bytes, bytes]:
    return {
        name: row
        async for page in registry.database.hash_pages(KEYS.instances, 10)
        for name, row in page.items()
    }


async def raw(registry: RedisRegistry, *command: Any) -> Any:
    return await registry.database.execute(*command)


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
    async with asyncio.timeout(10):
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
    async with asyncio.timeout(10):
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
    server.pause()
    await follower.until(lambda seen: seen.stale_since is not None)
    server.resume()
    await follower.until(lambda seen: seen.stale_since is None)
    await eventually(lambda: all(lease.trouble is None for lease in leases))
    assert all(len(seen.instances) == 3 for seen in follower.seen if seen.instances)
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
    for key in KEYS.all:
        await raw(owners, "DEL", key)
        async with asyncio.timeout(10):
            while not await raw(owners, "EXISTS", KEYS.leases) or not await rows(owners):
                await asyncio.sleep(0.01)
        await follower.until_ids("a")
    assert all(seen.instances for seen in follower.seen if seen is not follower.seen[0])


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


# Records that cannot be used


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


def sealed(*keys: SealingKey, name: str = "a", instance: Instance | None = None) -> bytes:
    writer = RowWriter(Sealer(keys), KEYS.instances, clock=lambda: 1.0)
    return writer.write(instance or an_instance(name))


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


async def test_an_owner_mends_a_row_that_was_spoilt(
    server: LocalServer, open_at: Open, follow: Follow
) -> None:
    owners = open_at(server.url, NEW)
    await owners.register(an_instance("a"))
    follower = follow(owners)
    await follower.until_ids("a")
    good = (await rows(owners))[b"brain-a"]
    await raw(owners, "HSET", KEYS.instances, "brain-a", "garbage")
    async with asyncio.timeout(10):
        while (await rows(owners))[b"brain-a"] != good:
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


# Who may use Redis, and how


def documented_acl() -> str:
    text = (ROOT / "docs" / "redis.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("user meshkit on "))
    return line.partition(">")[2].partition(" ")[2]


async def test_the_documented_rights_are_enough(tmp_path: Path, open_at: Open, follow: Follow) -> None:
    async with acl_server(tmp_path / "redis", documented_acl()) as redis:
        registry = open_at(redis.url, NEW, strict=True)
        lease = await registry.register(an_instance("a"))
        dying = await registry.register(an_instance("b"))
        follower = follow(registry)
        await follower.until_ids("a", "b")
        await lease.update(weight=2)
        assert set(await registry.leases("brain")) == {"brain-a", "brain-b"}
        assert await registry.services() == ["brain"]
        crash(dying)
        await follower.until_ids("a")
        await lease.release()
        await follower.until_ids()


@pytest.mark.parametrize("missing", ["+zadd", "+evalsha", "+publish", "~contextunity:*", "&contextunity:*"])
async def test_rights_that_are_missing_are_named(missing: str, tmp_path: Path, open_at: Open) -> None:
    rules = documented_acl().replace(missing, "")
    async with acl_server(tmp_path / "redis", rules) as redis:
        with pytest.raises(Unavailable, match="ACL lacks a right") as caught:
            await open_at(redis.url, strict=True).register(an_instance())
        assert caught.value.reason == "REDIS_RIGHTS"
        lenient = open_at(redis.url)
        lease = await lenient.register(an_instance())
        assert lease.trouble is not None
        assert not lease.trouble.heals


async def test_a_wrong_password_is_named_and_not_shown(
    server: LocalServer, open_at: Open, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"redis://:not-the-password@127.0.0.1:{server.port}/0"
    with pytest.raises(Unavailable, match="refuses the user or the password") as caught:
        await open_at(url, strict=True).register(an_instance())
    assert caught.value.reason == "REDIS_CREDENTIALS"
    lenient = open_at(url)
    await lenient.register(an_instance())
    assert "refuses the user or the password" in caplog.text
    assert "not-the-password" not in caplog.text + str(caught.value) + repr(lenient)


@pytest.mark.parametrize("client_certificate", [False, True])
async def test_over_tls(client_certificate: bool, tmp_path: Path, open_at: Open, follow: Follow) -> None:
    certificates = Certificates.make(tmp_path / "certificates")
    async with tls_server(tmp_path / "redis", certificates, client_certificate=client_certificate) as redis:
        registry = open_at(redis.url, NEW, strict=True)
        await registry.register(an_instance("a"))
        await follow(registry).until_ids("a")


async def test_a_certificate_that_is_not_trusted_is_named(tmp_path: Path, open_at: Open) -> None:
    certificates = Certificates.make(tmp_path / "certificates")
    other = Certificates.make(tmp_path / "other")
    async with tls_server(tmp_path / "redis", certificates) as redis:
        url = redis.url.partition("?")[0] + f"?ssl_ca_certs={other.ca}"
        with pytest.raises(Unavailable, match="not trusted") as caught:
            await open_at(url, strict=True).register(an_instance())
        assert caught.value.reason == "REDIS_UNTRUSTED"


async def test_tls_with_a_server_that_has_none_is_named(server: LocalServer, open_at: Open) -> None:
    lease = await open_at(server.url.replace("redis://", "rediss://")).register(an_instance())
    assert "does it speak TLS?" in str(lease.trouble)


async def test_a_redis_that_is_too_old_is_named(open_at: Open) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.readline()).strip() != b"HELLO":
            pass
        writer.write(b"*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n6.0.16\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    old = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = old.sockets[0].getsockname()[1]
    async with old:
        with pytest.raises(Unavailable, match=r"is Redis 6.0.16, and 6.2 or newer is needed") as caught:
            await open_at(f"redis://127.0.0.1:{port}", strict=True).register(an_instance())
    assert caught.value.reason == "REDIS_TOO_OLD"


# More than one server


async def test_a_fail_over_takes_nobody_out(
    tmp_path: Path, open_at: Open, follow: Follow, eventually: Eventually
) -> None:
    async with sentinels(tmp_path / "redis") as redis:
        owners, watching = open_at(redis.url, NEW, ttl=2.0), open_at(redis.url, NEW, ttl=2.0)
        leases = [await owners.register(an_instance(name)) for name in "ab"]
        follower = follow(watching)
        await follower.until_ids("a", "b")
        await redis.kill_master()
        await follower.until(lambda seen: seen.stale_since is None)
        await eventually(lambda: all(lease.trouble is None for lease in leases))
        await leases[0].release()
        await follower.until_ids("b")
        assert all(seen.instances for seen in follower.seen)


async def test_a_cluster_that_loses_a_master_takes_nobody_out(
    tmp_path: Path, open_at: Open, follow: Follow, eventually: Eventually
) -> None:
    async with cluster(tmp_path / "redis") as redis:
        owners, watching = open_at(redis.url, NEW, ttl=2.0), open_at(redis.url, NEW, ttl=2.0)
        leases = [await owners.register(an_instance(name)) for name in "ab"]
        follower = follow(watching)
        await follower.until_ids("a", "b")
        assert await owners.services() == ["brain"]
        assert set(await owners.leases("brain")) == {"brain-a", "brain-b"}
        await redis.kill_owner(KEYS.leases)
        await leases[0].update(weight=5)
        await follower.until(lambda seen: seen.instances["brain-a"].weight == 5)
        await eventually(lambda: all(lease.trouble is None for lease in leases))
        await leases[0].release()
        await follower.until_ids("b")
        assert all(seen.instances for seen in follower.seen)
