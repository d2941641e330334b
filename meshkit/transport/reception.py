"""From a gRPC call to an exchange that runs through an onion, and back to a gRPC status.

Every method is served by one coroutine that reads its messages itself. So the layers that look at headers only refuse
a call before its message was read, whatever the method's arity.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from grpc.aio import EOF, ServicerContext

from meshkit import metadata
from meshkit.call import BLANK, Deadline, Trace
from meshkit.errors import DeadlineExceeded, Internal, InvalidArgument, MeshError
from meshkit.pipeline import END, Exchange, Handler, Method
from meshkit.transport.status import code_of, text_of, trailers_of

Context = ServicerContext[Any, Any]


BREAK_OFF_S = 0.005
"""Seconds for which the end of a stream of requests is not believed."""


Metadata = Sequence[tuple[str, str | bytes]]
"""What came with a call, as gRPC gives it."""

Serving = Callable[[Metadata], Any]
"""Makes what gRPC takes for the handler of a method, for one call, given the call's metadata."""


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

    def serving(self, method: Method, handler: Handler) -> Serving:
        """What serves a method.

        Args:
            method: The method.
            handler: Its onion, which takes and gives serialized messages.
        """
        return partial(_Streaming if method.streams_replies else _Single, self, method, handler)


class _Served:
    """One call, in the form of a `grpc.RpcMethodHandler`.

    There is one for each call, made with the call's metadata: gRPC has decoded them to look for the handler, and would
    do so once more for one that asks its context for them.
    """

    request_streaming = True
    response_streaming = False
    request_deserializer = None
    response_serializer = None

    def __init__(self, reception: Reception, method: Method, handler: Handler, pairs: Metadata) -> None:
        self._reception = reception
        self._method = method
        self._handler = handler
        self._pairs = pairs

    async def _serve(self, context: Context, send: Callable[[Any], Awaitable[None]]) -> None:
        reception = self._reception
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        reception.tasks.add(task)
        reception.newest = loop.time()
        try:
            exchange = self._exchange(context, send)
            await self._handler(exchange)
            context.set_trailing_metadata(
                ((metadata.INSTANCE, reception.instance_id), *exchange.trailers.items())
            )
        except MeshError as error:
            await self._abort(context, error)
        finally:
            reception.tasks.discard(task)

    def _exchange(self, context: Context, send: Callable[[Any], Awaitable[None]]) -> Exchange:
        headers = _single_valued(self._pairs)
        remaining = context.time_remaining()
        deadline = Deadline() if remaining is None else Deadline.after(remaining)
        method, text = self._method, headers.get
        call = BLANK.having(
            service=self._reception.service,
            instance_id=self._reception.instance_id,
            method=method.path,
            deadline=deadline,
            peer=context.peer(),
            metadata={key: headers[key] for key in headers if key not in metadata.REQUEST_KEYS},
            trace=Trace.parse(
                text(metadata.TRACEPARENT, ""), text(metadata.TRACESTATE, ""), text(metadata.BAGGAGE, "")
            ),
        )
        receive = _reader(context, deadline) if method.streams_requests else _message(context)
        return Exchange(method, call, receive=receive, send=send, headers=headers, context=context)

    async def _abort(self, context: Context, error: MeshError) -> None:
        trailers = ((metadata.INSTANCE, self._reception.instance_id), *trailers_of(error))
        await context.abort(code_of(error), text_of(error), trailers)


class _Single(_Served):
    """A call with one reply."""

    async def stream_unary(self, _requests: Any, context: Context) -> bytes:
        """Serves it; the reply."""
        replies: list[bytes] = []

        async def send(message: bytes) -> None:
            replies.append(message)

        await self._serve(context, send)
        if len(replies) != 1:
            await self._abort(
                context, Internal(f"{self._method.path} gave {len(replies)} replies instead of one")
            )
        return replies[0]


class _Streaming(_Served):
    """A call with a stream of replies."""

    response_streaming = True

    async def stream_stream(self, _requests: Any, context: Context) -> None:
        """Serves it."""
        await self._serve(context, context.write)


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


def _single_valued(pairs: Metadata) -> dict[str, Any]:
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
