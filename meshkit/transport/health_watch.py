"""Following how an instance is: the calling side of `grpc.health.v1.Health/Watch`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc.aio import AioRpcError
from grpc_health.v1 import health_pb2

log = structlog.get_logger("meshkit.transport")

PATH = "/grpc.health.v1.Health/Watch"
CHECK_PATH = "/grpc.health.v1.Health/Check"

FIRST_ANSWER_S = 5.0
"""Seconds within which an instance must say how it is."""

BACKOFF_S = 1.0
"""Seconds before a stream that broke is opened anew; doubled with each that brought no answer."""

MAX_BACKOFF_S = 30.0

_Answer = health_pb2.HealthCheckResponse
_ASK = health_pb2.HealthCheckRequest().SerializeToString()
"""Asks for the server as a whole, which is the one name that servers of all kinds answer to."""

_NOT_TOLD = frozenset(
    {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
)
"""How a server says that it does not tell its health, or not to us."""


_NO_ANSWER = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE})
"""How a call ends that nobody answered."""


class HealthWatch:
    """What an instance says of itself, over connections that come and go: a long stream on each.

    It serves once it says so. Where it does not tell (it has no health service, or not for us), being connected is
    all there is to know, and it is taken to serve. Where as many watch as it allows, it is asked now and then instead.
    When a stream breaks on a connection that stands, its last answer holds until the next one. Source for the client's
    side: gRPC proposal A17, "Client-side health checking".

    Args:
        channel: The channel.
        on_change: Called when `serving` changes.
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
        self._serving = False
        self._answer = False
        self._failures = 0

    @property
    def serving(self) -> bool:
        """Whether the instance may be given calls; never before it was asked over the present connection."""
        return self._serving

    async def follow(self) -> None:
        """Follows the instance over the present connection, until cancelled: the connection is lost."""
        self._failures = 0
        try:
            while True:
                try:
                    why = await self._listen()
                except AioRpcError as error:
                    if error.code() in _NOT_TOLD:
                        self._answer = True
                        self._tell(True)
                        await asyncio.Event().wait()  # another connection may know better
                    why = f"{error.code().name}: {error.details()}"
                    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                        await self._look()
                except (TimeoutError, DecodeError) as error:
                    why = str(error) or f"no answer within {FIRST_ANSWER_S:g} s"
                self._tell(self._answer)
                await self._rest(why)
        finally:
            self._tell(False)

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
                self._hear(_Answer.FromString(answer).status)
                answer = await stream.read()
        finally:
            stream.cancel()
        return "the instance ended it"

    async def _look(self) -> None:
        """Asks once, where it lets no more watch; until there is an answer, the last one holds."""
        with suppress(AioRpcError, DecodeError):
            answer = _Answer.FromString(await self._check(_ASK, timeout=FIRST_ANSWER_S))
            self._answer = answer.status == _Answer.SERVING

    def _hear(self, status: int) -> None:
        self._failures = 0
        self._answer = status == _Answer.SERVING
        if status == _Answer.SERVICE_UNKNOWN:
            log.warning(
                "an instance gets no calls: it has a health service that knows no status of the whole server; "
                'set the status of the empty name ""',
                instance=self._name,
            )
        self._tell(self._answer)

    def _tell(self, serving: bool) -> None:
        if serving is not self._serving:
            self._serving = serving
            self._on_change()

    async def _rest(self, why: str) -> None:
        """Waits before the next stream. The first failure may be the connection's; a second one is told."""
        self._failures += 1
        if self._failures == 2:
            log.warning(
                "the health of an instance cannot be followed, and is asked for again",
                instance=self._name,
                why=why,
                taken_as="serving" if self._serving else "not serving",
            )
        longest = min(BACKOFF_S * 2 ** min(self._failures - 1, 16), MAX_BACKOFF_S)
        await self._sleep(self._uniform(longest / 2, longest))
