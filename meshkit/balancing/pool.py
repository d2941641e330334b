"""The endpoints of one service: connections to its instances, made ahead of use, kept in step with discovery."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from meshkit.call import Call
from meshkit.errors import Cancelled, MeshError, Unavailable
from meshkit.instance import Instance, State
from meshkit.pipeline import Exchange, Handler, Middleware

log = structlog.get_logger("meshkit.balancing")

REST_S = 1.0
"""Seconds for which an instance that takes no calls (it starts, drains, or is another by now) is not asked again."""


class Link(Protocol):
    """A connection to one instance."""

    @property
    def ready(self) -> bool:
        """Whether a call begun now would be sent at once."""
        ...

    async def attempt(self, exchange: Exchange) -> None:
        """Makes the call over this connection, once."""
        ...

    async def close(self, grace: float) -> None:
        """Lets calls under way end, for at most `grace` seconds, and ends the connection."""
        ...


Dial = Callable[[Instance, Callable[[], None]], Link]
"""Begins to connect to an instance; calls back whenever the link's readiness may have changed."""


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


@dataclass(slots=True, eq=False)
class Endpoint:
    """One instance, as its callers see it.

    Attributes:
        instance: Its record.
        link: The connection to it.
        in_flight: Calls under way to it from this process.
        resting: Whether it said a moment ago that it takes no calls.
    """

    instance: Instance
    link: Link
    in_flight: int = 0
    resting: bool = False

    @property
    def usable(self) -> bool:
        """Whether it may be given a new call."""
        return self.instance.state is State.SERVING and not self.resting and self.link.ready


class Policy(Protocol):
    """Chooses among endpoints. Each `pick` is followed by one `done` for the same endpoint.

    Statistics that a policy keeps are its own, by instance id: endpoint objects come and go with connections.
    """

    def pick(self, endpoints: Sequence[Endpoint], call: Call) -> Endpoint:
        """Chooses one of the endpoints, of which there is at least one."""
        ...

    def done(self, endpoint: Endpoint, latency: float, error: MeshError | None) -> None:
        """Learns how a call to the endpoint went.

        Args:
            endpoint: What was picked.
            latency: Seconds until the first reply, or until the end where there was none.
            error: How it failed, or None; `Cancelled` where the caller gave it up, which says nothing of the endpoint.
        """
        ...


