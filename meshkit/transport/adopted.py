"""A channel that somebody else keeps, and calls over it: what is the server's own passes through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from meshkit.pipeline import Exchange
from meshkit.transport.calls import (
    MeshCall,
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
    UnaryUnaryCall,
)
from meshkit.transport.channel import MeshChannel
from meshkit.transport.link import Attempts


class OneChannel(Attempts):
    """A channel that somebody else keeps."""

    trouble = ""
    degraded = False

    def _begin(self, exchange: Exchange) -> Any:
        call = exchange.context = super()._begin(exchange)
        return call

    def any_ready(self) -> bool:
        """Whether a call made now would be sent at once."""
        return self.ready

    @property
    def ready(self) -> bool:
        """Whether it is connected."""
        return self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    async def changed(self) -> None:
        """Waits until that may be different."""
        await self._channel.wait_for_state_change(self._channel.get_state(try_to_connect=True))

    async def ping(self, timeout: float) -> bool:
        """Whether it is connected."""
        return self.ready

    async def close(self, grace: float) -> None:
        """Leaves the channel to whom it belongs."""


class _Forthcoming(MeshCall):
    """A call whose initial metadata, which services of the mesh do not send, are the server's own."""

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """What the server sent ahead of its replies; empty where the call never reached it."""
        call = self._flow.exchange.context
        sent = None if call is None else await call.initial_metadata()
        return grpc.aio.Metadata() if sent is None else sent


class _UnaryUnary(_Forthcoming, UnaryUnaryCall):
    """One request, one reply."""


class _UnaryStream(_Forthcoming, UnaryStreamCall):
    """One request, a stream of replies."""


class _StreamUnary(_Forthcoming, StreamUnaryCall):
    """A stream of requests, one reply."""


class _StreamStream(_Forthcoming, StreamStreamCall):
    """Streams both ways."""


_KINDS: dict[Any, type[_Forthcoming]] = {
    UnaryUnaryCall: _UnaryUnary,
    UnaryStreamCall: _UnaryStream,
    StreamUnaryCall: _StreamUnary,
    StreamStreamCall: _StreamStream,
}


class AdoptedChannel(MeshChannel):
    """A channel over the one that was wrapped."""

    def _callable(
        self,
        path: str,
        streams_requests: bool,
        streams_replies: bool,
        serialize: Any,
        deserialize: Any,
        kind: Callable[..., Any],
    ) -> Callable[..., Any]:
        kind = _KINDS[kind]
        return super()._callable(path, streams_requests, streams_replies, serialize, deserialize, kind)
