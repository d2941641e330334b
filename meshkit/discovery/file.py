"""`file://`: a folder shared by the processes of one machine. `folder.py` tells its layout and its locks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import quote

from meshkit.discovery import folder
from meshkit.discovery.latest import Latest
from meshkit.discovery.place import Place
from meshkit.discovery.reader import Reader
from meshkit.discovery.record import revise
from meshkit.discovery.registry import Snapshot
from meshkit.discovery.view import Failure, Reading, View
from meshkit.errors import AlreadyExists, FailedPrecondition, Unavailable
from meshkit.instance import SERVICE_NAME, Instance, State

POLL_S = 0.1
"""Seconds between two looks into a folder."""

_THREADS = 4

_P = ParamSpec("_P")
_T = TypeVar("_T")
_log = logging.getLogger("meshkit.discovery")


class FileRegistry:
    """Instances as files. All work on files is done in threads of its own.

    A process that dies is seen dead at the next look, since the kernel drops its lock; one that is merely
    stopped keeps it, and stays. A process that was forked without exec lets go of the locks that it
    inherited.

    Args:
        root: The folder; made when the first instance registers, for its owner only.
        lease_ttl: Seconds after which what a dead owner left is swept; a lease is renewed every third of it.
        clock: Unix time in seconds.
        sleep: What waits a number of seconds between renewals and looks.
        poll: Seconds between two looks.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        lease_ttl: float,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        poll: float = POLL_S,
    ) -> None:
        self._root = Path(root)
        self._lease_ttl = lease_ttl
        self._clock = clock
        self._sleep = sleep
        self._poll = poll
        self._leases: dict[tuple[str, str], FileLease | None] = {}
        self._places: weakref.WeakSet[Place] = weakref.WeakSet()
        self._lookouts: dict[str, Lookout] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="meshkit-registry")
        self._refused = 0
        self._closed = False
        _let_go_in_children(self)

    async def register(self, instance: Instance) -> FileLease:
        """Puts the instance in, and renews it in the background.

        Raises:
            AlreadyExists: An instance of that id is registered, here or by another process.
            FailedPrecondition: The registry is closed.
            Unavailable: The folder cannot be written, or is none to trust; the message says how to mend it.
            ValueError: The id cannot name a file.
        """
        self._must_be_open()
        if not folder.INSTANCE_ID.fullmatch(instance.instance_id):
            raise ValueError(f"instance id {instance.instance_id!r} is not {folder.INSTANCE_ID.pattern}")
        key = (instance.service, instance.instance_id)
        if key in self._leases:
            raise AlreadyExists(f"{instance.instance_id} is registered already", reason="INSTANCE_REGISTERED")
        self._leases[key] = None
        place = Place(self._root, instance)
        self._places.add(place)
        try:
            await self.in_thread(place.take)
        except OSError as error:
            raise Unavailable(
                folder.explain(error, self._root), reason="REGISTRY_UNWRITABLE", path=self._root
            ) from error
        except asyncio.CancelledError:
            self._threads.submit(place.leave)
            raise
        finally:
            del self._leases[key]
        if self._closed:
            await self.in_thread(place.leave)
            self._must_be_open()
        lease = FileLease(self, place, instance)
        self._leases[key] = lease
        return lease

    def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        """Yields a full snapshot after the first look, and on each change, until the registry is closed.

        While the folder cannot be read, and after it was deleted until its owners have written themselves
        into it again, the last snapshot stands, marked stale. A folder that never was is one without
        instances.
        """
        self._must_be_open()
        if not SERVICE_NAME.fullmatch(service):
            raise ValueError(f"service name {service!r} is not {SERVICE_NAME.pattern}")
        return self._watch(service)

    async def services(self) -> list[str]:
        """Names of all services that ever had an instance in this folder, sorted.

        Raises:
            FailedPrecondition: The registry is closed.
            Unavailable: The folder cannot be read.
        """
        self._must_be_open()
        try:
            return await self.in_thread(self._services)
        except OSError as error:
            raise Unavailable(
                folder.explain(error, self._root), reason="REGISTRY_UNREADABLE", path=self._root
            ) from error

    async def leases(self, service: str) -> dict[str, float]:
        """Seconds until the renewal of each instance is overdue; below 0 where it is.

        A lease here ends with its owner, not with its time: an overdue one whose owner lives (it is stopped, or
        too busy) stands. One that a dead owner left is swept once it is overdue.

        Args:
            service: Name of the service.

        Raises:
            FailedPrecondition: The registry is closed.
            Unavailable: The folder cannot be read.
        """
        self._must_be_open()
        try:
            ages = await self.in_thread(self._ages, service)
        except OSError as error:
            raise Unavailable(
                folder.explain(error, self._root), reason="REGISTRY_UNREADABLE", path=self._root
            ) from error
        return {instance_id: self._lease_ttl - age for instance_id, age in ages.items()}

    @property
    def refused_records(self) -> int:
        """How many records were come upon that do not parse, or that claim to be somebody else."""
        return self._refused + sum(lookout.refused for lookout in self._lookouts.values())

    async def close(self) -> None:
        """Releases all leases, ends all watches and lets the threads go."""
        self._closed = True
        await asyncio.gather(*(lease.release() for lease in list(self._leases.values()) if lease))
        for lookout in list(self._lookouts.values()):
            self._dismiss(lookout)
            await lookout.ended()
        self._threads.shutdown(wait=False)

    def __str__(self) -> str:
        return f"file://{quote(os.fsencode(self._root))}"

    async def in_thread(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Does blocking work in one of the registry's threads, to its end even if nobody waits."""
        done = self._threads.submit(work, *args, **kwargs)
        return await asyncio.shield(asyncio.wrap_future(done))

    async def _watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        if self._closed:
            return
        lookout = self._lookouts.get(service)
        if lookout is None:
            lookout = self._lookouts[service] = Lookout(self, service)
        lookout.watches += 1
        try:
            async with contextlib.aclosing(lookout.latest.follow()) as snapshots:
                async for snapshot in snapshots:
                    yield snapshot
        finally:
            lookout.watches -= 1
            if not lookout.watches:
                self._dismiss(lookout)

    def _dismiss(self, lookout: Lookout) -> None:
        if self._lookouts.get(lookout.service) is lookout:
            del self._lookouts[lookout.service]
            self._refused += lookout.refused
            self._threads.submit(lookout.stop())

    def _services(self) -> list[str]:
        try:
            folder.check(self._root)
            with os.scandir(self._root) as entries:
                return sorted(
                    entry.name for entry in entries if SERVICE_NAME.fullmatch(entry.name) and entry.is_dir()
                )
        except FileNotFoundError:
            return []

    def _ages(self, service: str) -> dict[str, float]:
        """Seconds since the record of each instance was renewed."""
        ages: dict[str, float] = {}
        now = self._clock()
        try:
            folder.check(self._root)
            with os.scandir(self._root / service) as entries:
                for entry in entries:
                    instance_id = entry.name.removesuffix(folder.RECORD)
                    if instance_id != entry.name and folder.INSTANCE_ID.fullmatch(instance_id):
                        with contextlib.suppress(FileNotFoundError):  # released meanwhile
                            ages[instance_id] = now - entry.stat(follow_symlinks=False).st_mtime
        except FileNotFoundError:
            return {}
        return ages

    def _forget(self, instance: Instance) -> None:
        self._leases.pop((instance.service, instance.instance_id), None)

    def _must_be_open(self) -> None:
        if self._closed:
            raise FailedPrecondition("the registry is closed", reason="REGISTRY_CLOSED")


class FileLease:
    """The place of one instance in a `FileRegistry`, renewed until it is released.

    Trouble with the folder raises nothing here: it is logged when it begins and when it ends, and each
    renewal tries to put things right, the folder itself included.
    """

    def __init__(self, registry: FileRegistry, place: Place, instance: Instance) -> None:
        self._registry = registry
        self._place = place
        self._instance = instance
        self._released = False
        self._turn = asyncio.Lock()
        self._well = True
        self._renewed_at = time.monotonic()
        self._renewing = asyncio.create_task(self._renew(), name=f"renew {instance.instance_id}")

    @property
    def instance(self) -> Instance:
        """The record as its owner wants it; it stands in the folder unless there is trouble with that."""
        return self._instance

    @property
    def renewed_at(self) -> float | None:
        """When the folder was last written, by `time.monotonic`."""
        return self._renewed_at

    async def update(self, *, state: State | None = None, weight: float | None = None) -> None:
        """Replaces the record, whole and at once; a later renewal does where the folder cannot be written.

        Raises:
            FailedPrecondition: The lease is released.
            ValueError: The weight is not above 0.
        """
        if self._released:
            raise FailedPrecondition(f"{self._instance.instance_id} is released", reason="LEASE_RELEASED")
        async with self._turn:
            self._instance = revise(self._instance, state=state, weight=weight)
            await self._attempt(self._place.write, self._instance)

    async def release(self) -> None:
        """Removes the record and gives the lock up. Released twice is released."""
        if self._released:
            return
        self._released = True
        self._renewing.cancel()
        self._registry._forget(self._instance)
        await self._attempt(self._place.leave)
        await asyncio.wait([self._renewing])

    async def _renew(self) -> None:
        while True:
            await self._registry._sleep(self._registry._lease_ttl / 3)
            await self._attempt(self._place.renew)

    async def _attempt(self, work: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            await self._registry.in_thread(work, *args, **kwargs)
        except Exception as error:  # whatever it is, the next renewal comes
            if self._well:
                why = (
                    folder.explain(error, self._registry._root) if isinstance(error, OSError) else str(error)
                )
                _log.warning(
                    "lease of %s is in trouble, and tried again: %s", self._instance.instance_id, why
                )
            self._well = False
        else:
            if not self._well:
                _log.info("lease of %s stands again", self._instance.instance_id)
            self._well = True
            self._renewed_at = time.monotonic()


class Lookout:
    """Looks into the folder of one service for all its watches, as long as there are any.

    Attributes:
        service: Name of the service.
        latest: What is seen.
        watches: How many watches it serves.
    """

    def __init__(self, registry: FileRegistry, service: str) -> None:
        self.service = service
        self.latest = Latest()
        self.watches = 0
        self._registry = registry
        self._reader = Reader(registry._root, service, lease_ttl=registry._lease_ttl, clock=registry._clock)
        self._view = View(service, grace=registry._lease_ttl)
        self._trouble = ""
        self._looking = asyncio.create_task(self._look(), name=f"watch {service}")

    @property
    def refused(self) -> int:
        """How many records it came upon that it cannot use."""
        return self._reader.refused

    def stop(self) -> Callable[[], None]:
        """Ends the looking and all watches; returns what lets go of the folder, which blocks."""
        self.latest.close()
        self._looking.cancel()
        return self._reader.close

    async def ended(self) -> None:
        """Waits until the looking has ended."""
        await asyncio.wait([self._looking])

    async def _look(self) -> None:
        while True:
            look = await self._look_once()
            snapshot = self._view.apply(look, self._registry._clock())
            self._tell(look, snapshot)
            if snapshot is not None:
                self.latest.publish(snapshot)
            await self._registry._sleep(self._registry._poll)

    async def _look_once(self) -> Reading | Failure:
        try:
            return await self._registry.in_thread(self._reader.look, sweep=self._view.settled)
        except Exception as error:  # a watch does not end, whatever it meets
            return Failure(f"registry {self._registry}: {error!r}")

    def _tell(self, look: Reading | Failure, snapshot: Snapshot | None) -> None:
        """Logs when trouble begins and when it ends."""
        trouble = ""
        if isinstance(look, Failure) and (snapshot is None or snapshot.stale_since is not None):
            trouble = look.problem
        if trouble and trouble != self._trouble:
            _log.warning("%s: the last known instances stand until it can be read", trouble)
        elif self._trouble and not trouble:
            _log.info("registry folder can be read again")
        self._trouble = trouble


def _let_go_in_children(registry: FileRegistry) -> None:
    """Has children that are forked without exec close the locks that they inherit; the parent keeps them."""
    reference = weakref.ref(registry)

    def let_go() -> None:
        forked = reference()
        if forked is not None:
            for place in list(forked._places):
                place.abandon()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=let_go)
