"""In whatever order owners come, change, go and crash: a watcher ends with exactly those that live."""

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from meshkit.discovery.file import FileRegistry
from meshkit.discovery.memory import MemoryRegistry
from meshkit.discovery.registry import Lease, Registry, Snapshot
from meshkit.instance import Instance, State


class Machine(RuleBasedStateMachine):
    """One registry, owners in it, and a watcher beside it."""

    leases: Bundle[str] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.live: dict[str, Lease] = {}
        self.ever: set[Instance] = set()
        self.seen: list[Snapshot] = []
        self.count = 0
        self.registry, self.watched = self.open()
        self.watching = self.runner.run(self._start())

    def open(self) -> tuple[Registry, Registry]:
        raise NotImplementedError

    async def crash_owner(self, instance: Instance) -> None:
        raise NotImplementedError

    async def _start(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        async with contextlib.aclosing(self.watched.watch("brain")) as snapshots:
            async for snapshot in snapshots:
                self.seen.append(snapshot)

    @rule(target=leases, state=st.sampled_from(State), look=st.booleans())
    def register(self, state: State, look: bool) -> str:
        self.count += 1
        name = f"brain-{self.count}"
        instance = Instance(service="brain", instance_id=name, address=f"h:{self.count}", state=state)
        self.ever.add(instance)
        self.live[name] = self.runner.run(self.registry.register(instance))
        self._look(look)
        return name

    @rule(name=leases, weight=st.integers(1, 5), state=st.sampled_from(State), look=st.booleans())
    def update(self, name: str, weight: int, state: State, look: bool) -> None:
        if name in self.live:
            lease = self.live[name]
            self.runner.run(self._update(lease, weight, state))
            self._look(look)

    async def _update(self, lease: Lease, weight: int, state: State) -> None:
        changing = asyncio.create_task(lease.update(weight=weight, state=state))
        await asyncio.sleep(0)
        self.ever.add(lease.instance)
        await changing

    @rule(name=leases, look=st.booleans())
    def release(self, name: str, look: bool) -> None:
        if name in self.live:
            self.runner.run(self.live.pop(name).release())
            self._look(look)

    @rule(name=leases, look=st.booleans())
    def crash(self, name: str, look: bool) -> None:
        if name in self.live:
            self.runner.run(self.crash_owner(self.live.pop(name).instance))
            self._look(look)

    @precondition(lambda self: isinstance(self.watched, FileRegistry))
    @rule()
    def lose_the_folder(self) -> None:
        self._look(True)  # who left unseen, from a folder that nobody makes again, would count for ever
        shutil.rmtree(self.root, ignore_errors=True)  # type: ignore[attr-defined]
        for lease in self.live.values():
            self.runner.run(lease.update(weight=lease.instance.weight))
        self._look(True)

    def _look(self, look: bool) -> None:
        if look:
            self.runner.run(self._until_known())

    @invariant()
    def nobody_was_seen_who_never_registered(self) -> None:
        for snapshot in self.seen:
            assert set(snapshot.instances.values()) <= self.ever

    async def _until_known(self) -> None:
        wanted = {name: lease.instance for name, lease in self.live.items()}
        async with asyncio.timeout(10):
            while not self.seen or self.seen[-1].instances != wanted or self.seen[-1].stale_since is not None:
                await asyncio.sleep(0.002)

    def teardown(self) -> None:
        try:
            self.runner.run(self._until_known())
            self.nobody_was_seen_who_never_registered()
        finally:
            self.runner.run(self._close())
            self.runner.close()

    async def _close(self) -> None:
        await self.registry.close()
        await self.watched.close()
        await self.watching


class MemoryMachine(Machine):
    def open(self) -> tuple[Registry, Registry]:
        registry = MemoryRegistry()
        return registry, registry

    async def crash_owner(self, instance: Instance) -> None:
        assert isinstance(self.registry, MemoryRegistry)
        self.registry.expire(instance.service, instance.instance_id)


class FileMachine(Machine):
    """Owners and watcher are two registry objects: they share nothing but the folder."""

    def open(self) -> tuple[Registry, Registry]:
        self.root = Path(tempfile.mkdtemp(prefix="meshkit-registry-")) / "registry"
        return (
            FileRegistry(self.root, lease_ttl=0.3, poll=0.002),
            FileRegistry(self.root, lease_ttl=0.3, poll=0.002),
        )

    async def crash_owner(self, instance: Instance) -> None:
        """Lets go of the lock and of nothing else, as the kernel does for the dead."""
        assert isinstance(self.registry, FileRegistry)
        lease = self.registry._leases.pop((instance.service, instance.instance_id))
        assert lease is not None
        lease._renewing.cancel()
        lease._place.abandon()

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            shutil.rmtree(self.root.parent)


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestFile = FileMachine.TestCase
TestFile.settings = settings(
    max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
