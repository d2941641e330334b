"""Spans of calls, and of work that is no call, by OpenTelemetry's conventions for RPC (1.45).

Loaded only where traces are recorded. A span is made for what is sampled; for the rest, which is nearly all in
production, nothing of the SDK runs: it would take twenty microseconds to decide what a look at one bit says.

A call that is made has one span, whatever attempts it takes (the conventions: the span covers the logical call); an
attempt that was followed by another one is an event of it. The server's span is the child of that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from opentelemetry import baggage, context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)

from meshkit import metadata
from meshkit.call import Trace, current_scope, scoped
from meshkit.errors import MeshError
from meshkit.pipeline import Exchange
from meshkit.telemetry.calls import FAULTS, OTHER

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SCOPE = "meshkit"
"""Name of the instrumentation scope."""

_NOWHERE = Context()
(_SPAN,) = set_span_in_context(INVALID_SPAN, _NOWHERE)
"""The key of the current span; a context is made with it at a third of what the API takes."""

_BAGGAGE = W3CBaggagePropagator()
_wanted_id: ContextVar[int] = ContextVar("meshkit_wanted_trace_id", default=0)


class TraceIds(RandomIdGenerator):
    """Makes ids at random; that of a trace whose calls are told of in logs already is kept."""

    def generate_trace_id(self) -> int:
        """The id of a new trace."""
        return _wanted_id.get() or super().generate_trace_id()


class Unrecorded(NonRecordingSpan):
    """The span of a call that is not sampled: what is recorded within it by others is not either.

    Args:
        trace: Where the call stands.
    """

    __slots__ = ("trace",)

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    def get_span_context(self) -> SpanContext:
        """What stands in the call's `traceparent`."""
        return remote(self.trace)


def remote(trace: Trace) -> SpanContext:
    """A trace as OpenTelemetry has it."""
    flags = TraceFlags(int(trace.parent[53:55], 16))
    state = TraceState.from_header([trace.state]) if trace.state else None
    return SpanContext(int(trace.trace_id, 16), int(trace.span_id, 16), True, flags, state)


def trace_of(span: Span, carried: str = "") -> Trace:
    """A span as it is told to others.

    Args:
        span: The span.
        carried: The `baggage` that goes along.
    """
    return _written(span.get_span_context(), carried)


def _written(found: SpanContext, carried: str = "") -> Trace:
    parent = f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags & 0xFF:02x}"
    return Trace(parent, found.trace_state.to_header() if found.trace_state else "", carried)


def roots_below(sampler: Sampler) -> int | None:
    """The bound below which the last 64 bits of a trace's id must be for the sampler to begin to record it.

    That is how `TraceIdRatioBased` decides, and to ask it takes thirty times as long as to compare. None where it
    decides in another way, and has to be asked.
    """
    described = sampler.get_description()
    if described.startswith("ParentBased{"):
        described = described.removeprefix("ParentBased{root:")
    if ratio := re.match(r"TraceIdRatioBased\{([0-9.e-]+)\}", described):
        return TraceIdRatioBased.get_bound_for_rate(float(ratio[1]))
    return 0 if described.startswith("AlwaysOffSampler") else None


