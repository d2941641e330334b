"""A connection to one instance, kept ready ahead of use, and one attempt of a call over it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import structlog
from grpc.aio import EOF, AioRpcError

from meshkit import metadata
from meshkit.errors import Cancelled, DeadlineExceeded, MeshError, ResourceExhausted, Unavailable
from meshkit.instance import Instance
from meshkit.pipeline import END, Exchange, Method
from meshkit.transport.health_watch import HealthWatch
from meshkit.transport.options import channel_options
from meshkit.transport.status import WRITE_FAILED, code_of, error_from, text_of, trailers_of
from meshkit.transport.tls import Secured, open_channel, trouble_of

log = structlog.get_logger("meshkit.transport")

_TOO_LARGE = "larger than max"
"""What gRPC's own refusal of a message says; for wording only."""

_LATE = "Deadline Exceeded"
"""What gRPC says on this side when a call's time is up; it may say more around it."""

STREAMS = 90
"""Calls that one connection carries at once before another one is opened: a little under the usual limit of servers."""

MORE = 9
"""Further connections to one instance at most."""

SPARE_S = 60.0
"""Seconds after which a further connection that is not needed is closed."""

ASK_WHY_S = 1.0
"""Seconds that a channel without a connection has to say why."""

ASK_AGAIN_S = 3.0
"""Seconds until it is asked again: it has tried to connect once more by then."""

_INFINITE = float("inf")

_READY = grpc.ChannelConnectivity.READY
_FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE
_IDLE = grpc.ChannelConnectivity.IDLE
_SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN


