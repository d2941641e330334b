"""Channels of a real server, followed over one connection."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from meshkit.config.redis_url import RedisUrl
from meshkit.redis import subscriptions as module
from meshkit.redis.database import Database
from meshkit.redis.server import LocalServer
from meshkit.redis.subscriptions import Feed, Interrupted, Subscriptions
from meshkit.redis.trouble import RedisTrouble


@pytest.fixture
async def subscriptions(redis_server: LocalServer) -> AsyncIterator[Subscriptions]:
    database = Database(RedisUrl.parse(redis_server.url))
    made = Subscriptions(database)
    yield made
    await made.close()
    await database.close()


async def begun(subscriptions: Subscriptions, channel: str) -> Feed:
    feed = await subscriptions.follow(channel)
    await feed.begin()
    return feed


async def listeners(client: Redis) -> int:
    return sum(1 for each in await client.client_list() if int(each["sub"]) > 0)


async def until_there_are(count: int, client: Redis) -> None:
    async with asyncio.timeout(10):
        while await listeners(client) != count:
            await asyncio.sleep(0.01)


async def test_messages_come_in_order(subscriptions: Subscriptions, redis_client: Redis) -> None:
    feed = await begun(subscriptions, "a")
    for number in range(100):
        await redis_client.publish("a", str(number))
    assert [await feed.next(10) for _ in range(100)] == [str(n).encode() for n in range(100)]
    assert await feed.next(0) is None
    assert not feed.pending()


async def test_channels_share_a_connection_and_not_their_messages(
    subscriptions: Subscriptions, redis_client: Redis
) -> None:
    feeds = {name: await begun(subscriptions, name) for name in "abc"}
    twice = await begun(subscriptions, "a")
    assert await listeners(redis_client) == 1
    for name in "cba":
        await redis_client.publish(name, name)
    for name, feed in feeds.items():
        assert await feed.next(10) == name.encode()
        assert await feed.next(0) is None
    assert await twice.next(10) == b"a"


async def test_nobody_listens_when_all_have_left(subscriptions: Subscriptions, redis_client: Redis) -> None:
    one, other = await begun(subscriptions, "a"), await begun(subscriptions, "b")
    await one.close()
    await redis_client.publish("b", "still")
    assert await other.next(10) == b"still"
    await other.close()
    await until_there_are(0, redis_client)
    again = await begun(subscriptions, "a")
    await redis_client.publish("a", "again")
    assert await again.next(10) == b"again"


async def test_what_came_before_a_beginning_is_forgotten(
    subscriptions: Subscriptions, redis_client: Redis
) -> None:
    feed = await begun(subscriptions, "a")
    await redis_client.publish("a", "old")
    async with asyncio.timeout(10):
        while not feed.pending():
            await asyncio.sleep(0.001)
    await feed.begin()
    await redis_client.publish("a", "new")
    assert await feed.next(10) == b"new"


async def test_a_lost_connection_interrupts_and_comes_back(
    subscriptions: Subscriptions, redis_client: Redis
) -> None:
    feeds = [await begun(subscriptions, name) for name in "ab"]
    await redis_client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    for feed in feeds:
        with pytest.raises(Interrupted) as caught:
            await feed.next(10)
        assert caught.value.trouble is not None
        await feed.begin()
    await redis_client.publish("b", "back")
    assert await feeds[1].next(10) == b"back"


async def test_a_server_that_is_away_is_dialled_until_it_is_back(
    redis_server: LocalServer, subscriptions: Subscriptions
) -> None:
    await redis_server.stop()
    feed = await subscriptions.follow("a")
    for _ in range(3):
        with pytest.raises(Interrupted) as caught:
            await feed.begin()
        assert caught.value.trouble is not None
        assert caught.value.trouble.heals
    await redis_server.start()
    async with asyncio.timeout(10):
        while True:
            try:
                await feed.begin()
                break
            except Interrupted:
                continue


async def test_a_server_that_is_silent_is_left(
    redis_server: LocalServer, subscriptions: Subscriptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.1)
    feed = await begun(subscriptions, "a")
    redis_server.pause()
    try:
        with pytest.raises(Interrupted, match="does not answer in time"):
            await feed.next(10)
    finally:
        redis_server.resume()


async def test_a_quiet_channel_is_not_taken_for_a_dead_one(
    subscriptions: Subscriptions, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.02)
    feed = await begun(subscriptions, "a")
    before = (await redis_client.info("commandstats")).get("cmdstat_ping", {"calls": 0})["calls"]
    async with asyncio.timeout(10):
        while (await redis_client.info("commandstats")).get("cmdstat_ping", {"calls": 0})[
            "calls"
        ] < before + 3:
            await asyncio.sleep(0.01)
    await redis_client.publish("a", "here")
    assert await feed.next(10) == b"here"


async def test_a_reader_that_is_too_slow_is_told(
    subscriptions: Subscriptions, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BUFFERED", 5)
    feed, other = await begun(subscriptions, "a"), await begun(subscriptions, "b")
    for number in range(7):
        await redis_client.publish("a", str(number))
    await redis_client.publish("b", "last")
    assert await other.next(10) == b"last"
    with pytest.raises(Interrupted, match="faster than they were read"):
        await feed.next(10)
    await feed.begin()
    await redis_client.publish("a", "after")
    assert await feed.next(10) == b"after"


async def test_closing_leaves_no_task(redis_server: LocalServer) -> None:
    database = Database(RedisUrl.parse(redis_server.url))
    subscriptions = Subscriptions(database)
    await begun(subscriptions, "a")
    await subscriptions.close()
    await subscriptions.close()
    await database.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_nothing_is_dialled_once_it_is_closed(redis_server: LocalServer) -> None:
    database = Database(RedisUrl.parse(redis_server.url))
    late = [asyncio.create_task(database.execute("PING")) for _ in range(100)]
    await late[0]
    await database.close()
    outcomes = await asyncio.gather(*late, return_exceptions=True)
    assert all(outcome is True or isinstance(outcome, RedisTrouble) for outcome in outcomes)
    with pytest.raises(RedisTrouble, match="closed on this side"):
        await database.execute("PING")
    with pytest.raises(RedisTrouble, match="closed on this side"):
        await database.dedicated()
    async with Redis.from_url(redis_server.url) as client:
        assert len(await client.client_list()) == 1
