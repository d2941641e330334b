"""The serving side of gRPC: methods with their onions behind a port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from typing import Any

import grpc

from meshkit.errors import Unimplemented
from meshkit.pipeline import Exchange, Handler, Method, Middleware
from meshkit.transport.options import server_options
from meshkit.transport.reception import Reception, Serving

QUIET_S = 0.1
"""Seconds without a new call after which a stopping server takes it that its callers have heard."""

LAST_S = 1.0
LAST_SHARE = 0.1
"""Of the grace of a stop, the seconds that calls have which are ended, to tell their callers so; at most that share."""


_MEND = (
    "is in use, or not ours to take: set {setting} to another port (0 picks a free one; where several services share "
    "the process, give the class another port=), or end what listens there"
)


class PortTaken(Exception):
    """The address cannot be listened on."""


def take_port(
    server: grpc.aio.Server,
    host: str,
    port: int,
    *,
    setting: str,
    credentials: grpc.ServerCredentials | None = None,
) -> int:
    """Takes a port for a server.

    Args:
        server: The server, not started.
        host: Address or name to bind to.
        port: The port; 0 for a free one.
        setting: Name of the setting that says which.
        credentials: With TLS, these; in plain text without.

    Returns:
        The port; the one that the system chose where 0 was asked for.

    Raises:
        PortTaken: It cannot be had.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if credentials is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise PortTaken(_told(host, address, setting)) from error
    if not bound:
        raise PortTaken(_told(host, address, setting))
    return bound


def _told(host: str, address: str, setting: str) -> str:
    """Why it cannot be listened on, and what to do: of the host where no port of it can be had, else of the port."""
    try:
        family, kind, _, _, any_port = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(any_port)
    except OSError as error:
        return f"{host} is no address of this machine ({error.strerror}): set {setting.replace('PORT', 'HOST')} to one"
    return f"{address} {_MEND.format(setting=setting)}"


def _as_it_is(handler: Handler) -> Handler:
    return handler


class _Methods(grpc.GenericRpcHandler):
    """Finds what serves a call; answers calls of methods that no contract here has."""

    def __init__(self, reception: Reception, around: Middleware) -> None:
        self._reception = reception
        self._refusing = around(self._refuse)
        self._serving: dict[str, Serving] = {}

    def add(self, method: Method, handler: Handler) -> None:
        self._serving[method.path] = self._reception.serving(method, handler)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of the call."""
        path = handler_call_details.method
        serving = self._serving.get(path) or self._reception.serving(Method(path), self._refusing)
        return serving(handler_call_details.invocation_metadata)

    async def _refuse(self, exchange: Exchange) -> None:
        what = f"{self._reception.service} has no method {exchange.method.path}"
        raise Unimplemented(what, reason="METHOD_UNKNOWN")


class Server:
    """A gRPC server for one instance of a service.

    Args:
        service: Name of the service.
        instance_id: Id of the instance; each answer names it.
        max_message_bytes: Largest message taken or sent, in bytes.
        connection_age: Seconds after which a connection must be made anew; see `server_options`.
        draining: Set when calls under way should come to an end; each call carries it.
        shares_port: Whether other processes listen on its port as well, on purpose.
        around: What is laid around the refusal of calls of methods that it does not have.
    """

    def __init__(
        self,
        service: str,
        instance_id: str,
        *,
        max_message_bytes: int,
        connection_age: float | None = None,
        draining: asyncio.Event | None = None,
        shares_port: bool = False,
        around: Middleware = _as_it_is,
    ) -> None:
        options = server_options(max_message_bytes, connection_age=connection_age, shares_port=shares_port)
        self.grpc = grpc.aio.server(options=options)
        self.reception = Reception(service, instance_id, draining=draining)
        self._shares_port = shares_port
        self._methods = _Methods(self.reception, around)
        self._started = False

    def add(self, methods: Mapping[Method, Handler]) -> None:
        """Serves methods.

        Args:
            methods: Each method with its onion, which takes and gives serialized messages.
        """
        for method, handler in methods.items():
            self._methods.add(method, handler)

    def bind(self, host: str, port: int, credentials: grpc.ServerCredentials | None = None) -> int:
        """Takes a port.

        Args:
            host: Address or name to bind to.
            port: The port; 0 for a free one.
            credentials: With TLS, these; in plain text without.

        Returns:
            The port; the one that the system chose where 0 was asked for.

        Raises:
            PortTaken: It cannot be had.
        """
        return take_port(self.grpc, host, port, setting="GRPC_PORT", credentials=credentials)

    async def start(self) -> None:
        """Begins to take calls. All contracts must have been added."""
        self._started = True
        self.grpc.add_generic_rpc_handlers((self._methods,))
        await self.grpc.start()

    @property
    def calls(self) -> int:
        """How many calls are being served."""
        return len(self.reception.tasks)

    async def stop(self, grace: float, *, streams: float = float("inf")) -> None:
        """Lets calls under way end, takes no more, and ends what is left after `grace` seconds.

        Callers who have not heard of the stop yet are still answered meanwhile, with the refusal of the onion, which
        proves that their call may be tried elsewhere. gRPC's own answer, once it stops, is a bare CANCELLED. On a
        shared port it stops at once: callers that were told that it does not serve wait for their connection to end,
        to make one that leads to another process.

        Args:
            grace: Seconds that calls have.
            streams: Seconds of these that streams have.
        """
        if (
            not self._started
        ):  # gRPC gives up a port that it bound only when it stops, and stops only what started
            await self.start()
        loop = asyncio.get_running_loop()
        end = loop.time() + grace
        stopping = asyncio.create_task(self.grpc.stop(grace)) if self._shares_port else None
        if grace > 0:
            last = end - min(LAST_S, grace * LAST_SHARE)
            await self._quiet(min(loop.time() + streams, last))
            self.reception.end(streams_only=True)
            await self._quiet(last)
            self.reception.end(streams_only=False)
            await self._quiet(end)
        await self.grpc.stop(max(end - loop.time(), 0.0))
        if stopping is not None:
            await stopping
        if self.reception.tasks:
            await asyncio.wait(self.reception.tasks, timeout=1)

    async def _quiet(self, until: float) -> None:
        """Waits until no call is under way and none has come for a moment, but no longer than until a time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._ended()

    async def _ended(self) -> None:
        """Waits until no call is under way, and none has come for a moment: some may be on the wire."""
        loop = asyncio.get_running_loop()
        while self.reception.tasks or self.reception.newest + QUIET_S > loop.time():
            if self.reception.tasks:
                await asyncio.wait(set(self.reception.tasks))
            else:
                await asyncio.sleep(self.reception.newest + QUIET_S - loop.time())
