"""The endpoints of one service: connections to its instances, made ahead of use, kept in step with discovery."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import structlog

from meshkit.balancing.endpoint import Dial, Endpoint, Flight, Link
from meshkit.balancing.gate import Gate
from meshkit.balancing.outliers import Outliers
from meshkit.balancing.policy import Load, Policy
from meshkit.balancing.selection import RAMP_STEP_S, Selection, select
from meshkit.balancing.subset import subset
from meshkit.errors import Internal, MeshError, Unavailable
from meshkit.instance import Instance
from meshkit.pipeline import Exchange

log = structlog.get_logger("meshkit.balancing")

REST_S = 1.0
"""Seconds for which an instance that takes no calls (it starts, drains, or is another by now) is not asked again."""

MAX_TROUBLES = 3
"""Reasons why there is no connection that an error names at most."""

TICK_S = 0.1
"""Seconds between two looks at calls under way and at shut gates, while there are any."""


class WatchedSnapshot(Protocol):
    """What a pool needs of a registry's snapshot."""

    @property
    def instances(self) -> dict[str, Instance]:
        """Each live instance, by its id."""
        ...

    @property
    def stale_since(self) -> float | None:
        """Unix time in seconds since when the registry cannot be read; None while it can."""
        ...


Watch = Callable[[str], AsyncGenerator[WatchedSnapshot, None]]
"""Watches a service; `Registry.watch`."""


