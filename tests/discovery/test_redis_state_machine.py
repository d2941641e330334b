"""Whatever happens to owners and to Redis, in whatever order: each watcher ends with exactly those that live.

On a real server, which is emptied, killed, paused and cut off while owners come and go.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from redis.asyncio import Redis

from meshkit.discovery import open_registry
from meshkit.discovery.redis import RedisRegistry
from meshkit.discovery.redis.lease import RedisLease
from meshkit.discovery.registry import Snapshot
from meshkit.instance import Instance, State
from meshkit.redis.server import LocalServer

T = TypeVar("T")

LEASE_TTL = 0.4
PATIENCE_S = 20.0
MAX_WATCHERS = 4
SERVICE = "brain"

namespaces = (f"machine-{number}" for number in itertools.count())
"""Each run of the machine has a namespace of its own; the server is the same for all."""


class Watcher:
    """A registry of its own, and what its watch yields.

    Attributes:
        last: The newest snapshot.
        strangers: Instances that were shown and never registered.
        lost: Instances that were shown, live on, and were taken out.
    """

    def __init__(self, registry: RedisRegistry, ever: set[Instance], kept: set[str]) -> None:
        self.registry = registry
        self.last: Snapshot | None = None
        self.strangers: set[Instance] = set()
        self.lost: set[str] = set()
        self._ever = ever
        self._kept = kept
        self._shown: set[str] = set()
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        async with contextlib.aclosing(self.registry.watch(SERVICE)) as snapshots:
            async for snapshot in snapshots:
                self._note(snapshot)

    def _note(self, snapshot: Snapshot) -> None:
        self.strangers |= set(snapshot.instances.values()) - self._ever
        self.lost |= (self._shown & self._kept) - set(snapshot.instances)
        self._shown |= set(snapshot.instances)
        self.last = snapshot

    def knows(self, wanted: dict[str, Instance]) -> bool:
        return self.last is not None and self.last.stale_since is None and self.last.instances == wanted

    async def close(self) -> None:
        await self.registry.close()
        await self._task


class RedisMachine(RuleBasedStateMachine):
    """Owners on one registry; watchers, each on its own, that share nothing but the server."""

    server: LocalServer
    leases: Bundle[str] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.namespace = next(namespaces)
        self.live: dict[str, RedisLease] = {}
        self.ever: set[Instance] = set()
        self.kept: set[str] = set()
        self.count = 0
        self.watchers: list[Watcher] = []
        self.registry = self.run(self._open())
        self.pulse = self.run(self._begin_pulse())
        self.watch()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(asyncio.wait_for(work, PATIENCE_S * 2))

    async def _open(self) -> RedisRegistry:
        registry = open_registry(self.server.url, lease_ttl=LEASE_TTL, namespace=self.namespace)
        assert isinstance(registry, RedisRegistry)
        return registry

    async def _begin_pulse(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        """Where this process had no turn for long, leases may have ended by right: nobody must be kept then."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(LEASE_TTL / 20)
            if time.monotonic() - before > LEASE_TTL / 3:
                self.kept.clear()
            before = time.monotonic()

    # What owners do

    @initialize(target=leases, owners=st.integers(0, 4))
    def begin(self, owners: int) -> MultipleResults[str]:
        return multiple(*[self._register(State.SERVING) for _ in range(owners)])

    @rule(target=leases, state=st.sampled_from(State), look=st.booleans())
    def register(self, state: State, look: bool) -> str:
        name = self._register(state)
        self._look(look)
        return name

    def _register(self, state: State) -> str:
        self.count += 1
        name = f"{SERVICE}-{self.count}"
        instance = Instance(service=SERVICE, instance_id=name, address=f"h:{self.count}", state=state)
        self.ever.add(instance)
        self.live[name] = self.run(self.registry.register(instance))
        self.kept.add(name)
        return name

    @rule(name=leases, weight=st.integers(1, 5), state=st.sampled_from(State), look=st.booleans())
    def update(self, name: str, weight: int, state: State, look: bool) -> None:
        if name in self.live:
            self.run(self._update(self.live[name], weight, state))
            self._look(look)

    async def _update(self, lease: RedisLease, weight: int, state: State) -> None:
        changing = asyncio.create_task(lease.update(weight=weight, state=state))
        await asyncio.sleep(0)
        self.ever.add(lease.instance)
        await changing

    @rule(look=st.booleans())
    def renew(self, look: bool) -> None:
        """Lets time pass: each lease is renewed at least once."""
        self.run(asyncio.sleep(LEASE_TTL / 2))
        self._look(look)

    @rule(name=leases, look=st.booleans())
    def release(self, name: str, look: bool) -> None:
        if name in self.live:
            self.kept.discard(name)
            self.run(self.live.pop(name).release())
            self._look(look)

    @rule(name=leases, look=st.booleans())
    def crash(self, name: str, look: bool) -> None:
        if name in self.live:
            self.kept.discard(name)
            self.run(self._crash(self.live.pop(name)))
            self._look(look)

    async def _crash(self, lease: RedisLease) -> None:
        """Its owner renews no more, and releases nothing."""
        assert lease._holding is not None
        lease._holding.cancel()
        await asyncio.wait([lease._holding])
        self.registry.forget(lease)

    @rule(name=leases, look=st.booleans())
    def expire(self, name: str, look: bool) -> None:
        """The lease of a living owner ends, as if it had not been able to renew."""
        if name in self.live:
            self.kept.discard(name)
            self.run(self._command("ZADD", f"{self.namespace}:{{{SERVICE}}}:leases", "XX", 1, name))
            self._look(look)

    # What watchers do

    @precondition(lambda self: len(self.watchers) < MAX_WATCHERS)
    @rule()
    def watch(self) -> None:
        self.watchers.append(self.run(self._follow()))

    async def _follow(self) -> Watcher:
        return Watcher(await self._open(), self.ever, self.kept)

    @precondition(lambda self: len(self.watchers) > 1)
    @rule()
    def stop_watching(self) -> None:
        gone = self.watchers.pop(0)
        self.run(gone.close())
        assert_sound(gone)

    # What Redis does

    @rule(look=st.booleans())
    def flush(self, look: bool) -> None:
        self.run(self._command("FLUSHALL"))
        self._look(look)

    @rule(wipe=st.booleans(), away=st.sampled_from([0.0, LEASE_TTL * 1.5]), look=st.booleans())
    def restart(self, wipe: bool, away: float, look: bool) -> None:
        self.run(self._restart(wipe, away))
        self._look(look)

    async def _restart(self, wipe: bool, away: float) -> None:
        await self.server.kill()
        await asyncio.sleep(away)
        await self.server.restart(wipe=wipe)

    @rule(kind=st.sampled_from(["normal", "pubsub"]), look=st.booleans())
    def cut_connections(self, kind: str, look: bool) -> None:
        self.run(self._command("CLIENT", "KILL", "TYPE", kind))
        self._look(look)

    @rule(leases=st.sampled_from([0.2, 1.5]), look=st.booleans())
    def pause(self, leases: float, look: bool) -> None:
        self.run(self._pause(leases * LEASE_TTL))
        self._look(look)

    async def _pause(self, seconds: float) -> None:
        self.server.pause()
        await asyncio.sleep(seconds)
        self.server.resume()

    async def _command(self, *command: str | int) -> None:
        async with Redis.from_url(self.server.url) as client:
            await client.execute_command(*command)  # type: ignore[no-untyped-call]

    # What must hold

    @invariant()
    def watchers_are_sound(self) -> None:
        for watcher in self.watchers:
            assert_sound(watcher)

    def _look(self, look: bool) -> None:
        if look:
            self.run(self._until_known())

    async def _until_known(self) -> None:
        wanted = {name: lease.instance for name, lease in self.live.items()}
        async with asyncio.timeout(PATIENCE_S):
            while not all(watcher.knows(wanted) for watcher in self.watchers):
                await asyncio.sleep(0.005)

    def teardown(self) -> None:
        try:
            self.run(self._until_known())
            self.watchers_are_sound()
        finally:
            self.run(self._close())
            self.runner.close()

    async def _close(self) -> None:
        self.pulse.cancel()
        self.kept.clear()
        for watcher in self.watchers:
            await watcher.close()
        await self.registry.close()


def assert_sound(watcher: Watcher) -> None:
    assert not watcher.strangers, "shown, and never registered"
    assert not watcher.lost, "taken out, and alive"


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    """The server of all runs of this module's machine."""
    with tempfile.TemporaryDirectory(prefix="meshkit-machine-") as folder, asyncio.Runner() as runner:
        RedisMachine.server = LocalServer(Path(folder))
        runner.run(RedisMachine.server.start())
        yield
        runner.run(RedisMachine.server.stop())


TestRedis = RedisMachine.TestCase
TestRedis.settings = settings(
    max_examples=12,
    stateful_step_count=15,
    deadline=None,
    derandomize=True,  # the same orders each time; to find new ones, take this out and raise max_examples
    phases=(Phase.generate,),  # in real time, to shrink what failed would take longer than to read it
)
