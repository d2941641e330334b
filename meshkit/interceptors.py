"""The mesh's checks for gRPC that is not the mesh's: an existing grpc.aio server, an existing channel.

A server keeps its servicers and its port; an interceptor lets in only calls that carry a token and a proof:

    guard = MeshInterceptor("orders", demands={"/orders.v1.OrderService/Place": Demand("orders:place")})
    server = grpc.aio.server(interceptors=[guard])

A client keeps its channel and its stubs; the channel is wrapped in one that signs:

    channel = sign(grpc.aio.insecure_channel("orders:50051"), "orders")
    stub = OrderServiceStub(channel)

`Demand(…, peers=frozenset({"router"}))` lets in the peers of these names only, where the server asks for client
certificates of the mesh.

What is revoked in Redis and by Shield counts as it does for services, from the first call, or from `await
guard.start()`; `await guard.close()` when the server has stopped.

Calls have their lines in the log, figures and spans by the settings that services have; a process with several of these
has one set-up of OpenTelemetry with `sign(…, telemetry=guard.telemetry)`.

Neither takes part in discovery, balancing or retries; how many calls the server takes, and how it stops, stays its own
affair. Calls are signed for any instance (`x-cu-to: -`), so a server
that wants them to be for itself alone has to become a `CUService`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import grpc

from meshkit.balancing.attempting import attempt
from meshkit.balancing.endpoint import Endpoint
from meshkit.call import Call, current_scope
from meshkit.errors import PermissionDenied
from meshkit.inbound import of_observer, of_this_process
from meshkit.instance import SERVICE_NAME, Instance, new_instance_id
from meshkit.mesh import shielded_of
from meshkit.outbound import of_calls
from meshkit.pipeline import Exchange, Handler, Method, Middleware, compose
from meshkit.redis.tasks import end
from meshkit.security.assembly import guard_of, realm_of, tokens_of
from meshkit.security.ending import ending
from meshkit.security.guard import Demand
from meshkit.security.peers import only_peers
from meshkit.security.rights import is_demand
from meshkit.security.shared import shared_of
from meshkit.security.signing import presenting, signing
from meshkit.serving import aging, deadline, error_boundary, processing
from meshkit.telemetry.access import AccessLog
from meshkit.telemetry.calls import Calls
from meshkit.telemetry.extra import open_telemetry
from meshkit.telemetry.figures import Family, merged
from meshkit.telemetry.observing import Observer, calling
from meshkit.telemetry.page import MetricsPage
from meshkit.transport.adopted import AdoptedChannel, OneChannel
from meshkit.transport.caller import Caller
from meshkit.transport.channel import described
from meshkit.transport.codec import transcoding
from meshkit.transport.reception import Reception, Serving
from meshkit.transport.servicer import leaving_it_to_grpc, servicing, telling

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.telemetry.otlp import OpenTelemetry

__all__ = ["Demand", "MeshInterceptor", "current_call", "sign"]

OPEN = ("/grpc.health.v1.", "/grpc.reflection.")
"""How the paths begin of methods that are left open."""

_PATH = re.compile(r"/[\w.]+/\w+")


def current_call() -> Call | None:
    """The call that is being served: who calls, for which tenant. For servicers, whose methods get no `Call`."""
    return current_scope().call


class MeshInterceptor(grpc.aio.ServerInterceptor):
    """Lets in calls that a service of the mesh would let in; the servicers stay as they are.

    Args:
        service: Name of the service: the audience of its callers' tokens.
        demands: What each method asks of its callers, by path. A method that is not named is refused.
        config: Settings; by default they are read from the environment.

    Attributes:
        telemetry: What traces are recorded with, for `sign` in the same process; None where `OTEL_ENABLED` is not set.

    Raises:
        ConfigError: The settings are wrong.
        TypeError: Something in `demands` is no `Demand`.
        ValueError: The service's name is none, or a method's path, or a permission.
    """

    def __init__(
        self, service: str, *, demands: Mapping[str, Demand], config: SharedConfig | None = None
    ) -> None:
        if not SERVICE_NAME.fullmatch(service):
            raise ValueError(f"service name {service!r} is not {SERVICE_NAME.pattern}")
        self._demands = _checked(demands)
        settings = config or _settings()
        self._reception = Reception(service, new_instance_id(service), own_headers=True)
        self._shielded = shielded_of(settings, service)
        only = self._shielded.ring if self._shielded else None
        self._shared = shared_of(settings, projects=self._shielded is None, strict=False)
        self._guard = guard_of(settings, service, self._reception.instance_id, shared=self._shared, only=only)
        self._following: asyncio.Task[None] | None = None
        self._stream_max_age = settings.stream_max_age_s
        self._namespace = settings.namespace
        self.telemetry = open_telemetry(settings, service, self._reception.instance_id)
        self._observer = Observer(
            access=AccessLog(settings.log_access_rate) if settings.log_access_rate else None,
            tracing=self.telemetry.tracing if self.telemetry else None,
        )
        self._page = MetricsPage(self._figures)
        self._metrics = settings.metrics_host, settings.metrics_port
        if self.telemetry is not None:
            self.telemetry.tracing.server_address = settings.grpc_advertise.rpartition(":")[0]
            self.telemetry.measure_threadsafe(lambda: of_observer(self._observer))
        self._wrapped: dict[str, Serving] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Wraps the handler of a method, once."""
        path: str = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None or path.startswith(OPEN):
            return handler
        await self.start()
        wrapped = self._wrapped.get(path)
        if wrapped is None:
            wrapped = self._wrapped[path] = self._wrap(path, handler)
        return wrapped(handler_call_details.invocation_metadata)

    async def start(self) -> None:
        """Begins to follow what is revoked, where the settings name a Redis or a Shield, and waits a moment for it.

        The first call does so, unless you have done it before the server starts.
        """
        if self._following is None:
            if self._shielded is not None:
                self._shielded.follow(self._guard.verifier.revocations)
            self._following = asyncio.create_task(self._begin(), name="meshkit interceptor")
        if not self._following.done():
            await asyncio.shield(self._following)  # other calls wait for it, too

    async def close(self) -> None:
        """Ends the connections to Redis and Shield, where there are any, and sends what is left of the spans.

        Stop the server first: it hears no more.
        """
        if self._following is not None:
            await end(self._following)
        await self._page.close()
        await self._shared.close()
        if self._shielded is not None:
            await self._shielded.close()
        if self.telemetry is not None:
            await self.telemetry.close()

    async def _begin(self) -> None:
        host, port = self._metrics
        if port:
            await self._page.open(host, port)
        await self._shared.start()

    def _figures(self) -> Iterable[Family]:
        return (
            *merged([({"service": self._reception.service}, of_observer(self._observer))]),
            *of_this_process(),
        )

    def _wrap(self, path: str, handler: Any) -> Serving:
        known = described(path)
        method = known or Method(path, handler.request_streaming, handler.response_streaming)
        demand = self._demands.get(path)
        streams = method.streams_requests or method.streams_replies
        layers = (
            leaving_it_to_grpc,
            self._observer.layer(path),
            error_boundary,
            *((only_peers(demand.peers, self._namespace),) if demand and demand.peers else ()),
            _refusing(path) if demand is None else self._guard.layer(demand),
            deadline(None),
            *((aging(self._stream_max_age), ending(self._guard.verifier.revocations)) if streams else ()),
            transcoding(handler.request_deserializer or _same, handler.response_serializer or _same),
            processing,
            telling,
        )
        return self._reception.serving(method, compose(layers, servicing(method, handler)))


