"""The `grpc.health.v1` protocol, open to all, exempt from admission.

What an instance lacks goes with the answer, as names, in fields that those who do not know them skip.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshkit._gen.meshkit.v1 import health_pb2 as pb
from meshkit.instance import State
from meshkit.transport.server import take_port

_Answer = health_pb2.HealthCheckResponse
_UNKNOWN = _Answer(status=_Answer.SERVICE_UNKNOWN)

MAX_PROBES = 100
"""Questions that the health port answers at once; it is open to anybody who can reach it."""


class Health(health_pb2_grpc.HealthServicer):
    """Whether an instance is ready, for itself (the empty name) and for each contract of its alike.

    It starts as not serving. Watches end when it is closed, so that they do not hold up a stop.

    Args:
        contracts: Full protobuf names of the gRPC services it answers for.
    """

    def __init__(self, contracts: tuple[str, ...]) -> None:
        self._names = frozenset({"", *contracts})
        self._answer = answer(State.STARTING)
        self._closed = False
        self._changed = asyncio.Event()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serves the protocol."""
        health_pb2_grpc.add_HealthServicer_to_server(self, server)

    def set(self, state: State, lacking: Iterable[str] = ()) -> None:
        """Says how the instance is.

        Args:
            state: Where it stands.
            lacking: What it lacks to be ready.
        """
        self._answer = answer(state, lacking)
        self._wake()

    def close(self) -> None:
        """Ends all watches."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:
        """Whether it serves now."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} here")
        return self._answer

    async def List(self, request: Any, context: Any) -> Any:
        """Whether each contract is served now."""
        return health_pb2.HealthListResponse(  # type: ignore[attr-defined]  # the stubs are behind
            statuses=dict.fromkeys(sorted(self._names), self._answer)
        )

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> AsyncIterator[Any]:
        """Whether it serves, now and on each change."""
        told = None
        while True:
            changed = self._changed
            now = self._answer if request.service in self._names else _UNKNOWN
            if now != told:
                told = now
                yield now
            if self._closed:
                return
            await changed.wait()


def answer(state: State, lacking: Iterable[str] = ()) -> Any:
    """How an instance is, in the words of `grpc.health.v1` and of the mesh.

    Args:
        state: Where it stands.
        lacking: What it lacks to be ready.
    """
    told = pb.HealthAnswer(state=state, lacking=sorted(lacking))
    told.status = _Answer.SERVING if state is State.SERVING and not told.lacking else _Answer.NOT_SERVING
    return _Answer.FromString(told.SerializeToString())


class HealthPort:
    """A port of its own where an instance's health is served and nothing else, in plain text.

    It is for probes of those who have no certificate, such as an orchestrator's, under TLS.

    Args:
        health: What it serves.
    """

    def __init__(self, health: Health) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)], maximum_concurrent_rpcs=MAX_PROBES)
        health.add_to(self._server)
        self._started = False

    def bind(self, host: str, port: int) -> int:
        """Takes the port, and returns it; a free one where 0 was asked for.

        Raises:
            PortTaken: It cannot be had.
        """
        return take_port(self._server, host, port, setting="CU_HEALTH_PORT")

    async def start(self) -> None:
        """Begins to answer."""
        self._started = True
        await self._server.start()

    async def stop(self) -> None:
        """Answers no more, and gives up the port."""
        if (
            not self._started
        ):  # gRPC gives up a port that it bound only when it stops, and stops only what started
            await self.start()
        await self._server.stop(0)
