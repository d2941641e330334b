"""Restarting services that run: each replica is replaced by a new process, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from meshkit.cli.changing import Request, no_such_service, under_way
from meshkit.cli.control import JsonObject
from meshkit.errors import FailedPrecondition, NotFound
from meshkit.supervisor import Supervisor


class RestartRequest(Request):
    """What is to be restarted.

    Attributes:
        services: Names of services; none: all.
        timeout_s: Seconds that each new process has until it is ready.
    """

    services: list[Annotated[str, Field(max_length=40)]] = Field(default_factory=list, max_length=64)


class RestartAnswer(BaseModel):
    """What became of it.

    Attributes:
        replaced: How many replicas were replaced, by service.
    """

    model_config = ConfigDict(frozen=True)

    replaced: dict[str, int]


class Restarter:
    """Restarts the services of a supervisor, one request at a time.

    Args:
        supervisor: The processes.
        services: Names of the services.
        turn: Held by whoever changes the processes.
    """

    def __init__(self, supervisor: Supervisor, services: Collection[str], turn: asyncio.Lock) -> None:
        self._supervisor = supervisor
        self._services = services
        self._turn = turn

    async def serve(self, fields: JsonObject) -> JsonObject:
        """Serves a request of the control socket.

        Raises:
            InvalidArgument: The request is wrong.
            MeshError: As `restart`.
        """
        return (await self.restart(RestartRequest.read(fields))).model_dump()

    async def restart(self, request: RestartRequest) -> RestartAnswer:
        """Replaces each replica; the next one when the new one is ready and the old one has ended.

        Whoever gives up waiting stops it behind the replica that is being replaced.

        Raises:
            NotFound: There is no such service here; nothing was changed.
            FailedPrecondition: A new process ended or was not ready in time. It stops there; the message says how far
                it came.
            DeadlineExceeded: Another change is under way, and has not ended in time.
        """
        for name in request.services:
            if name not in self._services:
                raise NotFound(no_such_service(name, self._services), reason="SERVICE_UNKNOWN")
        try:
            async with asyncio.timeout(request.timeout_s):
                await self._turn.acquire()
        except TimeoutError:
            raise under_way(request.timeout_s, "RESTART_UNDER_WAY") from None
        try:
            return await self._restart(request)
        finally:
            self._turn.release()

    async def _restart(self, request: RestartRequest) -> RestartAnswer:
        replaced = dict.fromkeys(request.services or self._services, 0)
        for name in replaced:
            children = list(self._supervisor.children.get(name, ()))
            for child in children:
                try:
                    await self._supervisor.replace(child, timeout=request.timeout_s)
                except FailedPrecondition as error:
                    done = f"{replaced[name]} of {len(children)} replicas of {name} were replaced"
                    raise FailedPrecondition(f"{done}, then {error.message}", reason=error.reason) from None
                replaced[name] += 1
        return RestartAnswer(replaced=replaced)
