"""What every registry does, whatever it is made of."""

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from meshkit.discovery import open_registry
from meshkit.discovery.file import FileRegistry
from meshkit.discovery.memory import MemoryRegistry
from meshkit.discovery.registry import Registry
from meshkit.discovery.static import StaticRegistry
from meshkit.errors import AlreadyExists, FailedPrecondition
from meshkit.instance import Instance, State
from meshkit.redis.server import LocalServer

Follow = Callable[..., Any]


def an_instance(name: str = "a", service: str = "brain") -> Instance:
    return Instance(service=service, instance_id=f"{service}-{name}", address=f"h:{1 + ord(name) - ord('a')}")


@contextlib.asynccontextmanager
async def a_registry(kind: str, folder: Path) -> AsyncIterator[Registry]:
    async with contextlib.AsyncExitStack() as stack:
        made: Registry
        match kind:
            case "memory":
                made = MemoryRegistry()
            case "file":
                made = FileRegistry(folder / "registry", lease_ttl=0.6, poll=0.01)
            case "redis":
                server = await stack.enter_async_context(LocalServer(folder / "redis"))
                made = open_registry(server.url, lease_ttl=0.6)
                SERVERS[made] = server
            case _:
                made = StaticRegistry.parse("brain=h:1")
        yield made
        await made.close()


SERVERS: weakref.WeakKeyDictionary[Registry, LocalServer] = weakref.WeakKeyDictionary()
"""The server of each registry that has one."""


@pytest.fixture(params=["memory", "file", "redis"])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registry]:
    async with a_registry(request.param, tmp_path) as made:
        yield made


@pytest.fixture(params=["memory", "file", "redis", "static"])
async def any_registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registry]:
    async with a_registry(request.param, tmp_path) as made:
        if request.param != "static":
            await made.register(an_instance("a"))
        yield made


@contextlib.asynccontextmanager
async def unreachable(registry: Registry) -> AsyncIterator[None]:
    if isinstance(registry, MemoryRegistry):
        with registry.outage():
            yield
    elif server := SERVERS.get(registry):
        await server.stop()
        yield
        await server.start()
    else:
        root = Path(str(registry).removeprefix("file://"))
        root.chmod(0o777)
        yield
        root.chmod(0o700)


async def test_a_registered_instance_is_seen_whole(registry: Registry, follow: Follow) -> None:
    follower = follow(registry)
    instance = Instance(
        service="brain",
        instance_id="brain-a",
        address="[::1]:50051",
        zone="eu",
        version="1.2.3",
        weight=2.5,
        shard_key="s",
        started_at=1.5,
        contracts=("a.B", "c.D"),
        tenants=("acme",),
        state=State.STARTING,
    )
    lease = await registry.register(instance)
    snapshot = await follower.until_ids("a")
    assert snapshot.instances["brain-a"] == lease.instance == instance
    assert snapshot.service == "brain"
    assert snapshot.stale_since is None


async def test_an_update_is_seen(registry: Registry, follow: Follow) -> None:
    lease = await registry.register(an_instance())
    follower = follow(registry)
    await lease.update(state=State.DRAINING)
    await follower.until(lambda seen: seen.instances["brain-a"].state is State.DRAINING)
    await lease.update(weight=3)
    seen = await follower.until(lambda seen: seen.instances["brain-a"].weight == 3)
    assert seen.instances["brain-a"] == lease.instance
    assert lease.instance.state is State.DRAINING


async def test_updates_at_once_leave_the_last_one(registry: Registry, follow: Follow) -> None:
    lease = await registry.register(an_instance())
    await asyncio.gather(*(lease.update(weight=weight) for weight in range(1, 30)))
    follower = follow(registry)
    await follower.until(lambda seen: seen.instances["brain-a"].weight == 29)


async def test_a_release_is_seen_and_may_be_repeated(registry: Registry, follow: Follow) -> None:
    lease = await registry.register(an_instance("a"))
    await registry.register(an_instance("b"))
    follower = follow(registry)
    await follower.until_ids("a", "b")
    await asyncio.gather(lease.release(), lease.release())
    await lease.release()
    await follower.until_ids("b")
    with pytest.raises(FailedPrecondition):
        await lease.update(weight=2)


async def test_a_watch_starts_with_all_there_is(registry: Registry, follow: Follow) -> None:
    for name in "abc":
        await registry.register(an_instance(name))
    follower = follow(registry)
    await follower.until(lambda _: True)
    assert set(follower.seen[0].instances) == {"brain-a", "brain-b", "brain-c"}


async def test_a_service_that_never_was_has_no_instances(registry: Registry, follow: Follow) -> None:
    snapshot = await follow(registry).until(lambda _: True)
    assert snapshot.instances == {}
    assert snapshot.stale_since is None


async def test_services_do_not_see_each_other(registry: Registry, follow: Follow) -> None:
    brain, router = follow(registry, "brain"), follow(registry, "router")
    await registry.register(an_instance("a", "brain"))
    await registry.register(an_instance("a", "router"))
    await brain.until_ids("a")
    await router.until_ids("a", service="router")
    assert await registry.services() == ["brain", "router"]


async def test_many_watches_see_the_same_and_share_nothing(registry: Registry, follow: Follow) -> None:
    followers = [follow(registry) for _ in range(20)]
    await registry.register(an_instance())
    seen = [await follower.until_ids("a") for follower in followers]
    seen[0].instances.clear()
    assert all(len(snapshot.instances) == 1 for snapshot in seen[1:])
    assert set((await follow(registry).until(lambda _: True)).instances) == {"brain-a"}


