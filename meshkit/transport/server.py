"""The serving side of gRPC: methods with their onions behind a port.

Every method is served by one coroutine that reads its messages itself. So the layers that look at headers only refuse
a call before its message was read, whatever the method's arity.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import grpc
from grpc.aio import EOF, ServicerContext

from meshkit import metadata
from meshkit.call import BLANK, Deadline, Trace
from meshkit.errors import Internal, InvalidArgument, MeshError
from meshkit.pipeline import END, Exchange, Handler, Method
from meshkit.transport.options import server_options
from meshkit.transport.status import code_of, text_of, trailers_of

Context = ServicerContext[Any, Any]

QUIET_S = 0.1
"""Seconds without a new call after which a stopping server takes it that its callers have heard."""


class PortTaken(Exception):
    """The address cannot be listened on."""


class Server:
    """A gRPC server for one instance of a service.

    Args:
        service: Name of the service.
        instance_id: Id of the instance; each answer names it.
        max_message_bytes: Largest message taken or sent, in bytes.
    """

    def __init__(self, service: str, instance_id: str, *, max_message_bytes: int) -> None:
        self.service = service
        self.instance_id = instance_id
        self.grpc = grpc.aio.server(options=server_options(max_message_bytes))
        self._tasks: set[asyncio.Task[Any]] = set()
        self._newest = float("-inf")
        self._started = False

    def add(self, contract: str, methods: Mapping[Method, Handler]) -> None:
        """Serves the methods of a contract.

        Args:
            contract: Full protobuf name of the gRPC service.
            methods: Each method with its onion, which takes and gives serialized messages.
        """
        handlers = {method.name: self._handler(method, handler) for method, handler in methods.items()}
        self.grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(contract, handlers),))
        self.grpc.add_registered_method_handlers(contract, handlers)

    def bind(self, host: str, port: int) -> int:
        """Takes a port.

        Returns:
            The port; the one that the system chose where 0 was asked for.

        Raises:
            PortTaken: It cannot be had.
        """
        shown = f"[{host}]" if ":" in host else host
        try:
            bound = self.grpc.add_insecure_port(f"{shown}:{port}")
        except RuntimeError as error:
            raise PortTaken(f"{shown}:{port} cannot be listened on: {_last_cause(error)}") from None
        if not bound:
            raise PortTaken(f"{shown}:{port} cannot be listened on")
        return bound

    async def start(self) -> None:
        """Begins to take calls."""
        self._started = True
        await self.grpc.start()

    @property
    def calls(self) -> int:
        """How many calls are being served."""
        return len(self._tasks)

    async def stop(self, grace: float) -> None:
        """Lets calls under way end, takes no more, and ends what is left after `grace` seconds.

        Callers who have not heard of the stop yet are still answered meanwhile, with the refusal of the onion, which
        proves that their call may be tried elsewhere. gRPC's own answer, once it stops, is a bare CANCELLED.
        """
        if (
            not self._started
        ):  # gRPC gives up a port that it bound only when it stops, and stops only what started
            await self.start()
        loop = asyncio.get_running_loop()
        end = loop.time() + grace
        if grace > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._quiet()
        await self.grpc.stop(max(end - loop.time(), 0.0))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)

    async def _quiet(self) -> None:
        """Waits until no call is under way, and none has come for a moment: some may be on the wire."""
        loop = asyncio.get_running_loop()
        while self._tasks or self._newest + QUIET_S > loop.time():
            if self._tasks:
                await asyncio.wait(set(self._tasks))
            else:
                await asyncio.sleep(self._newest + QUIET_S - loop.time())

    def _handler(self, method: Method, handler: Handler) -> grpc.RpcMethodHandler[Any, Any]:
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
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._newest = asyncio.get_running_loop().time()
        try:
            exchange = self._exchange(method, context, send)
            await handler(exchange)
            context.set_trailing_metadata(((metadata.INSTANCE, self.instance_id), *exchange.trailers.items()))
        except MeshError as error:
            await self._abort(context, error)
        finally:
            self._tasks.discard(task)

    def _exchange(self, method: Method, context: Context, send: Callable[[Any], Awaitable[None]]) -> Exchange:
        headers = _single_valued(context.invocation_metadata() or ())
        remaining = context.time_remaining()
        call = BLANK.having(
            service=self.service,
            instance_id=self.instance_id,
            method=method.path,
            deadline=Deadline() if remaining is None else Deadline.after(remaining),
            peer=context.peer(),
            metadata={key: value for key, value in headers.items() if key not in metadata.REQUEST_KEYS},
            trace=Trace.parse(
                _text(headers, metadata.TRACEPARENT),
                _text(headers, metadata.TRACESTATE),
                _text(headers, metadata.BAGGAGE),
            ),
        )
        return Exchange(method, call, receive=_reader(context), send=send, headers=headers)

    async def _abort(self, context: Context, error: MeshError) -> None:
        trailers = ((metadata.INSTANCE, self.instance_id), *trailers_of(error))
        await context.abort(code_of(error), text_of(error), trailers)


def _reader(context: Context) -> Callable[[], Awaitable[Any]]:
    async def receive() -> Any:
        message = await context.read()
        return END if message is EOF else message

    return receive


def _single_valued(pairs: Iterable[tuple[str, str | bytes]]) -> dict[str, str | bytes]:
    """The metadata by key. A key of ours that comes twice is refused; of others the last value counts.

    Raises:
        InvalidArgument: A key of the mesh comes twice.
    """
    headers: dict[str, str | bytes] = {}
    for key, value in pairs:
        if key in headers and key in metadata.REQUEST_KEYS:
            raise InvalidArgument(f"the metadata key {key} comes twice", reason="METADATA_DUPLICATE")
        headers[key] = value
    return headers


def _text(headers: Mapping[str, str | bytes], key: str) -> str:
    value = headers.get(key, "")
    return value if isinstance(value, str) else ""


def _last_cause(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else "the system refused"