@dataclass(eq=False)
class EndpointPool:
    """The endpoints of one service.

    Attributes:
        service: Name of the service.
        watch: Where its instances are found.
        dial: How to connect to one.
        policy: How to choose among them where a call says nothing else.
        registry: What to call the registry when there is no instance.
        zone: The caller's own zone; empty where zones do not matter.
        slow_start: Seconds in which a newcomer comes to its full weight.
        subset_size: Instances that are connected to; 0 for all.
        caller: Who calls, for the choice of a subset.
        grace: Seconds that calls under way have when an instance has left.
        patience: Seconds that a call without a deadline waits for an endpoint.
        rewatch_s: Seconds before a watch that failed begins anew.
        refresh: Told the service's name when an endpoint is lost, where the registry is to look anew then.
        clock: A monotonic clock, in seconds.
        endpoints: The endpoints, by instance id.
        load: The calls under way.
        outliers: Who is trusted.
        failures: Attempts that failed by an endpoint's fault, since the beginning.
        stale_since: Unix time in seconds since when the registry cannot be read; None while it can.
        readable: Whether the registry could ever be read.
    """

    service: str
    watch: Watch
    dial: Dial
    policy: Policy
    registry: str
    zone: str = ""
    slow_start: float = 0.0
    subset_size: int = 0
    caller: str = ""
    grace: float = 30.0
    patience: float = 5.0
    rewatch_s: float = 1.0
    refresh: Callable[[str], None] | None = None
    clock: Callable[[], float] = time.monotonic
    endpoints: dict[str, Endpoint] = field(default_factory=dict, init=False)
    load: Load = field(default_factory=Load, init=False)
    outliers: Outliers = field(init=False)
    failures: int = field(default=0, init=False)
    stale_since: float | None = field(default=None, init=False)
    readable: bool = field(default=False, init=False)
    _selection: Selection | None = field(default=None, init=False)
    _selected_at: float = field(default=0.0, init=False)
    _ticking: asyncio.TimerHandle | None = field(default=None, init=False)
    _held_up: bool = field(default=False, init=False)
    _flights: int = field(default=0, init=False)
    _waiters: set[asyncio.Future[None]] = field(default_factory=set, init=False)
    _watching: asyncio.Task[None] | None = field(default=None, init=False)
    _leaving: dict[asyncio.Task[None], Link] = field(default_factory=dict, init=False)
    _closed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.outliers = Outliers(self.service, clock=self.clock, changed=self._changed, spare=self._has_spare)

    def start(self) -> None:
        """Begins to watch, and to connect to what it finds."""
        if self._watching is None:
            loop = asyncio.get_running_loop()
            self._watching = loop.create_task(self._follow(), name=f"meshkit pool {self.service}")

    async def close(self) -> None:
        """Ends the watch and all connections. Calls that wait for an instance fail."""
        self._closed = True
        if self._ticking is not None:
            self._ticking.cancel()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self.outliers.close()
        links = [*self._leaving.values(), *(endpoint.link for endpoint in self.endpoints.values())]
        self.endpoints.clear()
        for link in links:
            self._retire(link, 0.0)
        self._changed()
        await asyncio.gather(*self._leaving, return_exceptions=True)

    @property
    def picks(self) -> int:
        """Attempts that were begun, since the beginning."""
        return self._flights

    def any_ready(self) -> bool:
        """Whether a call made now would be sent at once."""
        return len(self.selection().everywhere) > 0

    def any_at_hand(self) -> bool:
        """Whether an instance is connected and takes calls, ready or not."""
        return any(endpoint.usable or endpoint.degraded for endpoint in self.endpoints.values())

    async def changed(self) -> None:
        """Waits until an endpoint came, went, or changed."""
        await self._wait(float("inf"))

    def selection(self) -> Selection:
        """Who may be called now."""
        found = self._selection
        if found is None or (found.ramping and self.clock() - self._selected_at >= RAMP_STEP_S):
            self._selected_at = self.clock()
            found = self._selection = select(
                list(self.endpoints.values()),
                self.load,
                now=self._selected_at,
                zone=self.zone,
                slow_start=self.slow_start,
            )
        return found

    async def acquire(self, exchange: Exchange, policy: Policy | None = None) -> Endpoint:
        """Picks an endpoint; without one it waits for one until the call's deadline. Does not suspend otherwise.

        A call without a deadline, a stream, waits as long as the pool's patience.

        Args:
            exchange: The call.
            policy: How to choose; as the pool does by default.

        Raises:
            Unavailable: None came in time, or the pool is closed.
            Internal: The policy failed.
        """
        while (endpoint := self._pick(exchange, policy or self.policy)) is None:
            if self._closed:
                raise Unavailable("the mesh is closed", reason="MESH_CLOSED", service=self.service)
            remaining = exchange.call.deadline.remaining()
            if not await self._wait(self.patience if remaining == float("inf") else remaining):
                raise self._nobody()
        return endpoint

    def begin(self, endpoint: Endpoint, exchange: Exchange) -> tuple[int, Flight]:
        """Notes that an attempt is under way; its number, and what is known of it."""
        self._flights += 1
        flight = endpoint.flights[self._flights] = Flight(self.clock(), exchange)
        endpoint.in_flight += 1
        endpoint.picks += 1
        self.load.in_flight += 1
        if self._ticking is None:
            self._tick_later()
        return self._flights, flight

    def answered(self, endpoint: Endpoint, number: int) -> None:
        """Notes that an attempt has brought its first reply."""
        endpoint.flights.pop(number, None)
        endpoint.answered_at = self.clock()

    def end(
        self,
        endpoint: Endpoint,
        number: int,
        flight: Flight,
        error: MeshError | None,
        policy: Policy | None = None,
    ) -> None:
        """Notes how an attempt went, for the endpoint's gate, the latencies of its method, and the policy.

        Args:
            endpoint: Where it went.
            number: Its number.
            flight: What `begin` gave.
            error: How it failed, or None; `Cancelled` where that says nothing of the endpoint.
            policy: The policy that picked, where it is not the pool's.
        """
        now = self.clock()
        endpoint.flights.pop(number, None)
        endpoint.in_flight -= 1
        self.load.in_flight -= 1
        seconds = (flight.exchange.first_reply or now) - flight.started
        before = endpoint.failures
        self.outliers.judge(endpoint, flight.exchange.method.path, seconds, error)
        self.failures += endpoint.failures - before
        _told(policy or self.policy, endpoint, seconds, error)

    def rest(self, endpoint: Endpoint) -> None:
        """Gives an endpoint no calls for a moment: until the registry says otherwise of it, or `REST_S` have passed."""
        endpoint.resting = True
        self._selection = None
        asyncio.get_running_loop().call_later(REST_S, self._rested, endpoint)

    def _rested(self, endpoint: Endpoint) -> None:
        endpoint.resting = False
        self._changed()

    def _pick(self, exchange: Exchange, policy: Policy) -> Endpoint | None:
        """An endpoint for the call, or None while there is none."""
        if self.outliers.any_due and (probed := self.outliers.probe(exchange)) is not None:
            return probed
        whole = getattr(policy, "whole_pool", False)
        for _ in range(3):
            selection = self.selection()
            if exchange.tried:
                selection = self._untried(selection, exchange)
            if not selection.everywhere:
                return None
            try:
                endpoint = selection.pick(policy, exchange.call, whole_pool=whole)
            except Exception as error:
                log.error("a policy failed", target=self.service, exception=traceback.format_exc())
                raise _broken(
                    policy, f"failed: it raised {type(error).__name__}; the log says more"
                ) from error
            if not isinstance(endpoint, Endpoint):
                raise _broken(policy, f"picked {type(endpoint).__name__}, where it must return a candidate")
            if self.endpoints.get(endpoint.instance.instance_id) is not endpoint:
                raise _broken(policy, f"picked {endpoint.instance.instance_id}, which is no candidate")
            if endpoint.usable or (selection.degraded and endpoint.degraded):
                return endpoint
            self._selection = None
        return None

    def _untried(self, selection: Selection, exchange: Exchange) -> Selection:
        """The selection without those that the call was sent to before, if there are others."""
        others = [
            endpoint
            for endpoint in self.endpoints.values()
            if endpoint.instance.instance_id not in exchange.tried
        ]
        if len(others) == len(self.endpoints):
            return selection
        fresh = select(others, self.load, now=self.clock(), slow_start=self.slow_start)
        trusted = (not fresh.panic or selection.panic) and (not fresh.degraded or selection.degraded)
        return fresh if fresh.everywhere and trusted else selection

    def _tick_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._ticking = loop.call_later(TICK_S, self._tick, loop.time() + TICK_S)

    def _tick(self, due: float) -> None:
        """Looks at calls under way, but not right after this process was held up: answers may wait to be read."""
        self._ticking = None
        self._held_up = not self._held_up and asyncio.get_running_loop().time() - due > TICK_S
        if not self._held_up:
            self.outliers.look(self.endpoints.values())
        if (self.load.in_flight or self.outliers.any_shut) and not self._closed:
            self._tick_later()

    def _has_spare(self) -> bool:
        return not self.selection().panic and len(self.selection().everywhere) > 0

    def absence(self) -> str:
        """Why there is nobody to call."""
        if self.endpoints:
            why = f"{self.registry} knows {len(self.endpoints)}, and none of them is connected and serving"
        elif self._is_known:
            why = f"{self.registry} knows none"
        else:
            why = f"{self.registry} cannot be read; the log says why"
        troubles = self._troubles()
        return f"{why} ({troubles})" if troubles else why

    @property
    def _is_known(self) -> bool:
        """Whether there is something to go by: endpoints, or a registry that can be read."""
        return bool(self.endpoints) or (self.readable and self.stale_since is None)

    def _nobody(self) -> MeshError:
        error = Unavailable(
            f"no instance of {self.service} took the call in time: {self.absence()}",
            reason="NO_INSTANCE" if self._is_known else "REGISTRY_UNREADABLE",
            service=self.service,
            registry=self.registry,
        )
        error.unprocessed = True
        return error

    def _troubles(self) -> str:
        """Why there are no connections, as far as links know; the first few of several reasons."""
        found = {endpoint.link.trouble: endpoint for endpoint in self.endpoints.values()}
        told = [f"{each.instance.address}: {why}" for why, each in found.items() if why]
        return "; ".join(told[:MAX_TROUBLES])

    async def _wait(self, seconds: float) -> bool:
        """Waits until something changed; False when the time is up first."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = None
        if seconds != float("inf"):
            timer = loop.call_later(max(seconds, 0), _give_up, waiter)
        self._waiters.add(waiter)
        try:
            await waiter
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()
        return True

    def _changed(self) -> None:
        self._selection = None
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _follow(self) -> None:
        while True:
            try:
                async with aclosing(self.watch(self.service)) as snapshots:
                    async for snapshot in snapshots:
                        self.stale_since = snapshot.stale_since
                        self.readable = self.readable or snapshot.stale_since is None
                        self._apply(snapshot.instances)
                return
            except Exception:
                log.error(
                    "the watch of a service failed and begins anew",
                    target=self.service,
                    exception=traceback.format_exc(),
                )
            await asyncio.sleep(self.rewatch_s)

    def _apply(self, known: Mapping[str, Instance]) -> None:
        instances = subset(known, self.subset_size, self.caller)
        for instance_id, endpoint in list(self.endpoints.items()):
            found = instances.get(instance_id)
            if found is None or found.address != endpoint.instance.address:
                del self.endpoints[instance_id]
                self.outliers.forget(endpoint)
                self._retire(endpoint.link, self.grace)
            elif found != endpoint.instance:
                endpoint.instance = found
                endpoint.resting = False
        for instance_id, instance in instances.items():
            if instance_id not in self.endpoints:
                link = self.dial(instance, partial(self._link_changed, instance_id))
                gate = Gate(clock=self.clock)
                self.endpoints[instance_id] = Endpoint(instance, link, gate, was_ready=link.ready)
        self._changed()

    def _link_changed(self, instance_id: str) -> None:
        endpoint = self.endpoints.get(instance_id)
        if endpoint is None:
            return
        was_ready, endpoint.was_ready = endpoint.was_ready, endpoint.link.ready
        if was_ready and not endpoint.was_ready and self.refresh is not None:
            self.refresh(self.service)
        self._changed()

    def _retire(self, link: Link, grace: float) -> None:
        closing = asyncio.create_task(link.close(grace), name=f"meshkit close {self.service}")
        self._leaving[closing] = link
        closing.add_done_callback(self._leaving.pop)


def _give_up(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


def _broken(policy: Policy, how: str) -> Internal:
    return Internal(f"the balancing policy {type(policy).__name__} {how}", reason="POLICY_FAILED")


def _told(policy: Policy, endpoint: Endpoint, seconds: float, error: MeshError | None) -> None:
    """Tells the policy; what it raises is logged, for the call is over."""
    try:
        policy.done(endpoint, seconds, error)
    except Exception:
        log.error("a policy failed", policy=type(policy).__name__, exception=traceback.format_exc())