@dataclass(eq=False)
class EndpointPool:
    """The endpoints of one service.

    Attributes:
        service: Name of the service.
        watch: Where its instances are found.
        dial: How to connect to one.
        policy: How to choose among them.
        registry: What to call the registry when there is no instance.
        grace: Seconds that calls under way have when an instance has left.
        patience: Seconds that a call without a deadline waits for an endpoint.
        rewatch_s: Seconds before a watch that failed begins anew.
    """

    service: str
    watch: Watch
    dial: Dial
    policy: Policy
    registry: str
    grace: float = 30.0
    patience: float = 5.0
    rewatch_s: float = 1.0
    endpoints: dict[str, Endpoint] = field(default_factory=dict, init=False)
    _readable: bool = field(default=False, init=False)
    _waiters: set[asyncio.Future[None]] = field(default_factory=set, init=False)
    _watching: asyncio.Task[None] | None = field(default=None, init=False)
    _closing: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _closed: bool = field(default=False, init=False)

    def start(self) -> None:
        """Begins to watch, and to connect to what it finds."""
        if self._watching is None:
            loop = asyncio.get_running_loop()
            self._watching = loop.create_task(self._follow(), name=f"meshkit pool {self.service}")

    async def close(self) -> None:
        """Ends the watch and all connections. Calls that wait for an instance fail."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        for endpoint in self.endpoints.values():
            self._retire(endpoint, 0.0)
        self.endpoints.clear()
        self._changed()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def any_ready(self) -> bool:
        """Whether a call made now would be sent at once."""
        return any(endpoint.usable for endpoint in self.endpoints.values())

    async def changed(self) -> None:
        """Waits until an endpoint came, went, or changed."""
        await self._wait(float("inf"))

    def usable(self, tried: set[str]) -> list[Endpoint]:
        """The endpoints that may be given a call: those not tried yet, or all if each was tried."""
        usable = [endpoint for endpoint in self.endpoints.values() if endpoint.usable]
        if tried and (
            fresh := [endpoint for endpoint in usable if endpoint.instance.instance_id not in tried]
        ):
            return fresh
        return usable

    async def acquire(self, call: Call, tried: set[str]) -> Endpoint:
        """Picks an endpoint; without one it waits for one until the call's deadline. Does not suspend otherwise.

        A call without a deadline, a stream, waits as long as the pool's patience.

        Raises:
            Unavailable: None came in time, or the pool is closed.
        """
        while not (usable := self.usable(tried)):
            if self._closed:
                raise Unavailable("the mesh is closed", reason="MESH_CLOSED", service=self.service)
            remaining = call.deadline.remaining()
            if not await self._wait(self.patience if remaining == float("inf") else remaining):
                raise self._nobody()
        return self.policy.pick(usable, call)

    def rest(self, endpoint: Endpoint) -> None:
        """Gives an endpoint no calls for a moment: until the registry says otherwise of it, or `REST_S` have passed."""
        endpoint.resting = True
        asyncio.get_running_loop().call_later(REST_S, self._rested, endpoint)

    def _rested(self, endpoint: Endpoint) -> None:
        endpoint.resting = False
        self._changed()

    def _nobody(self) -> MeshError:
        known = len(self.endpoints)
        facts = {"service": self.service, "registry": self.registry}
        if known:
            why, reason = (
                f"{self.registry} knows {known}, and none of them is connected and serving",
                "NO_INSTANCE",
            )
        elif self._readable:
            why, reason = f"{self.registry} knows none", "NO_INSTANCE"
        else:
            why, reason = f"{self.registry} cannot be read; the log says why", "REGISTRY_UNREADABLE"
        error = Unavailable(
            f"no instance of {self.service} took the call in time: {why}", reason=reason, **facts
        )
        error.unprocessed = True
        return error

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
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _follow(self) -> None:
        while True:
            try:
                async with aclosing(self.watch(self.service)) as snapshots:
                    async for snapshot in snapshots:
                        self._readable = snapshot.stale_since is None
                        self._apply(snapshot.instances)
                return
            except Exception:
                log.error(
                    "the watch of a service failed and begins anew",
                    target=self.service,
                    exception=traceback.format_exc(),
                )
            await asyncio.sleep(self.rewatch_s)

    def _apply(self, instances: dict[str, Instance]) -> None:
        for instance_id, endpoint in list(self.endpoints.items()):
            known = instances.get(instance_id)
            if known is None or known.address != endpoint.instance.address:
                del self.endpoints[instance_id]
                self._retire(endpoint, self.grace)
            elif known != endpoint.instance:
                endpoint.instance = known
                endpoint.resting = False
        for instance_id, instance in instances.items():
            if instance_id not in self.endpoints:
                self.endpoints[instance_id] = Endpoint(instance, self.dial(instance, self._changed))
        self._changed()

    def _retire(self, endpoint: Endpoint, grace: float) -> None:
        closing = asyncio.create_task(
            endpoint.link.close(grace), name=f"meshkit close {endpoint.instance.instance_id}"
        )
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def _give_up(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


def balanced(pool: EndpointPool, *, clock: Callable[[], float] = time.monotonic) -> Middleware:
    """The layer that picks an endpoint for each attempt, and tells the policy how it went.

    Args:
        pool: The endpoints of the service that is called.
        clock: A monotonic clock, in seconds.
    """

    def wrap(next: Handler) -> Handler:
        async def picked(exchange: Exchange) -> None:
            endpoint = await pool.acquire(exchange.call, exchange.tried)
            exchange.endpoint = endpoint
            exchange.tried.add(endpoint.instance.instance_id)
            start = clock()
            failure: MeshError | None = None
            endpoint.in_flight += 1
            try:
                await next(exchange)
            except MeshError as error:
                if error is exchange.own_failure:
                    failure = Cancelled("the caller's own requests failed")
                    raise
                failure = error
                if isinstance(error, Unavailable) and error.unprocessed:
                    pool.rest(endpoint)
                raise
            except asyncio.CancelledError:
                failure = Cancelled("the caller gave the call up")
                raise
            finally:
                endpoint.in_flight -= 1
                pool.policy.done(endpoint, (exchange.first_reply or clock()) - start, failure)

        return picked

    return wrap


async def attempt(exchange: Exchange) -> None:
    """The innermost handler of an outgoing call: sends it over the link that was picked."""
    await exchange.endpoint.link.attempt(exchange)
