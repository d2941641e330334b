"""A channel that somebody else keeps, with calls that are signed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from meshkit.balancing.attempting import attempt
from meshkit.balancing.endpoint import Endpoint
from meshkit.config import SharedConfig
from meshkit.instance import Instance
from meshkit.mesh import shielded_of
from meshkit.pipeline import Exchange, Handler, compose
from meshkit.security.assembly import realm_of, tokens_of
from meshkit.security.signing import presenting, signing
from meshkit.transport.caller import Caller
from meshkit.transport.calls import (
    MeshCall,
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
    UnaryUnaryCall,
)
from meshkit.transport.channel import MeshChannel
from meshkit.transport.link import Attempts

if TYPE_CHECKING:
    from meshkit.shielded import Shielded


def sign(
    channel: grpc.aio.Channel,
    service: str,
    *,
    config: SharedConfig | None = None,
    name: str = "",
    permissions: Sequence[str] = ("*",),
) -> MeshChannel:
    """Wraps a channel in one whose calls carry token and proof.

    Closing it does not close the channel; it ends the connection to Shield, where there is one.

    Args:
        channel: The channel.
        service: Name of the service at its other end.
        config: Settings; by default they are read from the environment.
        name: Name under which calls are made; `SERVICE_NAME` by default.
        permissions: Rights that calls claim.

    Raises:
        ConfigError: The settings are wrong.
    """
    settings = config or SharedConfig.load()
    shielded = shielded_of(settings, name)
    tokens = tokens_of(settings, name) if shielded is None else shielded.tokens
    link = _OneChannel(channel)
    unknown = Endpoint(Instance(service=service, instance_id="unknown:1", address="unknown:1"), link)

    def picked(next: Handler) -> Handler:
        async def handle(exchange: Exchange) -> None:
            exchange.endpoint = unknown
            await next(exchange)

        return handle

    caller = Caller(
        service,
        compose((presenting(tokens), picked, signing()), attempt),
        tenant=settings.tenant,
        timeout=settings.default_timeout_s,
        permissions=tuple(permissions),
        realm=realm_of(settings),
    )
    signed = _Signed(caller, link)
    signed.shielded = shielded
    return signed


class _OneChannel(Attempts):
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


class _Signed(MeshChannel):
    """A channel over the one that was wrapped."""

    shielded: Shielded | None = None

    async def close(self, grace: float | None = None) -> None:
        """Ends what it holds itself."""
        await super().close(grace)
        if self.shielded is not None:
            await self.shielded.close()

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
