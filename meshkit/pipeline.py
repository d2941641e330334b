"""The onion: one shape of handler and middleware for all four arities, on the serving and on the calling side.

A handler is a coroutine that runs for the whole life of a call. Messages pass through the `Exchange`: a handler takes
the caller's with `request` or `receive`, and gives its own with `send`. So a middleware is plain code around `await`:

    def timed(next: Handler) -> Handler:
        async def handle(exchange: Exchange) -> None:
            start = time.monotonic()
            try:
                await next(exchange)
            finally:
                exchange.call.log.info("served", seconds=time.monotonic() - start)

        return handle

To see or change messages it replaces `exchange.send` or `exchange.receive` by functions of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from meshkit.call import Call, Principal

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor

    from meshkit.errors import MeshError


class End(Enum):
    """The end of a stream of messages."""

    END = "end"


END: Final = End.END
"""What `Exchange.receive` returns after the last message."""


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC method, as its contract states it.

    Attributes:
        path: `/package.Service/Method`, as on the wire.
        streams_requests: Whether the caller sends a stream.
        streams_replies: Whether the service answers with a stream.
        idempotent: Whether it may safely run twice (`idempotency_level` of the proto).
        deadline: Seconds that a call may take where nobody says otherwise (`meshkit.v1.deadline_ms`); None leaves the
            default.
    """

    path: str
    streams_requests: bool = False
    streams_replies: bool = False
    idempotent: bool = False
    deadline: float | None = None

    @property
    def name(self) -> str:
        """The method's own name."""
        return self.path.rpartition("/")[2]

    @property
    def arity(self) -> str:
        """`unary_unary`, `unary_stream`, `stream_unary` or `stream_stream`."""
        requests = "stream" if self.streams_requests else "unary"
        return f"{requests}_{'stream' if self.streams_replies else 'unary'}"

    @classmethod
    def of(cls, descriptor: MethodDescriptor) -> Method:
        """The method that a protobuf descriptor describes."""
        from google.protobuf.descriptor_pb2 import MethodOptions

        from meshkit._gen.meshkit.v1 import options_pb2

        options = descriptor.GetOptions()
        milliseconds = options.Extensions[options_pb2.deadline_ms]
        return cls(
            path=f"/{descriptor.containing_service.full_name}/{descriptor.name}",
            streams_requests=descriptor.client_streaming,
            streams_replies=descriptor.server_streaming,
            idempotent=options.idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN,
            deadline=milliseconds / 1000 if milliseconds else None,
        )


def always() -> bool:
    """True."""
    return True


@dataclass(slots=True, eq=False)
class Exchange:
    """One call under way: its facts, and the way for messages in and out.

    Attributes:
        method: The method called.
        call: Facts of the call. On the way in, the layers replace it as they learn more.
        receive: Awaits the next message of the caller's stream, or `END`.
        send: Awaits until a message for the caller is on its way. A call with one reply sends once.
        request: The message of a call with one request: bytes until decoded, None until it was read.
        headers: The request's metadata, keys in lower case, one value each: bytes under keys that end in `-bin`, text
            under others, those of the mesh among them.
        trailers: Metadata sent back at the end.
        context: The transport's own object for the call. Nothing but `interceptors` looks at it.
        begun: On the way in, whether the service's own code has begun.
        bearers: On the way in, whose tokens it falls with: the caller's, its subject's, those of all who act between.
        verdict: On the way in, what the transport has the caller told: that the metadata are malformed; or that the
            instance ends the call, whose task is cancelled then.

    On the calling side only:
        permissions: Rights that the token for the call claims.
        token: The token of the attempt under way.
        endpoint: What was picked for the attempt under way.
        tried: Ids of the instances that attempts went to.
        failed: Attempts that failed and were followed by another: when, in nanoseconds of Unix time, and how.
        first_reply: When the first reply came, on the clock of `time.monotonic`; None until then. From then on no
            other attempt is made.
        rewind: Makes `receive` begin again with the first request; False where that cannot be.
        settle: Says that this will not be asked for any more.
        own_failure: What the caller's own stream of requests failed with, which is no fault of the other side.
        cancel: Ends the attempt under way; what awaits it is raised a cancellation.
        policy: Name of the balancing policy for this call; empty leaves the client's.
        first_message_timeout: Seconds for the first message of a stream of replies; None leaves the client's.
        idle_timeout: Seconds between two such messages; None leaves the client's.
    """

    method: Method
    call: Call
    receive: Callable[[], Awaitable[Any]]
    send: Callable[[Any], Awaitable[None]]
    request: Any = field(default=None, repr=False)
    headers: dict[str, Any] = field(default_factory=dict, repr=False)
    trailers: dict[str, str | bytes] = field(default_factory=dict)
    context: Any = field(default=None, repr=False)
    begun: bool = False
    bearers: tuple[Principal, ...] = ()
    verdict: MeshError | None = None
    permissions: tuple[str, ...] = ("*",)
    token: Any = field(default=None, repr=False)
    endpoint: Any = None
    tried: set[str] = field(default_factory=set)
    failed: tuple[tuple[int, BaseException], ...] = ()
    first_reply: float | None = None
    rewind: Callable[[], bool] = always
    settle: Callable[[], object] = always
    own_failure: BaseException | None = None
    cancel: Callable[[], object] = always
    policy: str = ""
    first_message_timeout: float | None = None
    idle_timeout: float | None = None

    def ended(self) -> MeshError | None:
        """What to raise in the place of a cancellation of its task, where only the verdict cancelled it; else None."""
        task = asyncio.current_task()
        if self.verdict is None or task is None or task.cancelling() != 1:
            return None
        task.uncancel()
        return self.verdict


Handler = Callable[[Exchange], Awaitable[None]]
"""Serves, or makes, one call; returns when the call is over, raises when it failed."""

Middleware = Callable[[Handler], Handler]
"""Wraps a handler in a layer."""


class StatusSent(BaseException):
    """Ends a call whose caller has its status already, sent by somebody else; it passes by the error boundary.

    Args:
        code: See `code`.

    Attributes:
        code: Name of the gRPC status code.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def compose(layers: Iterable[Middleware], handler: Handler) -> Handler:
    """Wraps the handler in the layers, the first of which becomes the outermost."""
    for layer in reversed(tuple(layers)):
        handler = layer(handler)
    return handler


async def requests_of(exchange: Exchange) -> AsyncIterator[Any]:
    """The caller's stream of requests."""
    while (message := await exchange.receive()) is not END:
        yield message
