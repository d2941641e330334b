"""Scaling a mesh that runs: brings services to other numbers of replicas, and waits until they are there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from meshkit.child import EXIT_CONFIG, Child, Program
from meshkit.cli.changing import Request, no_such_service, under_way
from meshkit.cli.control import JsonObject
from meshkit.cli.counts import MAX_REPLICAS
from meshkit.cli.roster import Roster
from meshkit.cli.tables import age
from meshkit.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound
from meshkit.supervisor import Resized, Supervisor

LOOK_S = 0.05
"""Seconds between two looks at the processes."""


class ScaleRequest(Request):
    """How many replicas are wanted.

    Attributes:
        replicas: Their number by service.
        wait: Whether to answer only when they all serve, and those that are too many have ended.
        timeout_s: Seconds to wait at most, another scaling that is under way included.
    """

    replicas: dict[str, Annotated[int, Field(ge=0, le=MAX_REPLICAS)]] = Field(min_length=1, max_length=64)
    wait: bool = True


class Scaled(BaseModel):
    """What became of one service.

    Attributes:
        service: Its name.
        before: Replicas until then.
        after: Replicas from then on.
    """

    model_config = ConfigDict(frozen=True)

    service: str
    before: int
    after: int


class ScaleAnswer(BaseModel):
    """What became of a request.

    Attributes:
        services: Each service that it named.
        settled: Whether all replicas serve and those that are too many have ended; false where nobody waited for it.
    """

    model_config = ConfigDict(frozen=True)

    services: list[Scaled]
    settled: bool


class Scaler:
    """Scales the services of a supervisor, one request at a time.

    Args:
        supervisor: The processes.
        programs: What a replica runs, by service.
        roster: Says which of the processes serve.

    Attributes:
        turn: Held by whoever changes the processes.
    """

    def __init__(self, supervisor: Supervisor, programs: Mapping[str, Program], roster: Roster) -> None:
        self._supervisor = supervisor
        self._programs = programs
        self._roster = roster
        self.turn = asyncio.Lock()

    async def serve(self, fields: JsonObject) -> JsonObject:
        """Serves a request of the control socket.

        Raises:
            InvalidArgument: The request is wrong.
            MeshError: As `scale`.
        """
        return (await self.scale(ScaleRequest.read(fields))).model_dump()

    async def scale(self, request: ScaleRequest) -> ScaleAnswer:
        """Brings services to the wanted numbers. What was begun goes on when the wait for it ends early.

        Raises:
            NotFound: There is no such service here; nothing was changed.
            InvalidArgument: More than one replica is wanted of a service that can have one; nothing was changed.
            DeadlineExceeded: Not everything happened in time; the message says what did not.
            FailedPrecondition: A replica has ended and is not started again.
        """
        for name in request.replicas:
            if name not in self._programs:
                raise NotFound(no_such_service(name, self._programs), reason="SERVICE_UNKNOWN")
            if request.replicas[name] > 1 and self._programs[name].environment.get("GRPC_PORT", "0") != "0":
                raise InvalidArgument(
                    f"{name} has a port that others know, and so one replica here", reason="ONE_REPLICA"
                )
        changes: dict[str, Resized] = {}
        try:
            async with asyncio.timeout(request.timeout_s), self.turn:
                changes |= self._resize(request.replicas)
                if request.wait:
                    await self._settled(changes)
        except TimeoutError:
            raise self._late(changes, request.timeout_s) from None
        return ScaleAnswer(services=_told(changes), settled=request.wait)

    def _resize(self, replicas: Mapping[str, int]) -> dict[str, Resized]:
        return {
            name: self._supervisor.resize(self._programs[name], count) for name, count in replicas.items()
        }

    async def _settled(self, changes: Mapping[str, Resized]) -> None:
        while self._missing(changes):
            if ended := [child for child in self._wanted(changes) if child.ended]:
                raise FailedPrecondition(
                    f"{_outcome(changes)}, but {_end_of(ended[0])}", reason="REPLICA_ENDED"
                )
            await asyncio.sleep(LOOK_S)
        await self._supervisor.gone([child for change in changes.values() for child in change.leaving])

    def _wanted(self, changes: Mapping[str, Resized]) -> list[Child]:
        return [child for name in changes for child in self._supervisor.children.get(name, ())]

    def _missing(self, changes: Mapping[str, Resized]) -> list[Child]:
        return [child for child in self._wanted(changes) if not self._roster.serves(child)]

    def _late(self, changes: Mapping[str, Resized], seconds: float) -> DeadlineExceeded:
        if not changes:
            return under_way(seconds, "SCALING_UNDER_WAY")
        missing = self._missing(changes)
        leaving = [child for change in changes.values() for child in change.leaving if not child.ended]
        parts = [
            _names(missing, "does not serve", "do not serve") if missing else "",
            _names(leaving, "has not ended", "have not ended") if leaving else "",
        ]
        return DeadlineExceeded(
            f"{_outcome(changes)}, but after {seconds:g} s {' and '.join(filter(None, parts))}; "
            f"it goes on{self._doubts()}{_logs(missing or leaving)}",
            reason="NOT_SETTLED",
        )

    def _doubts(self) -> str:
        if self._roster.stale_since is None:
            return ""
        since = age(time.time() - self._roster.stale_since)
        return f"; {self._roster.registry} cannot be read since {since}, so who serves is not known"


def _told(changes: Mapping[str, Resized]) -> list[Scaled]:
    return [
        Scaled(service=name, before=change.before, after=change.after) for name, change in changes.items()
    ]


def _outcome(changes: Mapping[str, Resized]) -> str:
    return ", ".join(f"{name}: {change.before} → {change.after}" for name, change in changes.items())


def _end_of(child: Child) -> str:
    why = ", its configuration is wrong" if child.exit_code == EXIT_CONFIG else ""
    return (
        f"{child.name} ended with exit code {child.exit_code}{why}, and is not started again{_logs([child])}"
    )


def _names(children: Sequence[Child], one: str, many: str) -> str:
    shown = ", ".join(child.name for child in children[:5])
    more = f" and {len(children) - 5} more" if len(children) > 5 else ""
    return f"{shown}{more} {one if len(children) == 1 else many}"


def _logs(children: Sequence[Child]) -> str:
    return f"\n  its log: {children[0].log}" if children else ""
