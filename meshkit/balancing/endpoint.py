"""One instance as its callers see it: the connection to it, the calls under way, the gate before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from meshkit.balancing.gate import Gate
from meshkit.instance import Instance, State
from meshkit.pipeline import Exchange


class Link(Protocol):
    """A connection to one instance."""

    @property
    def ready(self) -> bool:
        """Whether a call begun now would be sent at once."""
        ...

    @property
    def degraded(self) -> bool:
        """Whether it is connected to an instance that takes calls, though it says that it is not ready."""
        ...

    @property
    def trouble(self) -> str:
        """Why there is no connection; empty where there is one, or it is not known."""
        ...

    async def attempt(self, exchange: Exchange) -> None:
        """Makes the call over this connection, once."""
        ...

    async def ping(self, timeout: float) -> bool:
        """Whether the instance gives any answer within `timeout` seconds."""
        ...

    async def close(self, grace: float) -> None:
        """Lets calls under way end, for at most `grace` seconds, and ends the connection.

        May be called again meanwhile: the grace that ends first holds.
        """
        ...


@dataclass(slots=True, eq=False)
class Flight:
    """An attempt under way that has brought no reply yet.

    Attributes:
        started: When it was begun, on the pool's clock.
        exchange: The call.
        abandoned: Whether the pool gave it up, since the endpoint does not answer.
    """

    started: float
    exchange: Exchange
    abandoned: bool = False


@dataclass(slots=True, eq=False, weakref_slot=True)
class Endpoint:
    """One instance, as its callers see it. The object stays the same for as long as the instance is known.

    Attributes:
        instance: Its record.
        link: The connection to it.
        gate: Whether it is trusted with calls.
        since: When it could be called for the first time, on the pool's clock; None until then.
        weight: Its share relative to others now: what its record says, less while it starts slowly.
        in_flight: Calls under way to it from this process.
        flights: Those that have brought no reply yet, the oldest first.
        answered_at: When it last answered anything, on the pool's clock.
        resting: Whether it said a moment ago that it takes no calls.
        was_ready: Whether its link was ready when last heard of.
        picks: How often it was picked.
        failures: How many of these calls failed.
    """

    instance: Instance
    link: Link
    gate: Gate = field(default_factory=Gate)
    since: float | None = None
    weight: float = 1.0
    in_flight: int = 0
    flights: dict[int, Flight] = field(default_factory=dict)
    answered_at: float = 0.0
    resting: bool = False
    was_ready: bool = False
    picks: int = 0
    failures: int = 0

    @property
    def usable(self) -> bool:
        """Whether a new call could be sent to it; its gate may be against that."""
        return self.instance.state is State.SERVING and not self.resting and self.link.ready

    @property
    def degraded(self) -> bool:
        """Whether a new call could be sent to it where there is nobody better: it takes calls, and is not ready."""
        return self.instance.state is State.SERVING and not self.resting and self.link.degraded


Dial = Callable[[Instance, Callable[[], None]], Link]
"""Begins to connect to an instance; calls back whenever the link's readiness may have changed."""
