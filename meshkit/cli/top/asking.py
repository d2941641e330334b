"""Asking every instance again and again, side by side: one that does not answer holds nobody up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshkit.cli.top.figures import Answer, Seen
from meshkit.errors import DeadlineExceeded, MeshError, Unavailable, Unimplemented

if TYPE_CHECKING:
    from meshkit._gen.meshkit.v1.mesh_client import MeshClient
    from meshkit.cli.following import Followed
    from meshkit.instance import Instance
    from meshkit.mesh import Mesh

MOST = 500
"""Instances that are asked at the most; further ones are shown as not asked."""

GONE_S = 15.0
"""Seconds for which an instance that left the registry is still shown."""

_LOOK_S = 1.0
"""Seconds between two looks at the registry where it tells nothing new: who is gone is forgotten after a while."""


@dataclass(eq=False)
class Asked:
    """One instance that is asked.

    Attributes:
        instance: Its record.
        asking: What asks it; None where nobody does.
        asks: How often it was asked, and had answered or not in time.
    """

    instance: Instance
    asking: asyncio.Task[None] | None = None
    asks: int = 0
    answer: Answer | None = None
    earlier: Answer | None = None
    silence: str = ""
    silent_since: float = 0.0
    gone_since: float | None = None

    def heard(self, answer: Answer) -> None:
        """Takes note of an answer."""
        self.asks += 1
        self.earlier, self.answer, self.silence = self.answer, answer, ""

    def missed(self, why: str, now: float) -> None:
        """Takes note that there was none."""
        self.asks += 1
        if not self.silence:
            self.silent_since = now
        self.silence = why

    def stop(self) -> None:
        """Has nobody ask it any more."""
        if self.asking is not None:
            self.asking.cancel()
            self.asking = None

    def seen(self, now: float) -> Seen:
        """What is known of it."""
        gone_s = None if self.gone_since is None else now - self.gone_since
        silent_s = now - self.silent_since if self.silence else 0.0
        return Seen(self.instance, self.answer, self.earlier, self.silence, silent_s, gone_s)


@dataclass(eq=False)
class Asking:
    """All instances of the services that are followed, each asked by a task of its own.

    Attributes:
        mesh: As whom they are asked.
        followed: The services.
        every: Seconds between two questions.
        first: Seconds between the first two.
        timeout: Seconds that an instance has to answer.
        clock: A monotonic clock, in seconds.
        changed: Set after each look at the registry, when an instance had its first answers, and when it has none any
            more or again.
        changes: How often that was so.
    """

    mesh: Mesh
    followed: Followed
    every: float
    first: float
    timeout: float
    clock: Callable[[], float] = time.monotonic
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    changes: int = 0
    _asked: dict[tuple[str, str], Asked] = field(default_factory=dict)

    async def run(self) -> None:
        """Asks until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self.followed.changed.clear()
                self._look(group)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.followed.changed.wait(), _LOOK_S)

    async def settled(self) -> None:
        """Waits until there are figures of each instance, or the reason why there are none."""
        while not (self.changes and all(map(_is_settled, self._asked.values()))):
            self.changed.clear()
            await self.changed.wait()

    def seen(self) -> list[Seen]:
        """What is known of each instance now."""
        now = self.clock()
        return [self._asked[key].seen(now) for key in sorted(self._asked)]

    def _look(self, group: asyncio.TaskGroup) -> None:
        """Begins to ask those that are new, and ends asking those that are gone."""
        known = {
            (service, instance.instance_id): instance
            for service, snapshot in self.followed.snapshots.items()
            for instance in snapshot.instances.values()
        }
        now = self.clock()
        for key, asked in list(self._asked.items()):
            if key not in known:
                self._leave(key, asked, now)
            elif known[key].address != asked.instance.address:
                asked.stop()
                del self._asked[key]
        asking = sum(1 for asked in self._asked.values() if asked.asking is not None)
        for key, instance in sorted(known.items()):
            asked = self._asked.setdefault(key, Asked(instance, silent_since=now))
            asked.instance, asked.gone_since = instance, None
            if asked.asking is None and asking < MOST:
                asking += 1
                asked.asking, asked.silence = group.create_task(self._ask(asked)), ""
            elif asked.asking is None:
                asked.silence = f"not asked, for there are more than {MOST}: name services"
        self._tell()

    def _tell(self) -> None:
        self.changes += 1
        self.changed.set()

    def _leave(self, key: tuple[str, str], asked: Asked, now: float) -> None:
        """Stops to ask one that is not in the registry any more, and forgets it after a while."""
        if asked.gone_since is None:
            asked.gone_since = now
            asked.stop()
        elif now - asked.gone_since >= GONE_S:
            del self._asked[key]

    async def _ask(self, asked: Asked) -> None:
        from meshkit._gen.meshkit.v1.mesh_client import MeshClient
        from meshkit.inspection import PERMISSION

        async with self.mesh.reaching(MeshClient, asked.instance, permissions=[PERMISSION]) as client:
            while True:
                begun = self.clock()
                silent = asked.silence
                try:
                    asked.heard(await self._answer(client, asked.instance))
                except MeshError as error:
                    asked.missed(self._why(error, asked.instance), self.clock())
                if asked.asks <= 2 or bool(silent) != bool(asked.silence):
                    self._tell()
                pause = self.first if asked.asks == 1 else self.every
                await asyncio.sleep(max(0.0, begun + pause - self.clock()))

    async def _answer(self, client: MeshClient, instance: Instance) -> Answer:
        """Asks once. Such questions are critical, so that they are among the last that a busy instance turns away.

        Raises:
            MeshError: There is no answer in time.
        """
        from meshkit._gen.meshkit.v1 import mesh_pb2 as pb

        by = self.clock() + self.timeout
        pools = await client.list_pools(pb.ListPoolsRequest(), timeout=self.timeout, criticality="critical")
        left = max(by - self.clock(), 0.001)
        measured = await client.measure(pb.MeasureRequest(), timeout=left, criticality="critical")
        return Answer.of(instance.instance_id, measured, pools.pools)

    def _why(self, error: MeshError, instance: Instance) -> str:
        """Why there is no answer, in a few words."""
        from meshkit.transport.tls import trouble_of

        if isinstance(error, DeadlineExceeded):
            return f"no answer within {self.timeout:g} s"
        if isinstance(error, Unimplemented):
            return "it does not serve what is asked: it is of an older version, or of none"
        if isinstance(error, Unavailable) and error.reason == error.code:
            return trouble_of(error.message, self.mesh.secured(instance.service)).text
        return str(error)


def _is_settled(asked: Asked) -> bool:
    return asked.asks >= 2 or bool(asked.silence) or asked.gone_since is not None
