"""The `grpc.health.v1` protocol, open to all, exempt from admission."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshkit.transport.server import take_port

_Status = health_pb2.HealthCheckResponse.ServingStatus
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

MAX_WATCHES = 1000
"""How many watch an instance at once where nobody says otherwise."""

MAX_PROBES = 100
"""Questions that the health port answers at once; it is open to anybody who can reach it."""


class Watches:
    """How many watch at once: so many in all, and half of them from one address. Watching takes no token.

    Args:
        limit: Watches in all.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._share = max(limit // 2, 1)
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._held.total()

    @contextmanager
    def held(self, peer: str) -> Iterator[bool]:
        """Whether a watch may be held, which it is for as long as the block runs.

        Args:
            peer: Who watches, as gRPC names it: kind, address and port.
        """
        address = peer.rpartition(":")[0] or peer
        if len(self) >= self._limit or self._held[address] >= self._share:
            yield False
            return
        self._held[address] += 1
        try:
            yield True
        finally:
            self._held[address] -= 1
            if not self._held[address]:
                del self._held[address]


class Health:
    """Whether an instance serves, for itself (the empty name) and for each contract of its alike.

    It starts as not serving. Watches end when it is closed, so that they do not hold up a stop.

    Args:
        contracts: Full protobuf names of the gRPC services it answers for.
    """

    def __init__(self, contracts: tuple[str, ...]) -> None:
        self._names = frozenset({"", *contracts})
        self._serving = False
        self._changed = asyncio.Event()
        self.closed = False

    def add_to(self, server: grpc.aio.Server, *, watches: int = MAX_WATCHES) -> None:
        """Serves the protocol.

        Args:
            server: The server.
            watches: How many may watch there at once; half of them from one address.
        """
        health_pb2_grpc.add_HealthServicer_to_server(_Servicer(self, Watches(watches)), server)

    def set(self, serving: bool) -> None:
        """Says whether the instance serves."""
        self._serving = serving
        self._wake()

    def close(self) -> None:
        """Ends all watches."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def status(self, name: str) -> Any:
        """Whether it serves now, under a name."""
        if name not in self._names:
            return _UNKNOWN
        return _SERVING if self._serving else _NOT_SERVING

    def statuses(self) -> dict[str, Any]:
        """Whether it serves now, under each name."""
        return {name: self.status(name) for name in sorted(self._names)}

    async def statuses_of(self, name: str) -> AsyncGenerator[Any, None]:
        """Whether it serves under a name, now and on each change, until it is closed."""
        told = None
        while True:
            changed, status = self._changed, self.status(name)
            if status != told:
                told = status
                yield status
            if self.closed:
                return
            await changed.wait()


class _Servicer(health_pb2_grpc.HealthServicer):
    """The protocol on one server."""

    def __init__(self, health: Health, watches: Watches) -> None:
        self._health = health
        self._watches = watches

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:
        """Whether it serves now."""
        status = self._health.status(request.service)
        if status == _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} here")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, request: Any, context: Any) -> Any:
        """Whether each contract is served now."""
        return health_pb2.HealthListResponse(  # type: ignore[attr-defined]  # the stubs are behind
            statuses={
                name: health_pb2.HealthCheckResponse(status=status)
                for name, status in self._health.statuses().items()
            }
        )

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> AsyncIterator[Any]:
        """Whether it serves, now and on each change."""
        with self._watches.held(context.peer()) as may:
            if not may:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "as many watch this instance as may: ask with Check"
                )
            async with aclosing(self._health.statuses_of(request.service)) as statuses:
                async for status in statuses:
                    yield health_pb2.HealthCheckResponse(status=status)


class HealthPort:
    """A port of its own where an instance's health is served and nothing else, in plain text.

    It is for probes of those who have no certificate, such as an orchestrator's, under TLS.

    Args:
        health: What it serves.
    """

    def __init__(self, health: Health) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)], maximum_concurrent_rpcs=MAX_PROBES)
        health.add_to(self._server, watches=MAX_PROBES // 2)
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
