"""The call objects of a mesh channel, with the behaviour that callers know from grpc.aio.

Awaiting a call, or iterating over it, drives its flow. What may be asked of a call that nobody drives (its status, its
metadata, whether it is done) is answered by a task that then drives it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import grpc
from grpc.aio import EOF, AioRpcError, Metadata, UsageError

from meshkit.errors import MeshError
from meshkit.pipeline import END
from meshkit.transport.flow import Flow
from meshkit.transport.link import rpc_error
from meshkit.transport.requests import Requests

_CANCELLED_TEXT = "Locally cancelled by application!"


class MeshCall(ABC):
    """What all four kinds of call have in common.

    Args:
        flow: The call under way; it closes the requests when it is over.
        decode: Makes a message of bytes.
        requests: The stream of requests, where there is one.
    """

    def __init__(self, flow: Flow, decode: Callable[[bytes], Any], requests: Requests | None) -> None:
        self._flow = flow
        self._decode = decode
        self._requests = requests
        self._failure: BaseException | None = None
        self._over = False
        self._finished: asyncio.Future[None] | None = None
        self._callbacks: list[Callable[[Any], None]] = []

    def cancelled(self) -> bool:
        """Whether the call was given up on this side."""
        return self._flow.cancelled

    def done(self) -> bool:
        """Whether the call is over."""
        self._attend()
        return self._over

    def cancel(self) -> bool:
        """Gives the call up; False if it was over."""
        if self._over or not self._flow.cancel():
            return False
        self._finish(asyncio.CancelledError())
        return True

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, None without one."""
        remaining = self._flow.exchange.call.deadline.remaining()
        return None if remaining == float("inf") else max(remaining, 0.0)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls back with this call when it is over."""
        self._attend()
        if self._over:
            callback(self)
        else:
            self._callbacks.append(callback)

    async def initial_metadata(self) -> Metadata:
        """What the service sent ahead of its replies; services of the mesh send nothing there."""
        return Metadata()

    async def trailing_metadata(self) -> Metadata:
        """What the service sent at the end, `x-cu-instance` among it."""
        await self.ended()
        if isinstance(self._failure, AioRpcError):
            return self._failure.trailing_metadata() or Metadata()
        return Metadata(*self._flow.exchange.trailers.items())

    async def code(self) -> grpc.StatusCode:
        """How the call ended."""
        await self.ended()
        match self._failure:
            case None:
                return grpc.StatusCode.OK
            case AioRpcError():
                return self._failure.code()
            case asyncio.CancelledError():
                return grpc.StatusCode.CANCELLED
        return grpc.StatusCode.UNKNOWN

    async def details(self) -> str:
        """The text beside the status code."""
        await self.ended()
        if isinstance(self._failure, AioRpcError):
            return self._failure.details() or ""
        return "" if self._failure is None else _CANCELLED_TEXT

    async def wait_for_connection(self) -> None:
        """Returns at once: the mesh begins a call on a connection that stands, or waits for one as part of the call."""
        if isinstance(self._failure, AioRpcError):
            raise self._failure

    def ended(self) -> asyncio.Future[None]:
        """Done when the call is over; sees to it that it gets there if nobody awaits the call itself."""
        if self._finished is None:
            self._finished = asyncio.get_running_loop().create_future()
            if self._over:
                self._finished.set_result(None)
        self._attend()
        return self._finished

    @abstractmethod
    def _attend(self) -> None:
        """Drives a call that nobody else drives, in a task."""

    def _finish(self, failure: BaseException | None) -> None:
        """Takes note of how the call ended, once."""
        if self._over:
            return
        self._over = True
        self._failure = rpc_error(failure) if isinstance(failure, MeshError) else failure
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)
        for callback in self._callbacks:
            callback(self)
        self._callbacks.clear()

    def _raise_failure(self) -> None:
        if isinstance(self._failure, asyncio.CancelledError):
            raise asyncio.CancelledError
        if self._failure is not None:
            raise self._failure


class _OneReply(MeshCall):
    _reply: Any = None
    _driven = False
    _background: asyncio.Task[None] | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        """The reply.

        Raises:
            AioRpcError: The call failed.
        """
        if not self._over:
            if self._driven:
                yield from self._until_ended().__await__()
            else:
                self._driven = True
                yield from self._complete().__await__()
        self._raise_failure()
        return self._reply

    async def _until_ended(self) -> None:
        """Waits for whoever drives the call. Whoever is cancelled while awaiting a call cancels it."""
        try:
            await asyncio.shield(self.ended())
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def _complete(self) -> None:
        try:
            self._reply = self._decode(await self._flow.only())
        except BaseException as failure:
            self._finish(failure)
            if not isinstance(failure, (Exception, asyncio.CancelledError)):
                raise
        else:
            self._finish(None)

    def _attend(self) -> None:
        if not self._over and not self._driven:
            self._driven = True
            self._background = asyncio.get_running_loop().create_task(self._complete())


class _ManyReplies(MeshCall):
    _style = ""
    _background: asyncio.Task[None] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        """The replies in order; the same iterator each time, which is the call itself."""
        self._choose("iterator")
        return self

    async def __anext__(self) -> Any:
        """The next reply."""
        if (reply := await self._next()) is EOF:
            raise StopAsyncIteration
        return reply

    async def read(self) -> Any:
        """The next reply, or `grpc.aio.EOF`."""
        self._choose("read")
        return await self._next()

    async def _next(self) -> Any:
        if self._over:
            self._raise_failure()
            return EOF
        try:
            if self._background is not None:
                await self._background
                self._background = None
            reply = await self._flow.next()
            if reply is not END:
                if self._finished is not None or self._callbacks:
                    self._attend()
                return self._decode(reply)
        except BaseException as failure:  # noted, and raised again
            self._flow.cancel()
            self._finish(failure)
            self._raise_failure()
        self._finish(None)
        return EOF

    def _choose(self, style: str) -> None:
        if self._style and self._style != style:
            raise UsageError("one call is either iterated over or read from, not both")
        self._style = style

    def _attend(self) -> None:
        if self._over or self._background is not None:
            return
        if self._flow.idle:
            self._background = asyncio.get_running_loop().create_task(self._arrive())
        elif self._flow.ended:
            self._finish(self._flow.error)

    async def _arrive(self) -> None:
        await self._flow.arrive()
        if self._flow.ended:
            self._finish(self._flow.error)


class _ManyRequests(MeshCall):
    async def write(self, request: Any) -> None:
        """Sends one request; returns when it was taken to be sent. Cancelling it cancels the call."""
        self._attend()
        try:
            await self._to_send.put(request)
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def done_writing(self) -> None:
        """Says that there are no more requests."""
        if not self._over:
            self._attend()
            await self._to_send.put(END)

    @property
    def _to_send(self) -> Requests:
        if self._over:
            self._raise_failure()
        if self._requests is None or self._requests.fed:
            raise UsageError("the requests of this call come from an iterator")
        return self._requests


class UnaryUnaryCall(_OneReply, grpc.aio.UnaryUnaryCall[Any, Any]):
    """A call with one request and one reply."""


class UnaryStreamCall(_ManyReplies, grpc.aio.UnaryStreamCall[Any, Any]):
    """A call with one request and a stream of replies."""


class StreamUnaryCall(_ManyRequests, _OneReply, grpc.aio.StreamUnaryCall[Any, Any]):
    """A call with a stream of requests and one reply."""


class StreamStreamCall(_ManyRequests, _ManyReplies, grpc.aio.StreamStreamCall[Any, Any]):
    """A call with streams both ways."""
