"""The onion on the way in: from the layers that every service has to the service's own method."""

from __future__ import annotations

import asyncio
import secrets
import traceback
from collections.abc import Awaitable
from contextlib import aclosing
from typing import TYPE_CHECKING

from meshkit.call import Deadline, serving
from meshkit.declaration import PUBLIC, Rpc
from meshkit.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    MeshError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from meshkit.limits import TimeLimit
from meshkit.pipeline import Exchange, Handler, Middleware, compose, requests_of
from meshkit.resilience.admission import Admission, admitting, sharing
from meshkit.security.ending import ending
from meshkit.security.guard import Demand, Guard
from meshkit.security.peers import only_peers
from meshkit.service import has_policy
from meshkit.telemetry.observing import Observer
from meshkit.transport.codec import decoding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshkit.pipeline import Method
    from meshkit.service import CUService


def handlers(
    service: CUService,
    guard: Guard,
    admission: Admission,
    observer: Observer,
    *,
    stream_max_age: float = 3600.0,
    namespace: str = "",
) -> Mapping[Method, Handler]:
    """The methods of a service, each with its onion: serialized messages in, serialized messages out.

    Args:
        service: The service, with its resources open.
        guard: What lets its calls in.
        admission: What limits them.
        observer: What sees them.
        stream_max_age: Seconds after which a stream is ended, to be opened anew.
        namespace: Name of the mesh, which peers must be of where only some are let in.
    """
    return {
        rpc.method: compose(
            layers(service, rpc, guard, admission, observer, stream_max_age, namespace),
            invoking(service, rpc),
        )
        for rpc in service.definition.rpcs
    }


def layers(
    service: CUService,
    rpc: Rpc,
    guard: Guard,
    admission: Admission,
    observer: Observer,
    stream_max_age: float,
    namespace: str,
) -> tuple[Middleware, ...]:
    """The layers of a method, outermost first; up to `decoding` none of them reads the caller's message."""
    streams = rpc.method.streams_requests or rpc.method.streams_replies
    limits = () if rpc.limit is None else (admission.limited(rpc.method.path, rpc.limit, waits=not streams),)
    return (
        observer.layer(rpc.method.path),
        error_boundary,
        admitting(admission),
        *((only_peers(rpc.allow_peers, namespace),) if rpc.allow_peers else ()),
        guard.layer(demand(rpc)),
        sharing(admission.open if streams else admission.calls, admission.lag),
        *(sharing(limit) for limit in limits),
        deadline(rpc.timeout, rpc.method.name),
        *((aging(stream_max_age), ending(guard.verifier.revocations)) if streams else ()),
        *((authorizing(service),) if has_policy(type(service)) else ()),
        decoding(rpc.request, rpc.reply),
        processing,
        *service.definition.middleware,
    )


def demand(rpc: Rpc) -> Demand:
    """What the method asks of its callers. Nobody can be made to name a tenant for a public method."""
    if rpc.permission is PUBLIC:
        return Demand("", "none" if rpc.tenant == "none" else "optional")
    return Demand(rpc.permission, rpc.tenant)


def error_boundary(next: Handler) -> Handler:
    """Lets nothing out but a `MeshError` meant for the caller.

    Any other exception becomes `Internal` with an incident id; what it says stays in this process, in the log under
    that id. So does `sys.exit`, by which one call would end all others, and at its next attempt those of the next
    instance; and a cancellation that the caller did not ask for, which gRPC would leave unanswered; but where the
    instance ends the call, its verdict is what the caller is told.
    """

    async def bounded(exchange: Exchange) -> None:
        if exchange.verdict is not None:
            raise exchange.verdict
        try:
            await next(exchange)
        except MeshError as error:
            told = _of_this_call(exchange, error) if exchange.begun else error
            if not _is_ours(told):
                raise incident(exchange, told) from None
            if told is not error:
                raise told from None
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise incident(exchange, error) from None
            if (verdict := exchange.ended()) is not None:
                raise verdict from None
            raise
        except (Exception, SystemExit) as error:  # whatever it is must not leave the process
            raise incident(exchange, error) from None

    return bounded


def _is_ours(error: MeshError) -> bool:
    """Whether the caller may see it: not where another service refused *us*, which the caller cannot mend.

    A refusal of the caller's own token, which we forwarded, is the caller's to mend.
    """
    if error.instance is None or error.reason.startswith("SUBJECT_"):
        return True
    return not isinstance(error, (Unauthenticated, Unimplemented, Cancelled))