def sign(
    channel: grpc.aio.Channel,
    service: str,
    *,
    config: SharedConfig | None = None,
    name: str = "",
    permissions: Sequence[str] = ("*",),
    telemetry: OpenTelemetry | None = None,
) -> SignedChannel:
    """Wraps a channel in one whose calls carry token and proof.

    Closing it does not close the channel; it ends the connection to Shield, where there is one, and sends what is left
    of the spans.

    Args:
        channel: The channel.
        service: Name of the service at its other end.
        config: Settings; by default they are read from the environment.
        name: Name under which calls are made; `SERVICE_NAME` by default.
        permissions: Rights that calls claim.
        telemetry: What traces are recorded with, of a `MeshInterceptor` or another channel of the process; by default
            what the settings say, closed with the channel.

    Raises:
        ConfigError: The settings are wrong.
    """
    settings = config or _settings()
    shielded = shielded_of(settings, name)
    tokens = tokens_of(settings, name) if shielded is None else shielded.tokens
    own = open_telemetry(settings, name) if telemetry is None else None
    telemetry = telemetry or own
    link, calls = OneChannel(channel), Calls()
    watching = () if telemetry is None else (calling(service, calls, telemetry.tracing),)
    caller = Caller(
        service,
        compose((*watching, presenting(tokens), _nowhere_else(service, link), signing()), attempt),
        tenant=settings.tenant,
        timeout=settings.default_timeout_s,
        permissions=tuple(permissions),
        realm=realm_of(settings),
    )
    signed = SignedChannel(caller, link, telemetry)
    if telemetry is not None:
        forget = telemetry.measure_threadsafe(lambda: of_calls({service: calls}))
        signed.holds(forget if own is None else own.close)
    if shielded is not None:
        signed.holds(shielded.close)
    return signed


