"""From a gRPC call to an exchange that runs through an onion, and back to a gRPC status.

Every method is served by one coroutine that reads its messages itself. So the layers that look at headers only refuse
a call before its message was read, whatever the method's arity.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import grpc
from grpc.aio import EOF, ServicerContext

from meshkit import metadata
from meshkit.call import BLANK, Deadline, Trace
from meshkit.errors import DeadlineExceeded, Internal, InvalidArgument, MeshError
from meshkit.pipeline import END, Exchange, Handler, Method
from meshkit.transport.peer import ConnectedPeer
from meshkit.transport.status import code_of, text_of, trailers_of

Context = ServicerContext[Any, Any]

BREAK_OFF_S = 0.005
"""Seconds for which the end of a stream of requests is not believed."""


class Reception:
    """Takes the calls of one instance of a service, and knows which are under way.

    Args:
        service: Name of the service.
        instance_id: Id of the instance; each answer names it.
    """

    def __init__(self, service: str, instance_id: str) -> None:
        self.service = service
        self.instance_id = instance_id
        self.tasks: set[asyncio.Task[Any]] = set()
        self.newest = float("-inf")

    def handler(self, method: Method, handler: Handler) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler that gRPC is given for a method.

        Args:
            method: The method.
            handler: Its onion, which takes and gives serialized messages.
        """
        if method.streams_replies:
            return grpc.stream_stream_rpc_method_handler(self._streaming(method, handler))
        return grpc.stream_unary_rpc_method_handler(self._single(method, handler))

    def _streaming(self, method: Method, handler: Handler) -> Callable[[Any, Context], Awaitable[None]]:
        async def serve(_requests: Any, context: Context) -> None:
            await self._serve(method, handler, context, context.write)

        return serve

    def _single(self, method: Method, handler: Handler) -> Callable[[Any, Context], Awaitable[bytes]]:
        async def serve(_requests: Any, context: Context) -> bytes:
            replies: list[bytes] = []

            async def send(message: bytes) -> None:
                replies.append(message)

            await self._serve(method, handler, context, send)
            if len(replies) != 1:
                await self._abort(
                    context, Internal(f"{method.path} gave {len(replies)} replies instead of one")
                )
            return replies[0]

        return serve

    async def _serve(
        self, method: Method, handler: Handler, context: Context, send: Callable[[Any], Awaitable[None]]
    ) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        self.tasks.add(task)
        self.newest = loop.time()
        peer = ConnectedPeer(context)
        try:
            exchange = self._exchange(method, context, send, peer)
            await handler(exchange)
            context.set_trailing_metadata(((metadata.INSTANCE, self.instance_id), *exchange.trailers.items()))
        except MeshError as error:
            await self._abort(context, error)
        finally:
            peer.release()
            self.tasks.discard(task)

    def _exchange(
        self, method: Method, context: Context, send: Callable[[Any], Awaitable[None]], peer: ConnectedPeer
    ) -> Exchange:
        headers = _single_valued(context.invocation_metadata() or ())
        remaining = context.time_remaining()
        call = BLANK.having(
            service=self.service,
            instance_id=self.instance_id,
            method=method.path,
            deadline=Deadline() if remaining is None else Deadline.after(remaining),
            peer=peer,
            metadata={key: value for key, value in headers.items() if key not in metadata.REQUEST_KEYS},
            trace=Trace.parse(
                _text(headers, metadata.TRACEPARENT),
                _text(headers, metadata.TRACESTATE),
                _text(headers, metadata.BAGGAGE),
            ),
        )
        receive = _reader(context, call.deadline) if method.streams_requests else _message(context)
        return Exchange(method, call, receive=receive, send=send, headers=headers, context=context)

    async def _abort(self, context: Context, error: MeshError) -> None:
        trailers = ((metadata.INSTANCE, self.instance_id), *trailers_of(error))
        await context.abort(code_of(error), text_of(error), trailers)


def _message(context: Context) -> Callable[[], Awaitable[Any]]:
    """Reads the one message of a call."""

    async def receive() -> Any:
        message = await context.read()
        return END if message is EOF else message

    return receive


def _reader(context: Context, deadline: Deadline) -> Callable[[], Awaitable[Any]]:
    """Reads a stream of messages, and takes none that broke off for one that ended.

    gRPC tells the end of either alike, and of a call that was given up, or whose connection broke, tells that a moment
    later, by cancelling the task.
    """

    async def receive() -> Any:
        message = await context.read()
        if message is not EOF:
            return message
        await asyncio.sleep(BREAK_OFF_S)
        if deadline.passed:
            raise DeadlineExceeded("the deadline passed before the stream of requests had ended")
        return END

    return receive


def _single_valued(pairs: Collection[tuple[str, str | bytes]]) -> dict[str, str | bytes]:
    """The metadata by key. A key of ours that comes twice is refused; of others the last value counts.

    Raises:
        InvalidArgument: A key of the mesh comes twice.
    """
    headers = dict(pairs)
    if len(headers) < len(pairs):
        for key, values in Counter(key for key, _ in pairs).items():
            if values > 1 and key in metadata.REQUEST_KEYS:
                raise InvalidArgument(f"the metadata key {key} comes twice", reason="METADATA_DUPLICATE")
    return headers


def _text(headers: Mapping[str, str | bytes], key: str) -> str:
    value = headers.get(key, "")
    return value if isinstance(value, str) else ""
