"""From a gRPC call to an exchange that runs through an onion, and back to a gRPC status.

Every method is served by one coroutine that reads its messages itself. So the layers that look at headers only refuse
a call before its message was read, whatever the method's arity.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from grpc.aio import EOF, ServicerContext

from meshkit import metadata
from meshkit.call import Call, Deadline, Trace
from meshkit.errors import Internal, InvalidArgument, MeshError, Unavailable
from meshkit.pipeline import END, Exchange, Handler, Method
from meshkit.transport.half_close import Headers, reading
from meshkit.transport.peer import ConnectedPeer
from meshkit.transport.status import code_of, text_of, trailers_of

Context = ServicerContext[Any, Any]

Metadata = Sequence[tuple[str, str | bytes]]
"""What came with a call, as gRPC gives it."""

Serving = Callable[[Metadata], Any]
"""Makes what gRPC takes for the handler of a method, for one call, given the call's metadata."""


class Reception:
    """Takes the calls of one instance of a service, and knows which are under way.

    Args:
        service: Name of the service.
        instance_id: Id of the instance; each answer names it.
        own_headers: Whether handlers may send headers of their own.
        draining: Set when calls under way should come to an end; each call carries it.

    Attributes:
        answered: The trailer that names the instance.
        tasks: The calls under way, each by the task that serves it.
        newest: When the latest of them came, on the clock of the event loop.
    """

    def __init__(
        self,
        service: str,
        instance_id: str,
        *,
        own_headers: bool = False,
        draining: asyncio.Event | None = None,
    ) -> None:
        self.service = service
        self.instance_id = instance_id
        self.answered = (metadata.INSTANCE, instance_id)
        self.own_headers = own_headers
        self.draining = draining or asyncio.Event()
        self.tasks: dict[asyncio.Task[Any], Exchange] = {}
        self.newest = float("-inf")

    def serving(self, method: Method, handler: Handler) -> Serving:
        """What serves a method.

        Args:
            method: The method.
            handler: Its onion, which takes and gives serialized messages.
        """
        kind = _Streaming if method.streams_replies else _Single
        return lambda pairs: kind(self, method, handler, pairs)

    def end(self, *, streams_only: bool) -> None:
        """Ends calls under way: their handlers are cancelled, their callers told to call elsewhere.

        Args:
            streams_only: Leave those that have one request and one reply.
        """
        for task, exchange in self.tasks.items():
            method = exchange.method
            if exchange.verdict is None and (
                not streams_only or method.streams_requests or method.streams_replies
            ):
                exchange.verdict = _leaving(exchange)
                task.cancel()


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
        peer = ConnectedPeer(context)
        headers = Headers(context) if self._method.streams_requests else None
        exchange = self._exchange(context, send, peer, headers)
        reception.tasks[task] = exchange
        reception.newest = loop.time()
        try:
            try:
                await self._handler(exchange)
            finally:
                if headers is not None:
                    await headers.settled()
            context.set_trailing_metadata((reception.answered, *exchange.trailers.items()))
        except MeshError as error:
            await self._abort(context, error)
        except asyncio.CancelledError:
            if (verdict := exchange.ended()) is None:
                raise
            await self._abort(context, verdict)
        finally:
            peer.release()
            del reception.tasks[task]

    def _exchange(
        self,
        context: Context,
        send: Callable[[Any], Awaitable[None]],
        peer: ConnectedPeer,
        answer: Headers | None,
    ) -> Exchange:
        headers: dict[str, Any] = dict(self._pairs)
        remaining = context.time_remaining()
        deadline = Deadline() if remaining is None else Deadline.after(remaining)
        reception, method = self._reception, self._method
        call = Call.of(
            service=reception.service,
            instance_id=reception.instance_id,
            method=method.path,
            deadline=deadline,
            draining=reception.draining,
            peer=peer,
            metadata={key: headers[key] for key in headers if key not in metadata.REQUEST_KEYS},
            trace=_trace(headers),
        )
        if answer is None:
            receive = _message(context)
        else:
            receive = reading(context, deadline, answer, own_headers=reception.own_headers)
            send = answer.reply if method.streams_replies else send
        exchange = Exchange(method, call, receive, send, None, headers, {}, context)
        if len(headers) < len(self._pairs):
            exchange.verdict = _repeated(self._pairs)
        return exchange

    async def _abort(self, context: Context, error: MeshError) -> None:
        await context.abort(code_of(error), text_of(error), (self._reception.answered, *trailers_of(error)))


class _Single(_Served):
    """A call with one reply."""

    _replies: list[bytes]

    async def stream_unary(self, _requests: Any, context: Context) -> bytes:
        """Serves it; the reply."""
        replies = self._replies = []
        await self._serve(context, self._keep)
        if len(replies) != 1:
            await self._abort(
                context, Internal(f"{self._method.path} gave {len(replies)} replies instead of one")
            )
        return replies[0]

    async def _keep(self, reply: bytes) -> None:
        self._replies.append(reply)


class _Streaming(_Served):
    """A call with a stream of replies."""

    response_streaming = True

    async def stream_stream(self, _requests: Any, context: Context) -> None:
        """Serves it."""
        await self._serve(context, context.write)


def _leaving(exchange: Exchange) -> MeshError:
    """What a caller is told whose call did not end in time."""
    error = Unavailable("the instance stops, and ends what is under way: call again", reason="DRAINING")
    error.unprocessed = not exchange.begun
    return error


def _trace(headers: Mapping[str, Any]) -> Trace:
    parent = headers.get(metadata.TRACEPARENT)
    if not parent:
        return Trace.start()
    return Trace.parse(parent, headers.get(metadata.TRACESTATE, ""), headers.get(metadata.BAGGAGE, ""))


def _message(context: Context) -> Callable[[], Awaitable[Any]]:
    """Reads the one message of a call."""

    async def receive() -> Any:
        message = await context.read()
        return END if message is EOF else message

    return receive


def _repeated(pairs: Metadata) -> MeshError | None:
    """The refusal of a call in which a key of ours comes twice. Of others the last value counts."""
    for key, values in Counter(key for key, _ in pairs).items():
        if values > 1 and key in metadata.REQUEST_KEYS:
            return InvalidArgument(f"the metadata key {key} comes twice", reason="METADATA_DUPLICATE")
    return None
