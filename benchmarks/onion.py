"""Onions without one of their layers, made in the benchmark's own processes; the product has no switches for that."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import meshkit.calling
import meshkit.serving
import meshkit.transport.caller
from meshkit import metadata
from meshkit.balancing.pool import EndpointPool
from meshkit.call import Trace
from meshkit.calling import Choices
from meshkit.mesh import Mesh
from meshkit.pipeline import Exchange, Handler, Middleware

ALL = "all"
"""Stands for every layer that can be left out."""

TRACING = "trace headers"
"""Made by the caller, not by a layer; left out in the same way."""

WITHOUT = "greeter-without-"
"""How the name of a greeter begins that is served without the layer that the rest of it names."""

PERMISSIVE = "greeter-proof-off"
"""Name of the greeter that checks tokens, and no proofs."""


def name_of(layer: Middleware) -> str:
    """What a layer is called: the function, or the class, that makes it."""
    return layer.__qualname__.partition(".")[0].lower().replace("_", "-")


def peeled(
    layers: Iterable[Middleware], left_out: str, instead: dict[str, Middleware]
) -> tuple[Middleware, ...]:
    """The layers without the one left out, or with the least that does in its place what others rely on."""
    return tuple(
        instead.get(name_of(layer), _nothing) if left_out in (ALL, name_of(layer)) else layer
        for layer in layers
    )


def _nothing(next: Handler) -> Handler:
    return next


# The serving side: a service by the name of `greeter-without-guard` is served without its guard.


@contextmanager
def served_by_name() -> Iterator[list[str]]:
    """Within it, services are served with what their names say; gives the names of the layers once one is served."""
    original = meshkit.serving.layers
    names: list[str] = []

    def layers(service: Any, rpc: Any, *rest: Any) -> tuple[Middleware, ...]:
        whole = original(service, rpc, *rest)
        if not rpc.method.streams_requests and not rpc.method.streams_replies:
            names[:] = [name_of(layer) for layer in whole]
        if not service.config.service_name.startswith(WITHOUT):
            return whole
        left_out = service.config.service_name.removeprefix(WITHOUT)
        return peeled(whole, left_out, {"transcoding": _plain_decoding(rpc)})

    with patch.object(meshkit.serving, "layers", layers):
        yield names


def _plain_decoding(rpc: Any) -> Middleware:
    """Messages from bytes and back with nothing around it."""
    decode = rpc.request.FromString

    def wrap(next: Handler) -> Handler:
        async def decoded(exchange: Exchange) -> None:
            send = exchange.send

            async def send_message(message: Any) -> None:
                await send(message.SerializeToString())

            exchange.send = send_message
            if not exchange.method.streams_requests:
                exchange.request = decode(await exchange.receive())
            await next(exchange)

        return decoded

    return wrap


# The calling side.


class PeelableMesh(Mesh):
    """A mesh whose channels can be made without a layer.

    Attributes:
        left_out: What the channels made from now on are without.
        names: The layers of the last channel made, all of them.
    """

    left_out = ""
    names: tuple[str, ...] = ()

    def _balanced(self, service: str, choices: Choices) -> Handler:
        original = meshkit.calling.layers
        instead = {"picking": _taking_turns(self.pool(service)), "presenting": _one_token(self.tokens)}

        def layers(*parts: Any) -> tuple[Middleware, ...]:
            whole = original(*parts)
            self.names = tuple(name_of(layer) for layer in whole)
            if self.left_out not in ("", ALL, TRACING, *self.names):
                raise ValueError(f"calls have no layer {self.left_out}; there are {', '.join(self.names)}")
            left = peeled(whole, self.left_out, instead)
            return (*left, _without_trace) if self.left_out in (ALL, TRACING) else left

        with patch.object(meshkit.calling, "layers", layers):
            return super()._balanced(service, choices)


def _taking_turns(pool: EndpointPool) -> Middleware:
    """One endpoint after the other, as the list of stubs does it."""
    turns: Iterator[Any] = iter(())

    def wrap(next: Handler) -> Handler:
        async def picked(exchange: Exchange) -> None:
            nonlocal turns
            exchange.endpoint = _next(turns)
            if exchange.endpoint is None:
                turns = itertools.cycle(list(pool.endpoints.values()))
                exchange.endpoint = _next(turns)
            await next(exchange)

        return picked

    return wrap


def _one_token(source: Any) -> Middleware:
    """The first token for all calls."""
    token: Any = None

    def wrap(next: Handler) -> Handler:
        async def presented(exchange: Exchange) -> None:
            nonlocal token
            token = token or await source.obtain(exchange.call, exchange.permissions)
            exchange.token = token
            await next(exchange)

        return presented

    return wrap


def _next(turns: Iterator[Any]) -> Any:
    return next(turns, None)


def _without_trace(next: Handler) -> Handler:
    async def untraced(exchange: Exchange) -> None:
        exchange.headers.pop(metadata.TRACEPARENT, None)
        await next(exchange)

    return untraced


@contextmanager
def one_trace_for_all(wanted: bool) -> Iterator[None]:
    """Within it, where wanted, no call makes ids of its own."""
    trace = Trace.start()
    constant: Callable[..., Trace] = lambda headers, outer: trace  # noqa: E731
    if not wanted:
        yield
        return
    with patch.object(meshkit.transport.caller, "_trace", constant):
        yield