class Attempts:
    """Makes calls over a channel, each once.

    Args:
        channel: The channel.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._callables: dict[str, Any] = {}
        self._under_way: set[Any] = set()
        self._made = 0

    @property
    def connected(self) -> bool:
        """Whether a call begun now would be sent at once."""
        return self._channel.get_state() is _READY

    async def end(self, grace: float) -> None:
        """Lets calls under way end, for at most `grace` seconds, and closes the channel."""
        ends = [asyncio.ensure_future(call.code()) for call in self._under_way if not call.done()]
        if ends and grace > 0:
            await asyncio.wait(ends, timeout=grace)
        await self._channel.close()
        await asyncio.gather(*ends, return_exceptions=True)

    async def attempt(self, exchange: Exchange) -> None:
        """Makes the call over this connection, once.

        Raises:
            MeshError: It failed; gRPC's own error is its cause.
        """
        call = self._begin(exchange)
        exchange.cancel = call.cancel
        self._under_way.add(call)
        self._made += 1
        try:
            if exchange.method.streams_requests:
                await self._converse(exchange, call)
            else:
                await self._replies(exchange, call)
            trailers = await call.trailing_metadata()
        except AioRpcError as error:
            failure = error_from(error.code(), error.details(), error.trailing_metadata())
            if failure.instance is None and (
                isinstance(failure, Cancelled) or failure.message == WRITE_FAILED
            ):
                failure = _cut_off(exchange)
                failure.instance = exchange.endpoint.instance.instance_id
                raise failure from None
            if (
                isinstance(failure, DeadlineExceeded)
                and failure.instance is None
                and _LATE in failure.message
            ):
                failure = DeadlineExceeded(
                    f"{exchange.method.path[1:]} had not answered when the time was up"
                )
            if (
                isinstance(failure, ResourceExhausted)
                and failure.instance is None
                and _TOO_LARGE in failure.message
            ):
                failure = ResourceExhausted(
                    f"{failure.message}: send less, or raise GRPC_MAX_MESSAGE_MB on both sides",
                    reason="MESSAGE_TOO_LARGE",
                )
            failure.instance = failure.instance or exchange.endpoint.instance.instance_id
            raise failure from error
        finally:
            if not call.done():
                call.cancel()
            self._under_way.discard(call)
        for key, value in trailers:
            exchange.trailers[key] = value

    def _begin(self, exchange: Exchange) -> Any:
        method = exchange.method
        multi = self._callables.get(method.path)
        if multi is None:
            multi = self._callables[method.path] = self._callable(method)
        remaining = exchange.call.deadline.remaining()
        timeout = None if remaining == _INFINITE else max(remaining, 0.0)
        pairs = dict(exchange.headers).items()  # as they are; gRPC would take a sequence apart, in Python
        if method.streams_requests:
            return multi(timeout=timeout, metadata=pairs)
        return multi(exchange.request, timeout=timeout, metadata=pairs)

    def _callable(self, method: Method) -> Any:
        return getattr(self._channel, method.arity)(method.path, _registered_method=True)  # as stubs do

    async def _replies(self, exchange: Exchange, call: Any) -> None:
        if not exchange.method.streams_replies:
            await _deliver(exchange, await call)
            return
        while (reply := await call.read()) is not EOF:
            await _deliver(exchange, reply)

    async def _converse(self, exchange: Exchange, call: Any) -> None:
        """Sends the requests beside taking the replies, and stops sending when the call is over."""
        sending = asyncio.create_task(_send_requests(exchange, call))
        try:
            await self._replies(exchange, call)
        except (AioRpcError, asyncio.CancelledError):
            if sending.done() and not sending.cancelled() and (failure := sending.exception()):
                exchange.own_failure = failure
                raise failure from None
            raise
        finally:
            sending.cancel()
            sending.add_done_callback(_seen)


def _cut_off(exchange: Exchange) -> MeshError:
    """What a server's bare CANCELLED means, which nobody asked for: it stopped. It may have begun the call.

    So does a request that could not be written, of which gRPC says no more than that; or the deadline has passed.
    """
    if exchange.call.deadline.passed:
        return DeadlineExceeded("the deadline passed while requests were sent")
    return Unavailable("the instance stopped before it had answered", reason="CUT_OFF")


class GrpcLink(Attempts):
    """A channel to one address that connects by itself, and again whenever the connection is lost.

    Over each connection it asks the instance how it is, and hears of each change. A server may limit the calls that one
    connection carries (100, with many), past which gRPC queues them without a word: before that, more channels are
    opened, and closed again when they have not been needed for a while.

    Args:
        instance: Whom to connect to.
        on_change: Called whenever `ready` may have changed.
        max_message_bytes: Largest message taken or sent, in bytes.
        secured: With TLS, so; in plain text where it is None.

    Attributes:
        trouble: Why there is no connection; empty where there is one, or it is not known yet.
    """

    def __init__(
        self,
        instance: Instance,
        on_change: Callable[[], None],
        *,
        max_message_bytes: int,
        secured: Secured | None = None,
    ) -> None:
        self._open = partial(open_channel, instance.address, channel_options(max_message_bytes), secured)
        super().__init__(self._open())
        self._more: list[Attempts] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._closing = False
        self._on_change = on_change
        self.trouble = ""
        self._met = 0
        self._name = instance.instance_id
        self._address = instance.address
        self.secured = secured
        self._health = HealthWatch(self._channel, on_change, name=self._name)
        self._keeping = asyncio.create_task(self._keep_connected(), name=f"meshkit link {self._name}")

    @property
    def ready(self) -> bool:
        """Whether a call begun now would be sent at once, to an instance that says that it serves."""
        return self._health.serving and self.connected

    @property
    def degraded(self) -> bool:
        """Whether it is connected to an instance that takes calls, though it says that it is not ready."""
        return self._health.degraded and self.connected

    async def attempt(self, exchange: Exchange) -> None:
        """Makes the call over this connection, once, or over another one to the same address where this is full.

        Raises:
            MeshError: It failed; gRPC's own error is its cause.
        """
        if len(self._under_way) < STREAMS:
            await super().attempt(exchange)
            return
        channel = self._roomiest()
        try:
            await Attempts.attempt(channel, exchange)
        finally:
            if not channel._under_way and channel is not self:
                asyncio.get_running_loop().call_later(SPARE_S, self._close_if_idle, channel, channel._made)

    async def ping(self, timeout: float) -> bool:
        """Whether the instance gives any answer within `timeout` seconds."""
        return await self._health.ask(timeout)

    async def close(self, grace: float) -> None:
        """Lets calls under way end, for at most `grace` seconds, and ends the connection.

        May be called again meanwhile: the grace that ends first holds.
        """
        self._closing = True
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        await asyncio.gather(*(channel.end(grace) for channel in (self, *self._more)))

    def _roomiest(self) -> Attempts:
        """The channel with the fewest calls, among those that are connected; opens one more where all are full."""
        connected = [self, *(channel for channel in self._more if channel.connected)]
        best = min(connected, key=lambda channel: len(channel._under_way))
        opening = len(connected) - 1 < len(self._more)
        if len(best._under_way) >= STREAMS and not opening and len(self._more) < MORE and not self._closing:
            another = Attempts(self._open())
            another._channel.get_state(try_to_connect=True)
            self._more.append(another)
        return best

    def _close_if_idle(self, channel: Attempts, made: int) -> None:
        """Closes a further channel that has carried no call since."""
        if channel._made == made and channel in self._more and not self._closing:
            self._more.remove(channel)
            ending = asyncio.create_task(channel.end(0), name=f"meshkit close {self._name}")
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _keep_connected(self) -> None:
        while (state := self._channel.get_state(try_to_connect=True)) is not _SHUTDOWN:
            self._on_change()
            if state is _READY:
                self.trouble = ""
                await self._follow_health()
            elif state is _FAILED:
                await self._look_into_failure()
            else:
                await self._channel.wait_for_state_change(state)

    async def _look_into_failure(self) -> None:
        """Finds out why there is no connection, again and again until there is one: gRPC tries by itself."""
        changing = asyncio.create_task(
            self._channel.wait_for_state_change(_FAILED), name=f"meshkit link {self._name}"
        )
        try:
            while not changing.done():
                await self._ask_why()
                await asyncio.wait((changing,), timeout=ASK_AGAIN_S)
        finally:
            changing.cancel()
            await asyncio.gather(changing, return_exceptions=True)

    async def _ask_why(self) -> None:
        """Finds out why there is no connection; the log has it where somebody has to do something about it."""
        failure = await self._health.failure(ASK_WHY_S)
        if not failure:
            return
        why, told_at = trouble_of(failure, self.secured)
        self._met = self._met + 1 if why == self.trouble else 1
        if self._met == told_at:
            log.warning("no connection to an instance", instance=self._name, address=self._address, why=why)
        self.trouble = why

    async def _follow_health(self) -> None:
        """Follows the instance's health until the connection is lost.

        Then the stream is ended at once: a server that stops would wait for it.
        """
        following = asyncio.create_task(self._health.follow(), name=f"meshkit health {self._name}")
        try:
            await self._channel.wait_for_state_change(_READY)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def _deliver(exchange: Exchange, reply: bytes) -> None:
    if exchange.first_reply is None:
        exchange.settle()
        exchange.first_reply = time.monotonic()
    await exchange.send(reply)


async def _send_requests(exchange: Exchange, call: Any) -> None:
    """Sends the caller's messages. A failure of the caller's own iterator ends the call with that failure."""
    while True:
        try:
            message = await exchange.receive()
        except Exception:
            call.cancel()
            raise
        try:
            if message is END:
                await call.done_writing()
                return
            await call.write(message)
        except Exception:  # gRPC's, of whatever kind: the call is over, and its status says why
            return


def _seen(task: asyncio.Task[None]) -> None:
    """Takes note of a failure that the caller learns of another way."""
    if not task.cancelled():
        task.exception()


def rpc_error(error: MeshError) -> AioRpcError:
    """The error as a caller of a plain gRPC stub expects it: gRPC's own, or one like it for what never reached gRPC."""
    if isinstance(error.__cause__, AioRpcError):
        return error.__cause__
    trailers = trailers_of(error)
    if error.instance is not None:
        trailers = ((metadata.INSTANCE, error.instance), *trailers)
    return AioRpcError(
        code_of(error), grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details=text_of(error)
    )
