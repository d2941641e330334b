"""`mesh.channel(service)`: a `grpc.aio.Channel` whose calls go through the mesh, so that any generated stub works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

import grpc
from grpc.aio import Channel

from meshkit.errors import MeshError
from meshkit.pipeline import Method
from meshkit.transport.caller import NOTHING_SAID, Caller, Said
from meshkit.transport.calls import (
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
    UnaryUnaryCall,
)
from meshkit.transport.flow import Flow
from meshkit.transport.link import rpc_error
from meshkit.transport.requests import Requests

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor

Serializer = Callable[[Any], bytes]
Deserializer = Callable[[bytes], Any]


class Readiness(Protocol):
    """What a channel needs to know of the endpoints behind it."""

    def any_ready(self) -> bool:
        """Whether a call made now would be sent at once."""
        ...

    async def changed(self) -> None:
        """Waits until that may be different."""
        ...


class MeshChannel(Channel):
    """A channel to all instances of one service. It shares its connections with the mesh: closing it ends none.

    A call is sent when it is made if an instance is connected by then; else when it is awaited, read from or asked for
    its status. A call that nobody holds any more is given up.

    Args:
        caller: Makes its calls.
        readiness: What `get_state` and `channel_ready` go by.
    """

    def __init__(self, caller: Caller, readiness: Readiness) -> None:
        self._caller = caller
        self._readiness = readiness
        self._closed = False
        self._calls: WeakSet[Any] = WeakSet()
        self._shut = asyncio.Event()

    async def __aenter__(self) -> MeshChannel:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Takes no more calls, and cancels those under way after `grace` seconds."""
        self._closed = True
        self._shut.set()
        under_way = [call for call in list(self._calls) if not call.done()]
        if under_way and grace:
            await asyncio.wait([call.ended() for call in under_way], timeout=grace)
        for call in under_way:
            call.cancel()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """READY while an instance is connected and serving, else CONNECTING."""
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        ready = self._readiness.any_ready()
        return grpc.ChannelConnectivity.READY if ready else grpc.ChannelConnectivity.CONNECTING

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits until the state is another."""
        while self.get_state() is last_observed_state:
            await self._change()

    async def channel_ready(self) -> None:
        """Waits until an instance is connected and serving.

        Raises:
            grpc.aio.UsageError: The channel is closed.
        """
        while (state := self.get_state()) is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.SHUTDOWN:
                raise grpc.aio.UsageError("the channel is closed")
            await self._change()

    async def _change(self) -> None:
        """Waits until the state may be another."""
        waits = {asyncio.ensure_future(self._readiness.changed()), asyncio.ensure_future(self._shut.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Makes a callable for a method with one request and one reply."""
        return self._callable(method, False, False, request_serializer, response_deserializer, UnaryUnaryCall)

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Makes a callable for a method with one request and a stream of replies."""
        return self._callable(method, False, True, request_serializer, response_deserializer, UnaryStreamCall)

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Makes a callable for a method with a stream of requests and one reply."""
        return self._callable(method, True, False, request_serializer, response_deserializer, StreamUnaryCall)

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Makes a callable for a method with streams both ways."""
        return self._callable(method, True, True, request_serializer, response_deserializer, StreamStreamCall)

    def _callable(
        self,
        path: str,
        streams_requests: bool,
        streams_replies: bool,
        serialize: Serializer | None,
        deserialize: Deserializer | None,
        kind: Callable[..., Any],
    ) -> Callable[..., Any]:
        method = described(path) or Method(path, streams_requests, streams_replies)
        to_bytes, from_bytes = serialize or _same, deserialize or _same

        def call(
            request: Any = None,
            timeout: float | None = None,
            metadata: Any = None,
            credentials: grpc.CallCredentials | None = None,
            wait_for_ready: bool | None = None,
            compression: grpc.Compression | None = None,
            request_iterator: AsyncIterable[Any] | Iterable[Any] | None = None,
        ) -> Any:
            if self._closed:
                raise grpc.aio.UsageError("the channel is closed")
            if credentials is not None or compression is not None:
                raise grpc.aio.UsageError("a mesh channel sets credentials and compression itself")
            source = request_iterator if request_iterator is not None else request
            requests = Requests(source, to_bytes) if streams_requests else None
            try:
                exchange = self._caller.exchange(
                    method,
                    _said(timeout, metadata),
                    None if streams_requests else to_bytes(request),
                    requests,
                )
            except MeshError as error:
                if requests is not None:
                    requests.close()
                raise rpc_error(error) from None
            release = None if requests is None else requests.close
            flow = Flow(self._caller.handler, exchange, release, one_reply=not streams_replies)
            made = kind(flow, from_bytes, requests)
            self._calls.add(made)
            return made

        return call


def _same(message: Any) -> Any:
    return message


def _said(timeout: float | None, pairs: Any) -> Said:
    if not pairs and timeout is None:
        return NOTHING_SAID
    return Said.of(timeout, "", "", pairs or ())


def described(path: str) -> Method | None:
    """What the contract says of a method, if a contract of that name is loaded in this process."""
    from google.protobuf.descriptor_pool import Default

    service, _, name = path.removeprefix("/").rpartition("/")
    try:
        descriptor: MethodDescriptor = Default().FindMethodByName(f"{service}.{name}")
    except KeyError:
        return None
    return Method.of(descriptor)
