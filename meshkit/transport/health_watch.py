"""Following how an instance is: the calling side of `grpc.health.v1.Health/Watch`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc.aio import AioRpcError
from grpc_health.v1 import health_pb2

from meshkit._gen.meshkit.v1 import health_pb2 as pb
from meshkit.instance import State

log = structlog.get_logger("meshkit.transport")

PATH = "/grpc.health.v1.Health/Watch"
CHECK_PATH = "/grpc.health.v1.Health/Check"

FIRST_ANSWER_S = 5.0
"""Seconds within which an instance must say how it is."""

BACKOFF_S = 1.0
"""Seconds before a stream that broke is opened anew; doubled with each that brought no answer."""

MAX_BACKOFF_S = 30.0

_Status = health_pb2.HealthCheckResponse
_ASK = health_pb2.HealthCheckRequest().SerializeToString()
"""Asks for the server as a whole, which is the one name that servers of all kinds answer to."""

_NOT_TOLD = frozenset(
    {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
)
"""How a server says that it does not tell its health, or not to us."""


_NO_ANSWER = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE})
"""How a call ends that nobody answered."""


class _Told(Enum):
    """What is known of an instance."""

    NO = "it takes no calls, or has not said so"
    DEGRADED = "it takes calls, and is not ready"
    SERVES = "it serves"


def _told(answer: pb.HealthAnswer) -> _Told:
    if answer.status == _Status.SERVING:
        return _Told.SERVES
    return _Told.DEGRADED if answer.state == State.SERVING else _Told.NO


class HealthWatch:
    """What an instance says of itself, over connections that come and go: a long stream on each.

    It serves once it says so. Where it does not tell (it has no health service, or not for us), being connected is
    all there is to know, and it is taken to serve. Where as many watch as it allows, it is asked now and then instead.
    When a stream breaks on a connection that stands, its last answer holds until the next one. An instance of the mesh
    that is not ready, and takes calls nevertheless, says so; it is degraded. Source for the client's side: gRPC
    proposal A17, "Client-side health checking".

    Args:
        channel: The channel.
        on_change: Called when `serving` or `degraded` changes.
        name: What to call the instance in the log.
        sleep: Waits a number of seconds between streams.
        uniform: Random number between two bounds.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        on_change: Callable[[], None],
        *,
        name: str,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._watch: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(PATH)
        self._check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CHECK_PATH)
        self._on_change = on_change
        self._name = name
        self._sleep = sleep
        self._uniform = uniform
        self._told = self._answer = _Told.NO
        self._failures = 0

    @property
    def serving(self) -> bool:
        """Whether the instance may be given calls; never before it was asked over the present connection."""
        return self._told is _Told.SERVES

    @property
    def degraded(self) -> bool:
        """Whether it takes calls, though it is not ready."""
        return self._told is _Told.DEGRADED

    async def follow(self) -> None:
        """Follows the instance over the present connection, until cancelled: the connection is lost."""
        self._failures = 0
        try:
            while True:
                try:
                    why = await self._listen()
                except AioRpcError as error:
                    if error.code() in _NOT_TOLD:
                        self._answer = _Told.SERVES
                        self._tell(_Told.SERVES)
                        await asyncio.Event().wait()  # another connection may know better
                    why = f"{error.code().name}: {error.details()}"
                    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                        await self._look()
                except (TimeoutError, DecodeError) as error:
                    why = str(error) or f"no answer within {FIRST_ANSWER_S:g} s"
                self._tell(self._answer)
                await self._rest(why)
        finally:
            self._tell(_Told.NO)

    async def ask(self, timeout: float) -> bool:
        """Whether the instance answers a question after its health, in whatever way, within `timeout` seconds."""
        try:
            await self._check(_ASK, timeout=timeout)
        except AioRpcError as error:
            return error.code() not in _NO_ANSWER
        return True

    async def failure(self, timeout: float) -> str:
        """What gRPC says when it is asked over a channel that has no connection; empty where it says nothing.

        Args:
            timeout: Seconds that it has for that.
        """
        try:
            await self._check(_ASK, timeout=timeout)
        except AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return error.details() or ""
        return ""

    async def _listen(self) -> str:
        """Hears one stream to its end, and says how it ended.

        Raises:
            AioRpcError: It failed.
            TimeoutError: It brought no first answer.
            DecodeError: It brought what is no answer.
        """
        stream = self._watch(_ASK)
        try:
            async with asyncio.timeout(FIRST_ANSWER_S):
                answer = await stream.read()
            while isinstance(answer, bytes):
                self._hear(pb.HealthAnswer.FromString(answer))
                answer = await stream.read()
        finally:
            stream.cancel()
        return "the instance ended it"

    async def _look(self) -> None:
        """Asks once, where it lets no more watch; until there is an answer, the last one holds."""
        with suppress(AioRpcError, DecodeError):
            answer = await self._check(_ASK, timeout=FIRST_ANSWER_S)
            self._answer = _told(pb.HealthAnswer.FromString(answer))

    def _hear(self, answer: pb.HealthAnswer) -> None:
        self._failures = 0
        self._answer = _told(answer)
        if answer.status == _Status.SERVICE_UNKNOWN:
            log.warning(
                "an instance gets no calls: it has a health service that knows no status of the whole server; "
                'set the status of the empty name ""',
                instance=self._name,
            )
        self._tell(self._answer)

    def _tell(self, told: _Told) -> None:
        if told is not self._told:
            self._told = told
            self._on_change()

    async def _rest(self, why: str) -> None:
        """Waits before the next stream. The first failure may be the connection's; a second one is told."""
        self._failures += 1
        if self._failures == 2:
            log.warning(
                "the health of an instance cannot be followed, and is asked for again",
                instance=self._name,
                why=why,
                taken_as="serving" if self.serving else "not serving",
            )
        longest = min(BACKOFF_S * 2 ** min(self._failures - 1, 16), MAX_BACKOFF_S)
        await self._sleep(self._uniform(longest / 2, longest))