def incident(exchange: Exchange, error: BaseException) -> MeshError:
    """What the caller is told of a failure that is not meant for it; the log has the rest."""
    number = secrets.token_hex(8)
    told = "".join(traceback.format_exception(error))  # as text: frames could show our metadata
    exchange.call.log.error("call failed", incident=number, exception=told)
    return Internal(
        f"the service failed; its log has the cause under incident {number}",
        reason="INTERNAL",
        incident=number,
    )


def deadline(timeout: float | None, name: str = "the method") -> Middleware:
    """The layer that begins no work past its deadline, and ends work at the method's own cap.

    Args:
        timeout: The cap, in seconds; None for none. The caller's own deadline is gRPC's to enforce.
        name: Name of the method, for the error.
    """
    seconds = float("inf") if timeout is None else timeout
    limit = TimeLimit(
        seconds,
        lambda: DeadlineExceeded(f"{name} takes at most {seconds:g} s here", reason="SERVICE_TIMEOUT"),
    )

    def wrap(next: Handler) -> Handler:
        def bounded(exchange: Exchange) -> Awaitable[None]:
            remaining = exchange.call.deadline.remaining()
            if remaining <= 0:
                raise DeadlineExceeded("the deadline passed before work began")
            if remaining <= seconds:
                return next(exchange)
            exchange.call = exchange.call.having(deadline=Deadline.after(seconds))
            return limit.run(next(exchange))

        return bounded

    return wrap


def authorizing(service: CUService) -> Middleware:
    """The layer that asks the service's own policy, before the message is read.

    Args:
        service: The service.
    """

    def wrap(next: Handler) -> Handler:
        async def authorized(exchange: Exchange) -> None:
            serving(exchange.call)
            try:
                await service.authorize(exchange.call)
            except MeshError as error:
                if (told := _of_this_call(exchange, error)) is not error:
                    raise told from None
                raise
            await next(exchange)

        return authorized

    return wrap


def aging(seconds: float) -> Middleware:
    """The layer that ends a stream at an age, so that it is opened anew with rights that are checked anew.

    Args:
        seconds: That age.
    """
    limit = TimeLimit(
        seconds, lambda: Unavailable(f"the stream is {seconds:g} s old; open it anew", reason="STREAM_AGED")
    )

    def wrap(next: Handler) -> Handler:
        return lambda exchange: limit.run(next(exchange))

    return wrap


def processing(next: Handler) -> Handler:
    """Marks where the service's own code begins: the call propagates from here on, and counts as processed."""

    def processed(exchange: Exchange) -> Awaitable[None]:
        if exchange.call.deadline.passed:  # while the message was waited for, or the event loop
            raise DeadlineExceeded("the deadline passed before work began")
        exchange.begun = True
        serving(exchange.call)
        return next(exchange)

    return processed


def _of_this_call(exchange: Exchange, error: MeshError) -> MeshError:
    """An error of the service's own code, without what another service, or a call of ours, said of itself."""
    error.unprocessed = False
    if error.instance is not None:
        error.pushback = None
    if error.instance is None and error.reason in _NOBODY:
        return _without_places(exchange, error)
    return error


_NOBODY = frozenset({"NO_INSTANCE", "REGISTRY_UNREADABLE", "SHIELD_UNREACHABLE"})
"""Reasons of a call of ours that reached nobody; they name our registry, or Shield."""


def _without_places(exchange: Exchange, error: MeshError) -> MeshError:
    """The same error for a caller elsewhere, whom it does not concern where our registry and Shield are."""
    exchange.call.log.warning("another service could not be called", reason=str(error))
    service = error.details.get("service", "another service")
    why = f"no instance of {service} took a call in time"
    if error.reason == "SHIELD_UNREACHABLE":
        why = "no token for a call to another service can be had now"
    shown = type(error)(why, reason=error.reason)
    shown.details = {key: value for key, value in error.details.items() if key != "registry"}
    return shown


def invoking(service: CUService, rpc: Rpc) -> Handler:
    """The innermost handler: calls the method."""
    method = getattr(service, rpc.attribute)
    takes_stream, gives_stream = rpc.method.streams_requests, rpc.method.streams_replies
    may_be_another = bool(service.definition.middleware)

    async def invoke(exchange: Exchange) -> None:
        if may_be_another:  # the user's middleware may have replaced the call
            serving(exchange.call)
        request = requests_of(exchange) if takes_stream else exchange.request
        if not gives_stream:
            await exchange.send(await method(request, exchange.call))
            return
        async with aclosing(method(request, exchange.call)) as replies:
            async for reply in replies:
                await exchange.send(reply)

    return invoke
