"""The layer that sees each call from its first moment to its last: counts it, and has it in the log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshkit.errors import MeshError
from meshkit.pipeline import Exchange, Handler, Middleware
from meshkit.telemetry.access import AccessLog
from meshkit.telemetry.calls import OTHER, Calls, Tally, outcome
from meshkit.telemetry.refusals import Refusals

if TYPE_CHECKING:
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

    def layers(self, path: str = OTHER) -> tuple[Middleware, ...]:
        """The outermost layers of a method.

        Args:
            path: `/package.Service/Method`; without one, of all methods that no contract has.
        """
        traced = () if self.tracing is None else (self.tracing.serving(path),)
        return *traced, observing(self.calls, self.calls.of(path), self.refusals, self.access)


def observing(calls: Calls, tally: Tally, refusals: Refusals, access: AccessLog | None = None) -> Middleware:
    """The layer for a method that is served; outside of the error boundary, so that it sees what callers see.

    Args:
        calls: Whose clock is used.
        tally: The calls of the method.
        refusals: What takes note of calls that the service's own code never saw.
        access: What has a line for each call; None for no lines.
    """
    clock = calls.clock

    def wrap(next: Handler) -> Handler:
        async def observed(exchange: Exchange) -> None:
            began = clock()
            try:
                await next(exchange)
            except BaseException as error:
                ended(exchange, began, outcome(exchange, error), error)
                if isinstance(error, MeshError) and not exchange.begun:
                    refusals.note(error, exchange.call)
                raise
            ended(exchange, began, "OK", None)

        return observed

    def ended(exchange: Exchange, began: float, code: str, error: BaseException | None) -> None:
        now = clock()
        tally.record(code, now - began, now)
        if access is not None:
            access.tell(exchange, code, now - began, error)

    return wrap


def counting(calls: Calls) -> Middleware:
    """The layer that counts the calls that are made to a service, each with all its attempts.

    Args:
        calls: The calls to that service.
    """
    clock = calls.clock

    def wrap(next: Handler) -> Handler:
        async def counted(exchange: Exchange) -> None:
            began = clock()
            code = "OK"
            try:
                await next(exchange)
            except BaseException as error:
                code = outcome(exchange, error)
                raise
            finally:
                now = clock()
                calls.of(exchange.method.path).record(code, now - began, now)

        return counted

    return wrap