def _nowhere_else(service: str, link: OneChannel) -> Middleware:
    """The layer that picks the one endpoint that there is; which instance answers there is not known."""
    only = Endpoint(Instance(service=service, instance_id="unknown:1", address="unknown:1"), link)

    def wrap(next: Handler) -> Handler:
        async def picked(exchange: Exchange) -> None:
            exchange.endpoint = only
            try:
                await next(exchange)
            finally:
                exchange.endpoint = None

        return picked

    return wrap


class SignedChannel(AdoptedChannel):
    """What `sign` makes of a channel.

    Args:
        caller: Makes its calls.
        link: The channel that was wrapped.
        telemetry: What traces are recorded with; None where they are not.

    Attributes:
        telemetry: To be given to other channels of the process.
    """

    def __init__(self, caller: Caller, link: OneChannel, telemetry: OpenTelemetry | None) -> None:
        super().__init__(caller, link)
        self.telemetry = telemetry
        self._held = AsyncExitStack()

    def holds(self, close: Callable[[], Awaitable[None]]) -> None:
        """Has something closed with it."""
        self._held.push_async_callback(close)

    async def close(self, grace: float | None = None) -> None:
        """Ends what it holds itself."""
        await super().close(grace)
        await self._held.aclose()


def _refusing(path: str) -> Callable[[Handler], Handler]:
    def wrap(_next: Handler) -> Handler:
        async def refuse(exchange: Exchange) -> None:
            raise PermissionDenied(f"nothing says who may call {path}", reason="METHOD_UNDECLARED")

        return refuse

    return wrap


def _checked(demands: Mapping[str, Demand]) -> dict[str, Demand]:
    for path, demand in demands.items():
        if not _PATH.fullmatch(path):
            raise ValueError(
                f"demands: {path!r} is no path of a method, such as /greeter.v1.GreeterService/Greet"
            )
        if not isinstance(demand, Demand):
            raise TypeError(f'demands: of {path} stands {demand!r}; write Demand("service:verb")')
        if demand.permission and not is_demand(demand.permission):
            raise ValueError(
                f"demands: of {path} the permission {demand.permission!r} is not `service:verb`, nor empty for public"
            )
    return dict(demands)


def _settings() -> SharedConfig:
    from meshkit.config import SharedConfig, known_secrets
    from meshkit.telemetry.logs import configure_where_none

    config = SharedConfig.load()
    configure_where_none(config.log_level.value, json=config.log_json, secret=known_secrets(config))
    return config


def _same(message: Any) -> Any:
    return message
