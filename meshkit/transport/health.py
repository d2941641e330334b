"""The `grpc.health.v1` protocol, open to all, exempt from admission.

What an instance lacks goes with the answer, as names, in fields that those who do not know them skip.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshkit._gen.meshkit.v1 import health_pb2 as pb
from meshkit.instance import State
from meshkit.transport.server import take_port

_Answer = health_pb2.HealthCheckResponse
_UNKNOWN = _Answer(status=_Answer.SERVICE_UNKNOWN)

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
    """Whether an instance is ready, for itself (the empty name) and for each contract of its alike.

    It starts as not serving. Watches end when it is closed, so that they do not hold up a stop.

    Args:
        contracts: Full protobuf names of the gRPC services it answers for.
    """

    def __init__(self, contracts: tuple[str, ...]) -> None:
        self._names = frozenset({"", *contracts})
        self._answer = answer(State.STARTING)
        self._changed = asyncio.Event()
        self.closed = False

    def add_to(self, server: grpc.aio.Server, *, watches: int = MAX_WATCHES) -> None:
        """Serves the protocol.

        Args:
            server: The server.
            watches: How many may watch there at once; half of them from one address.
        """
        health_pb2_grpc.add_HealthServicer_to_server(_Servicer(self, Watches(watches)), server)

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
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def answer_to(self, name: str) -> Any:
        """How it is now, under a name."""
        return self._answer if name in self._names else _UNKNOWN

    def answers(self) -> dict[str, Any]:
        """How it is now, under each name."""
        return dict.fromkeys(sorted(self._names), self._answer)

    async def answers_to(self, name: str) -> AsyncGenerator[Any, None]:
        """How it is under a name, now and on each change, until it is closed."""
        told = None
        while True:
            changed, now = self._changed, self.answer_to(name)
            if now != told:
                told = now
                yield now
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
        found = self._health.answer_to(request.service)
        if found is _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} here")
        return found

    async def List(self, request: Any, context: Any) -> Any:
        """Whether each contract is served now."""
        return health_pb2.HealthListResponse(  # type: ignore[attr-defined]  # the stubs are behind
            statuses=self._health.answers()
        )

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> AsyncIterator[Any]:
        """Whether it serves, now and on each change."""
        with self._watches.held(context.peer()) as may:
            if not may:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "as many watch this instance as may: ask with Check"
                )
            async with aclosing(self._health.answers_to(request.service)) as answers:
                async for each in answers:
                    yield each


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
