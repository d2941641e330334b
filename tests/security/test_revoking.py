"""Revocations in a real Redis: pushed to every verifier, and in force whatever Redis does."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from structlog.testing import capture_logs

from meshkit import Principal
from meshkit.config import RedisUrl, SealingKey
from meshkit.errors import ResourceExhausted, Unavailable
from meshkit.redis import following
from meshkit.redis.database import Database
from meshkit.redis.sealing import Sealer
from meshkit.redis.server import LocalServer, free_port
from meshkit.security import revoking
from meshkit.security.revocations import Revocations
from meshkit.security.revoking import (
    Revocation,
    RevocationCodec,
    RevocationFeed,
    RevocationRefused,
    RevocationTable,
)
from meshkit.testing import LocalMesh
from tests.security.handmade import SETTINGS, Handmade, call
from tests.security.services import BODY, GREET, Echo

SEALER = Sealer([SealingKey("k1", b"\x01" * 32)])
NAMESPACE = "contextunity"
SET = "contextunity:revocations"
EVENTS = "contextunity:revocations:events"
LATER = int(time.time()) + 3000

Eventually = Callable[..., Awaitable[None]]


@pytest.fixture
async def table(server: LocalServer) -> AsyncIterator[RevocationTable]:
    database = Database(RedisUrl.parse(server.url))
    yield RevocationTable(database, namespace=NAMESPACE, sealer=SEALER, limit=1000)
    await database.close()


Feeds = Callable[..., Awaitable[RevocationFeed]]


@pytest.fixture
async def feeds(server: LocalServer) -> AsyncIterator[Feeds]:
    started: list[RevocationFeed] = []

    async def start(url: str = "", sealer: Sealer = SEALER, **options: Any) -> RevocationFeed:
        known = Revocations(**options)
        made = RevocationFeed(RedisUrl.parse(url or server.url), known, namespace=NAMESPACE, sealer=sealer)
        started.append(made)
        await made.start(patience=30)
        return made

    yield start
    for each in started:
        await each.close()


def bearer(jti: str = "t1", project: str = "shop", issued_at: float = 0.0) -> Principal:
    return Principal(project, "till", token_id=jti, issued_at=issued_at or time.time())


def revoked(feed: RevocationFeed, jti: str = "t1", issued_at: float = 0.0) -> bool:
    return feed._known.is_revoked(bearer(jti, issued_at=issued_at))


def token(jti: str = "t1") -> Revocation:
    return Revocation(jti=jti, until=LATER)


async def test_every_verifier_is_told_long_before_it_reads_again(
    table: RevocationTable, feeds: Feeds, eventually: Eventually
) -> None:
    verifiers = [await feeds() for _ in range(5)]
    await table.add(token())
    await eventually(lambda: all(map(revoked, verifiers)), 20.0)
    now = int(time.time())
    await table.add(Revocation(project="shop", before=now + 1))
    await eventually(lambda: all(revoked(each, "other", issued_at=now) for each in verifiers), 20.0)
    assert not verifiers[0]._known.is_revoked(bearer("new", issued_at=now + 1))
    assert not verifiers[0]._known.is_revoked(bearer("other", project="bank"))


async def test_what_was_revoked_before_is_known_after_the_start(table: RevocationTable, feeds: Feeds) -> None:
    await table.add(token())
    assert revoked(await feeds())


async def test_what_is_known_holds_while_redis_is_gone_flushed_or_back_empty(
    server: LocalServer, table: RevocationTable, feeds: Feeds, client: Redis, eventually: Eventually
) -> None:
    await table.add(token())
    made = await feeds()
    await client.flushall()
    with capture_logs() as logs:
        await server.kill()
        await eventually(lambda: made._trouble is not None)
        assert revoked(made)
        await server.restart(wipe=True)
        await eventually(lambda: made._trouble is None)
    assert revoked(made)
    assert "what is known to be revoked stays so" in logs[0]["event"]
    await table.add(token("t2"))
    await eventually(lambda: revoked(made, "t2"))


async def test_what_was_not_heard_is_read_when_the_connection_is_there_again(
    client: Redis, feeds: Feeds, eventually: Eventually
) -> None:
    made = await feeds()
    await client.zadd(SET, {RevocationCodec(SEALER, NAMESPACE).seal(token()): LATER * 1000})
    assert not revoked(made)
    await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]
    await eventually(lambda: revoked(made))


async def test_who_may_write_into_redis_and_has_no_key_can_revoke_nothing(
    client: Redis,
    table: RevocationTable,
    feeds: Feeds,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "REREAD_S", 0.05)
    await table.add(token())
    (sealed,) = await client.zrange(SET, 0, -1)
    other = RevocationCodec(Sealer([SealingKey("k1", b"\x02" * 32)]), NAMESPACE).seal(token("t2"))
    elsewhere = RevocationCodec(SEALER, "othermesh").seal(token("t2"))
    plain = json.dumps({"version": 1, "jti": "t2", "until": LATER})
    junk = {"": 1, "x": 1, sealed + "A": 1, plain: 1, other: 1, elsewhere: 1}
    await client.zadd(SET, junk)
    with capture_logs() as logs:
        made = await feeds()
        await client.publish(EVENTS, plain)
        read = made._next_reading
        await eventually(lambda: made._next_reading > read)
        assert made.refused == len(junk)  # each is looked at once, however often it is read
    assert (revoked(made), revoked(made, "t2")) == (True, False)
    assert "t2" not in str(logs)


async def test_a_sealed_revocation_tells_nothing(client: Redis, table: RevocationTable) -> None:
    await table.add(token("the-token-id"))
    (sealed,) = await client.zrange(SET, 0, -1)
    assert sealed.startswith("v1.k1.")
    assert "the-token-id" not in sealed


async def test_those_that_are_over_make_room_and_a_full_one_says_so(
    client: Redis, server: LocalServer
) -> None:
    database = Database(RedisUrl.parse(server.url))
    table = RevocationTable(database, namespace=NAMESPACE, sealer=SEALER, limit=2)
    try:
        await table.add(Revocation(jti="over", until=int(time.time()) - 1))
        await table.add(token("t1"))
        await table.add(token("t2"))
        assert {each.jti for each in await table.all() if isinstance(each, Revocation)} == {"t1", "t2"}
        with pytest.raises(ResourceExhausted, match="whole project") as error:
            await table.add(token("t3"))
        assert error.value.reason == "REVOCATIONS_FULL"
        await table.add(Revocation(project="shop", before=int(time.time())))
    finally:
        await database.close()


async def test_a_verifier_without_room_says_so_once_and_goes_on(
    table: RevocationTable, feeds: Feeds, eventually: Eventually
) -> None:
    with capture_logs() as logs:
        made = await feeds(limit=1)
        for jti in ("t1", "t2", "t3"):
            await table.add(token(jti))
        await table.add(Revocation(project="shop", before=int(time.time()) + 1))
        await eventually(lambda: revoked(made, "t9"))
    assert [line["event"] for line in logs if line["log_level"] == "error"] == [
        "not all revocations are known here"
    ]


async def test_many_revocations_are_read_without_holding_the_loop(
    table: RevocationTable, feeds: Feeds
) -> None:
    await asyncio.gather(*(table.add(token(f"t{number}")) for number in range(900)))
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    made = await feeds()
    ticking.cancel()
    assert len(made._known) == 900
    assert turns > 5


@given(
    st.binary(max_size=200)
    | st.builds(
        lambda value: json.dumps(value).encode(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(
                    st.sampled_from(["version", "jti", "until", "project", "before", "by"]), inner
                )
            ),
        ),
    )
)
def test_whatever_is_read_is_a_revocation_or_refused(data: bytes) -> None:
    codec = RevocationCodec(Sealer([]), NAMESPACE)
    try:
        found = codec.open(data)
    except RevocationRefused:
        return
    assert bool(found.jti) != bool(found.project)
    found.enter(Revocations())


async def test_where_it_closes_nobody_is_let_in_before_the_first_reading(
    tmp_path: Path, eventually: Eventually
) -> None:
    late = LocalServer(tmp_path / "late", port=free_port(), password="")
    me = Handmade("echo")
    settings = {**SETTINGS, "redis_url": late.url, "replay_shared": False}
    for failure, reason in (("open", ""), ("closed", "REVOCATIONS_NOT_READ")):
        local = LocalMesh(Echo, settings={**settings, "without_redis": failure})
        async with local:
            found = local.service(local.instances[0]).instance
            assert found is not None
            outcome = await call(found.address, GREET, BODY, me.headers(GREET, BODY))
            assert (outcome.reason, outcome.unprocessed) == (reason, bool(reason))
    local = LocalMesh(Echo, settings={**settings, "without_redis": "closed"})
    async with local:
        found = local.service(local.instances[0]).instance
        feed = local._running[local.instances[0]]._shared.feed
        assert found is not None
        assert feed is not None
        async with late:
            await eventually(lambda: feed._trouble is None)
            assert (await call(found.address, GREET, BODY, me.headers(GREET, BODY))).code == "OK"


async def test_a_redis_that_refuses_us_for_good_ends_a_strict_start(server: LocalServer) -> None:
    wrong = server.url.replace(server.url.partition("@")[0], "redis://:not-the-password")
    feed = RevocationFeed(
        RedisUrl.parse(wrong), Revocations(), namespace=NAMESPACE, sealer=SEALER, strict=True
    )
    with pytest.raises(Unavailable, match=r"list of revocations: .* refuses the user or the password"):
        await feed.start()


async def test_far_more_than_there_may_be_is_read_in_part(
    client: Redis, feeds: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revoking, "MAX_TOKENS", 10)
    await client.zadd(SET, {f"junk {number}": 1 for number in range(2000)})
    with capture_logs() as logs:
        made = await feeds()
    assert made.refused < 2000
    assert any("read in part" in line["event"] for line in logs)
