"""The layers that see each call from its first moment to its last: count it, have it in the log, and make its span."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshkit.errors import MeshError
from meshkit.pipeline import Exchange, Handler, Middleware
from meshkit.telemetry.access import AccessLog
from meshkit.telemetry.calls import OTHER, Calls, outcome
from meshkit.telemetry.refusals import Refusals

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from meshkit.telemetry.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Observer:
    """What sees the calls that an instance serves.

    Attributes:
        calls: Counts them.
        refusals: Takes note of those that the service's own code never saw.
        access: Has a line for each; None for no lines.
        tracing: Has a span for each; None where traces are not recorded.
    """

    calls: Calls = field(default_factory=Calls)
    refusals: Refusals = field(default_factory=Refusals)
    access: AccessLog | None = None
    tracing: Tracing | None = None

    def layer(self, path: str = OTHER) -> Middleware:
        """The outermost layer of a method; outside of the error boundary, so that it sees what callers see.

        Args:
            path: `/package.Service/Method`; without one, of all methods that no contract has.
        """
        clock, tally = self.calls.clock, self.calls.of(path)
        tracing, name = self.tracing, path.removeprefix("/")

        def wrap(next: Handler) -> Handler:
            async def observed(exchange: Exchange) -> None:
                began = clock()
                span = None if tracing is None else tracing.arrive(name, exchange)
                try:
                    await next(exchange)
                except BaseException as error:
                    ended(exchange, began, span, error)
                    raise
                ended(exchange, began, span, None)

            return observed

        def ended(exchange: Exchange, began: float, span: Span | None, error: BaseException | None) -> None:
            now = clock()
            seconds = now - began
            code = "OK" if error is None else outcome(exchange, error, seconds)
            tally.record(code, seconds, now)
            if tracing is not None and span is not None:
                tracing.served(span, name, exchange, code, error)
            if self.access is not None:
                self.access.tell(exchange, code, seconds, error)
            if isinstance(error, MeshError) and not exchange.begun:
                self.refusals.note(error, exchange.call)

        return wrap


def calling(service: str, calls: Calls, tracing: Tracing | None) -> Middleware:
    """The outermost layer of the calls that are made to a service, each with all its attempts.

    Args:
        service: Its name.
        calls: Counts them.
        tracing: Has a span for each; None where traces are not recorded.
    """
    clock = calls.clock

    def wrap(next: Handler) -> Handler:
        async def observed(exchange: Exchange) -> None:
            began = clock()
            span = None if tracing is None else tracing.depart(exchange)
            try:
                await next(exchange)
            except BaseException as error:
                ended(exchange, began, span, error)
                raise
            ended(exchange, began, span, None)

        return observed

    def ended(exchange: Exchange, began: float, span: Span | None, error: BaseException | None) -> None:
        now = clock()
        seconds = now - began
        code = "OK" if error is None else outcome(exchange, error, seconds)
        calls.of(exchange.method.path).record(code, seconds, now)
        if tracing is not None and span is not None:
            tracing.called(span, service, exchange, code, error)

    return wrap
