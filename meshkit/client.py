"""What the typed clients made by `meshkit gen` stand on.

A generated `GreeterClient` is a `Client` with a method for each RPC. It holds no connection: it hands every
call to an `Invoker`, which is the mesh in a running program and anything that speaks the protocol in a test.
Nothing here imports grpc.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Coroutine, Mapping, MutableMapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypedDict, TypeVar

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message

T_co = TypeVar("T_co", covariant=True)


class CallOptions(TypedDict, total=False):
    """What a caller may say of one call; the rest comes from `mesh.scope`, the current call and the settings.

    Attributes:
        tenant: The tenant on whose behalf the call is made.
        timeout: Seconds until the call ends with `DeadlineExceeded`.
        criticality: How late the call is shed by an overloaded instance.
        policy: Name of the balancing policy that chooses the instance, instead of the client's.
        first_message_timeout: Seconds that an instance has for the first message of a stream of replies, instead of the
            client's; by default as long as `idle_timeout`, and without that, as long as the deadline.
        idle_timeout: Seconds that a stream of replies may pause, or take to its end, instead of the client's.
        metadata: Additional request metadata; keys are lower-case ASCII.
        trailers: A mapping that the reply's trailing metadata is put into; `x-cu-instance` in it says who answered.
    """

    tenant: str
    timeout: float
    criticality: Literal["critical", "default", "sheddable"]
    policy: str
    first_message_timeout: float
    idle_timeout: float
    metadata: Mapping[str, str | bytes]
    trailers: MutableMapping[str, str]


class ResponseStream(Protocol[T_co]):
    """The responses of one call, in order: `async for` over it.

    Inside `async with` the call is cancelled when the block is left before the end of the stream.
    """

    @property
    def instance(self) -> str | None:
        """Id of the instance that answers, once it is known."""
        ...

    def __aiter__(self) -> AsyncIterator[T_co]: ...

    def __anext__(self) -> Awaitable[T_co]: ...

    async def __aenter__(self) -> ResponseStream[T_co]: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


class Invoker(Protocol):
    """Carries calls to a service. Messages in and out are of the types that the method's descriptor names."""

    def unary_unary(
        self, method: MethodDescriptor, request: Message, options: CallOptions
    ) -> Coroutine[Any, Any, Any]:
        """Send one request, answer with one response."""
        ...

    def unary_stream(
        self, method: MethodDescriptor, request: Message, options: CallOptions
    ) -> ResponseStream[Any]:
        """Send one request, answer with a stream."""
        ...

    def stream_unary(
        self, method: MethodDescriptor, requests: AsyncIterable[Message], options: CallOptions
    ) -> Coroutine[Any, Any, Any]:
        """Send a stream, answer with one response."""
        ...

    def stream_stream(
        self, method: MethodDescriptor, requests: AsyncIterable[Message], options: CallOptions
    ) -> ResponseStream[Any]:
        """Send a stream, answer with a stream."""
        ...


class Client:
    """Base of the generated clients.

    The methods of a subclass return the invoker's own coroutine or stream: no wrapper, no task of their own.

    Args:
        invoker: What carries the calls; `mesh.client(GreeterClient)` supplies it.
    """

    contract: ClassVar[ServiceDescriptor]
    """The service that this is a client of."""

    _methods: ClassVar[dict[str, MethodDescriptor]]

    __slots__ = ("_invoker",)

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        if "contract" in cls.__dict__:
            cls._methods = {method.name: method for method in cls.contract.methods}

    def __init__(self, invoker: Invoker) -> None:
        self._invoker = invoker

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.contract.full_name}>"

    def _unary_unary(self, rpc: str, request: Message, options: CallOptions) -> Coroutine[Any, Any, Any]:
        return self._invoker.unary_unary(self._methods[rpc], request, options)

    def _unary_stream(self, rpc: str, request: Message, options: CallOptions) -> ResponseStream[Any]:
        return self._invoker.unary_stream(self._methods[rpc], request, options)

    def _stream_unary(
        self, rpc: str, requests: AsyncIterable[Message], options: CallOptions
    ) -> Coroutine[Any, Any, Any]:
        return self._invoker.stream_unary(self._methods[rpc], requests, options)

    def _stream_stream(
        self, rpc: str, requests: AsyncIterable[Message], options: CallOptions
    ) -> ResponseStream[Any]:
        return self._invoker.stream_stream(self._methods[rpc], requests, options)