class Tracing:
    """Makes the spans of one service or script.

    Args:
        provider: The SDK's, set up; it samples by the standard variables, `OTEL_TRACES_SAMPLER` and its argument.
        server_address: Host that the service is reached at.
    """

    def __init__(self, provider: TracerProvider, server_address: str = "") -> None:
        self._tracer = provider.get_tracer(SCOPE)
        self._sampler = provider.sampler
        self._follows = isinstance(self._sampler, ParentBased)
        self._roots_below = roots_below(self._sampler)
        self.server_address = server_address

    # Calls that are served.

    def arrive(self, name: str, exchange: Exchange) -> Span | None:
        """Makes the span of a call that is served the current one; gives it if it is recorded.

        Args:
            name: Path of the method without the leading stroke, or `OTHER`.
            exchange: The call.
        """
        trace = exchange.call.trace
        span = self._begin(
            name, SpanKind.SERVER, trace, exchange.headers.get(metadata.TRACEPARENT) == trace.parent
        )
        context.attach(_within(Unrecorded(trace) if span is None else span, trace))
        if span is not None:
            exchange.call = exchange.call.having(trace=trace_of(span, trace.baggage))
        return span

    def served(
        self, span: Span, name: str, exchange: Exchange, code: str, error: BaseException | None
    ) -> None:
        """Ends the span of a call that was served.

        Args:
            span: The span.
            name: What the method counts as.
            exchange: The call.
            code: Name of the gRPC status code that it ended with.
            error: What it failed with.
        """
        call = exchange.call
        facts = {"server.address": self.server_address, "meshkit.tenant": call.tenant}
        facts["rpc.response.status_code"] = code
        if name == OTHER:
            facts["rpc.method_original"] = exchange.method.path[1:]
        if call.principal is not None:
            facts["meshkit.caller"] = f"{call.principal.project}/{call.principal.name}"
        _end(span, error, facts, failed=code if code in FAULTS else "")

    # Calls that are made.

    def depart(self, exchange: Exchange) -> Span | None:
        """The span of a call that is made, if it is recorded; the headers say where the call stands.

        Args:
            exchange: The call.
        """
        trace, within = exchange.call.trace, context.get_current()
        outer = get_current_span(within) if within else INVALID_SPAN
        if self._follows and isinstance(outer, Unrecorded) and outer.trace is trace:
            return None  # it goes on as it came
        name = exchange.method.path[1:]
        span: Span | None = None
        current = outer.get_span_context()
        if not current.is_valid or (trace.parent and _told(trace)):
            came, trace = bool(trace.parent), trace if trace.parent else Trace.start()
            span = self._begin(name, SpanKind.CLIENT, trace, came)
        elif not self._follows or current.trace_flags.sampled:
            span = self._started(name, SpanKind.CLIENT, within)
        elif not trace.parent:
            trace = _written(current)
        if span is not None:
            trace = trace_of(span, trace.baggage)
        headers = exchange.headers
        headers[metadata.TRACEPARENT] = trace.parent
        if trace.state:
            headers[metadata.TRACESTATE] = trace.state
        if within and baggage.get_all(within):
            carrier: dict[str, str] = {}
            _BAGGAGE.inject(carrier, within)
            headers.update(carrier)
        return span

    def called(
        self, span: Span, service: str, exchange: Exchange, code: str, error: BaseException | None
    ) -> None:
        """Ends the span of a call that was made.

        Args:
            span: The span.
            service: Name of the service that was called.
            exchange: The call.
            code: Name of the gRPC status code that it ended with.
            error: What it failed with.
        """
        facts = {"server.address": service, "rpc.response.status_code": code}
        if exchange.endpoint is not None:
            instance = exchange.endpoint.instance
            facts |= {"meshkit.instance": instance.instance_id, "network.peer.address": instance.address}
        for at, failure in exchange.failed:
            told = {"rpc.response.status_code": getattr(failure, "code", "UNKNOWN")}
            told["meshkit.reason"] = getattr(failure, "reason", "")
            told["meshkit.instance"] = getattr(failure, "instance", None) or ""
            span.add_event("meshkit.attempt.failed", told, at)
        if len(exchange.tried) > 1:
            span.set_attribute("meshkit.tried", sorted(exchange.tried))
        _end(span, error, facts, failed="" if code == "OK" else code)

    # Work that is no call.

    @contextmanager
    def working(self, name: str, trace: Trace | None) -> Iterator[None]:
        """The span of a job or a workflow, within which its calls are made.

        Args:
            name: What it is.
            trace: What it goes on; None begins a new one.
        """
        within = trace or Trace.start()
        span = self._begin(name, SpanKind.INTERNAL, within, trace is not None)
        current = Unrecorded(within) if span is None else span
        if span is not None:
            within = trace_of(span, within.baggage)
        token = context.attach(_within(current, within))
        error: BaseException | None = None
        try:
            with scoped(trace=within):
                yield
        except BaseException as failure:
            error = failure
            raise
        finally:
            context.detach(token)
            if span is not None:
                _end(span, error, {}, failed="" if error is None else type(error).__qualname__)

    # How spans begin and end.

    def _begin(self, name: str, kind: SpanKind, trace: Trace, came: bool) -> Span | None:
        """A span, if it is to be recorded.

        Args:
            name: Its name.
            kind: Its kind.
            trace: Its parent; or, where nobody sent one, the trace that it is to be the root of.
            came: Whether somebody sent one.
        """
        if came:
            if self._follows and not trace.sampled:
                return None
            return self._started(name, kind, set_span_in_context(NonRecordingSpan(remote(trace)), _NOWHERE))
        trace_id = int(trace.trace_id, 16)
        if self._roots_below is not None and trace_id & TraceIdRatioBased.TRACE_ID_LIMIT >= self._roots_below:
            return None
        token = _wanted_id.set(trace_id)
        try:
            return self._started(name, kind, _NOWHERE)
        finally:
            _wanted_id.reset(token)

    def _started(self, name: str, kind: SpanKind, parent: Context | None) -> Span | None:
        facts = {} if kind is SpanKind.INTERNAL else {"rpc.system.name": "grpc", "rpc.method": name}
        span = self._tracer.start_span(name, parent, kind, facts, record_exception=False)
        return span if span.is_recording() else None


def _within(span: Span, trace: Trace) -> Context:
    """The context in which a span is the current one, with the baggage of its trace."""
    found = Context({_SPAN: span})
    return _BAGGAGE.extract({metadata.BAGGAGE: trace.baggage}, found) if trace.baggage else found


def _told(trace: Trace) -> bool:
    """Whether it is the caller's own code that said where a call stands, and not what it is made within."""
    scope = current_scope()
    return trace is not scope.trace and not (scope.call and trace is scope.call.trace)


def _end(span: Span, error: BaseException | None, facts: Mapping[str, str], *, failed: str) -> None:
    """Ends a span. It has of an error what a caller may know; the log has the rest, under the incident.

    Args:
        span: The span.
        error: What the call, or the work, ended with.
        facts: What is known of it.
        failed: What it failed with, as a word; empty where it did not, or by the caller's fault.
    """
    span.set_attributes({name: value for name, value in facts.items() if value})
    if failed:
        span.set_attribute("error.type", failed)
        span.set_status(StatusCode.ERROR, error.message if isinstance(error, MeshError) else None)
    if isinstance(error, MeshError):
        span.set_attribute("meshkit.reason", error.reason)
        if incident := error.details.get("incident"):
            span.set_attribute("meshkit.incident", incident)
    span.end()