async def test_a_watch_says_nothing_twice(registry: Registry, follow: Follow) -> None:
    lease = await registry.register(an_instance())
    follower = follow(registry)
    await follower.until_ids("a")
    await lease.update(weight=1)
    await registry.register(an_instance("b"))
    await follower.until_ids("a", "b")
    assert all(one != next_ for one, next_ in zip(follower.seen, follower.seen[1:], strict=False))
    assert len(follower.seen) == 2


async def test_a_slow_watch_is_given_the_newest_only(registry: Registry, follow: Follow) -> None:
    async with contextlib.aclosing(registry.watch("brain")) as slow:
        await anext(slow)
        lease = await registry.register(an_instance())
        follower = follow(registry)
        for weight in range(2, 6):
            await lease.update(weight=weight)
            await follower.until(lambda seen, w=weight: w in {i.weight for i in seen.instances.values()})
        assert (await anext(slow)).instances["brain-a"].weight == 5


async def test_a_closed_watch_leaves_the_others(registry: Registry, follow: Follow) -> None:
    leaving, staying = follow(registry), follow(registry)
    await leaving.until(lambda _: True)
    await leaving.stop()
    await registry.register(an_instance())
    await staying.until_ids("a")


async def test_a_later_watch_does_not_begin_with_the_past(registry: Registry, follow: Follow) -> None:
    lease = await registry.register(an_instance())
    first = follow(registry)
    await first.until_ids("a")
    await first.stop()
    await lease.release()
    second = follow(registry)
    await second.until(lambda _: True)
    assert second.seen[0].instances == {}


async def test_an_id_is_registered_once(registry: Registry, follow: Follow) -> None:
    results = await asyncio.gather(
        *(registry.register(an_instance()) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(result, AlreadyExists) for result in results) == 4
    await follow(registry).until_ids("a")


async def test_an_unreachable_registry_keeps_what_it_knew(registry: Registry, follow: Follow) -> None:
    await registry.register(an_instance("a"))
    follower = follow(registry)
    await follower.until_ids("a")
    async with unreachable(registry):
        stale = await follower.until(lambda seen: seen.stale_since is not None)
        assert set(stale.instances) == {"brain-a"}
    fresh = await follower.until(lambda seen: seen.stale_since is None)
    assert set(fresh.instances) == {"brain-a"}
    assert all(seen.instances for seen in follower.seen)


async def until_looked(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    async with asyncio.timeout(10):
        while isinstance(registry, FileRegistry) and "can be written by others" not in caplog.text:
            await asyncio.sleep(0.001)


async def test_a_watch_that_starts_unreachable_waits(
    registry: Registry, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    await registry.register(an_instance("a"))
    async with unreachable(registry):
        follower = follow(registry)
        await until_looked(registry, caplog)
        assert follower.seen == []
    await follower.until_ids("a")
    assert all(seen.instances for seen in follower.seen)


async def test_a_watch_of_any_registry_starts_full_and_does_not_end(
    any_registry: Registry, follow: Follow
) -> None:
    follower = follow(any_registry)
    snapshot = await follower.until(lambda _: True)
    assert [instance.address for instance in snapshot.instances.values()] == ["h:1"]
    await follow(any_registry, "router").until(lambda seen: not seen.instances)
    assert not follower.ended
    assert await any_registry.services() == ["brain"]


async def test_closing_ends_watches_and_refuses_what_comes_after(
    any_registry: Registry, follow: Follow
) -> None:
    follower = follow(any_registry)
    await follower.until(lambda _: True)
    unstarted = any_registry.watch("brain")
    await any_registry.close()
    await any_registry.close()
    await follower.until_ended()
    assert [snapshot async for snapshot in unstarted] == []
    with pytest.raises(FailedPrecondition, match="closed"):
        await any_registry.register(an_instance("z"))
    with pytest.raises(FailedPrecondition, match="closed"):
        any_registry.watch("brain")


async def test_a_service_name_is_checked_when_the_watch_is_made(any_registry: Registry) -> None:
    with pytest.raises(ValueError, match="service name"):
        any_registry.watch("../brain")


async def test_every_lease_is_a_lease(any_registry: Registry) -> None:
    lease = await any_registry.register(an_instance("z"))
    await lease.update(state=State.DRAINING, weight=2)
    assert (lease.instance.state, lease.instance.weight) == (State.DRAINING, 2)
    with pytest.raises(ValueError, match="weight"):
        await lease.update(weight=0)
    with pytest.raises(AlreadyExists):
        await any_registry.register(an_instance("z"))
    await lease.release()
    await lease.release()


async def test_registering_changes_nothing_in_a_static_registry(follow: Follow) -> None:
    registry = StaticRegistry.parse("brain=h:1,h:2")
    await registry.register(an_instance("z"))
    snapshot = await follow(registry).until(lambda _: True)
    assert set(snapshot.instances) == {"h:1", "h:2"}
    assert {instance.shard_key for instance in snapshot.instances.values()} == {"h:1", "h:2"}
    await registry.close()


async def test_two_memory_registries_do_not_notice_each_other(follow: Follow) -> None:
    one, other = MemoryRegistry(), MemoryRegistry()
    await one.register(an_instance())
    await other.register(an_instance())
    await one.close()
    assert set((await follow(other).until(lambda _: True)).instances) == {"brain-a"}
    await other.close()


async def test_an_instance_that_expired_in_memory_is_gone_for_good(follow: Follow) -> None:
    registry = MemoryRegistry()
    lease = await registry.register(an_instance())
    follower = follow(registry)
    await follower.until_ids("a")
    registry.expire("brain", "brain-a")
    await follower.until_ids()
    await lease.update(weight=2)
    await lease.release()
    assert follower.last.instances == {}
    await registry.close()
