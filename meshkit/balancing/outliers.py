"""Which endpoints are trusted: outcomes, and calls that hang, shut gates; signs of life and single calls open them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping

import structlog

from meshkit.balancing.endpoint import Endpoint
from meshkit.balancing.gate import GateState
from meshkit.errors import MeshError
from meshkit.latency import Latencies
from meshkit.pipeline import Exchange

log = structlog.get_logger("meshkit.balancing")

OVERDUE_S = 0.5
"""Seconds for which a call may be under way, at least, before its endpoint is suspected."""

OVERDUE_TIMES = 4.0
"""How many times as long as 99 of 100 calls of its method a call may be under way before its endpoint is suspected."""

PING_S = 1.0
"""Seconds in which an endpoint behind a shut gate must answer before a call is risked."""

PROBE_PATIENCE_S = 5.0
"""Seconds for which a probe waits for a call that may be repeated, before any call is taken for it."""

MAX_METHODS = 1024
"""Methods whose latencies are kept."""

_FAULTS = frozenset({"UNAVAILABLE", "UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "DATA_LOSS"})
"""Codes of failures that speak against the endpoint."""


class Outliers:
    """Judges the endpoints of one service by how their calls go.

    Args:
        service: Name of the service.
        clock: A monotonic clock, in seconds.
        changed: Called when a gate has changed, or an endpoint is to be probed.
        spare: Whether there is anybody else to send calls to than those who are not trusted.
    """

    def __init__(
        self,
        service: str,
        *,
        clock: Callable[[], float],
        changed: Callable[[], None],
        spare: Callable[[], bool],
    ) -> None:
        self._service = service
        self._clock = clock
        self._changed = changed
        self._spare = spare
        self._latencies: OrderedDict[str, Latencies] = OrderedDict()
        self._shut: set[Endpoint] = set()
        self._due: deque[tuple[Endpoint, float]] = deque()
        self._pings: dict[Endpoint, asyncio.Task[None]] = {}

    @property
    def any_shut(self) -> bool:
        """Whether any gate is not open."""
        return bool(self._shut)

    @property
    def any_due(self) -> bool:
        """Whether an endpoint waits for a call that shows whether it works."""
        return bool(self._due)

    @property
    def methods(self) -> Mapping[str, Latencies]:
        """The latest latencies of each method that was called."""
        return self._latencies

    def latencies(self, path: str) -> Latencies:
        """The latest latencies of a method."""
        found = self._latencies.get(path)
        if found is None:
            found = self._latencies[path] = Latencies(self._clock)
            if len(self._latencies) > MAX_METHODS:
                self._latencies.popitem(last=False)
        return found

    def judge(self, endpoint: Endpoint, path: str, seconds: float, error: MeshError | None) -> None:
        """Takes note of how a call went.

        Args:
            endpoint: Where it went.
            path: Path of its method.
            seconds: Until its first reply, or its end where there was none.
            error: How it failed, or None; `Cancelled` where that says nothing of the endpoint.
        """
        verdict = self._verdict(endpoint, path, seconds, error)
        if verdict:
            now = self._clock()
            endpoint.answered_at = now
            self.latencies(path).record(seconds, now)
            if endpoint.gate.succeeded():
                self._opened(endpoint)
        elif verdict is False:
            endpoint.failures += 1
            if endpoint.gate.failed():
                self._has_shut(endpoint)
        elif endpoint.gate.state is GateState.PROBING:
            endpoint.gate.give_up_probe()

    def probe(self, exchange: Exchange) -> Endpoint | None:
        """An endpoint whose turn it is to show whether it works, if this call may be risked for that.

        A call that may be repeated is risked at once, any other only when none such came for a while.
        """
        endpoint, since = self._due[0]
        if endpoint.gate.state is not GateState.SHUT or not endpoint.usable:
            self._due.popleft()
            return None
        if endpoint.instance.instance_id in exchange.tried:
            return None
        if not exchange.method.idempotent and self._clock() - since < PROBE_PATIENCE_S:
            return None
        self._due.popleft()
        endpoint.gate.probe()
        return endpoint

    def forget(self, endpoint: Endpoint) -> None:
        """Takes note that an endpoint has left."""
        self._shut.discard(endpoint)
        self._due = deque((each, since) for each, since in self._due if each is not endpoint)

    def look(self, endpoints: Iterable[Endpoint]) -> None:
        """Looks at calls under way, and at gates that have been shut for long enough; to be called now and then."""
        now = self._clock()
        for endpoint in endpoints:
            if endpoint.flights and endpoint.gate.open:
                self._suspect(endpoint, now)
        for endpoint in self._shut:
            waiting = endpoint in self._pings or any(endpoint is each for each, _ in self._due)
            if endpoint.gate.may_probe() and not waiting:
                self._pings[endpoint] = asyncio.create_task(
                    self._ping(endpoint), name=f"meshkit ping {self._service}"
                )

    async def close(self) -> None:
        """Ends what is under way."""
        pings = list(self._pings.values())
        for ping in pings:
            ping.cancel()
        await asyncio.gather(*pings, return_exceptions=True)

    def _verdict(self, endpoint: Endpoint, path: str, seconds: float, error: MeshError | None) -> bool | None:
        """Whether an outcome speaks for the endpoint, against it, or neither."""
        if error is None:
            return True
        if error.code == "CANCELLED" or (error.unprocessed and error.code == "UNAVAILABLE"):
            return None
        if error.code == "RESOURCE_EXHAUSTED":
            return False if endpoint.gate.state is GateState.PROBING else None
        if error.code == "DEADLINE_EXCEEDED" and seconds < (self.latencies(path).quantile(0.99) or 0.0):
            return None  # less time than the method takes: the caller's doing
        return error.code not in _FAULTS

    def _suspect(self, endpoint: Endpoint, now: float) -> None:
        """Shuts the gate of an endpoint that has left a call unanswered for far longer than such calls take.

        One that has answered anything meanwhile is merely slow with this one. Calls that may be repeated are taken
        from it, if there is anybody else: a process that was stopped keeps its connection and says nothing.
        """
        oldest = next(iter(endpoint.flights.values()))
        usual = self.latencies(oldest.exchange.method.path).quantile(0.99)
        age = now - max(oldest.started, endpoint.answered_at)
        if usual is None or age < max(OVERDUE_S, OVERDUE_TIMES * usual):
            return
        endpoint.gate.shut(f"no answer for {age:.1f} s, where 99 of 100 calls take {usual:.3f} s")
        self._has_shut(endpoint)
        if not self._spare():
            return
        for flight in list(endpoint.flights.values()):
            if flight.exchange.method.idempotent:
                flight.abandoned = True
                flight.exchange.cancel()

    async def _ping(self, endpoint: Endpoint) -> None:
        """Asks for a sign of life; with one, the next call that may be risked decides."""
        try:
            alive = endpoint.usable and await endpoint.link.ping(PING_S)
        finally:
            self._pings.pop(endpoint, None)
        if endpoint.gate.state is not GateState.SHUT or endpoint not in self._shut:
            return
        if alive:
            self._due.append((endpoint, self._clock()))
            self._changed()
        else:
            endpoint.gate.shut(endpoint.gate.why)

    def _opened(self, endpoint: Endpoint) -> None:
        self._shut.discard(endpoint)
        log.info(
            "an endpoint is given calls again", target=self._service, instance=endpoint.instance.instance_id
        )
        self._changed()

    def _has_shut(self, endpoint: Endpoint) -> None:
        if endpoint not in self._shut:
            log.warning(
                "an endpoint is given no calls for now",
                target=self._service,
                instance=endpoint.instance.instance_id,
                why=endpoint.gate.why,
            )
        self._shut.add(endpoint)
        self._changed()
