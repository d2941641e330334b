"""Which endpoints calls may go to now: those that can be called, past their gates, in the caller's own zone first."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meshkit.balancing.endpoint import Endpoint
from meshkit.balancing.policy import Candidates, Load, Policy
from meshkit.call import Call

PANIC_SHARE = 0.5
"""Share of open gates below which gates are ignored: when most fail it is likely not they, and none is left to take
what the others cannot (Envoy's panic threshold)."""

OVERPROVISIONED = 1.4
"""How many times its calls a zone is taken to be able to serve: until it has lost more than that, it keeps all of them
(Envoy's overprovisioning factor)."""

LEAST_RAMP = 0.1
"""Share of its weight with which an endpoint begins."""

RAMP_STEP_S = 1.0
"""Seconds between two steps of a slow start."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The endpoints that calls may go to, until something changes.

    Attributes:
        everywhere: All of them.
        near: Those of the caller's zone; all, where zones do not matter.
        far: The others, where some calls spill over to them; else None.
        spill: Share of calls that go to the others.
        panic: Whether gates are ignored.
        degraded: Whether nobody is ready, so that those are called who take calls nevertheless.
        ramping: Whether somebody starts slowly, so that this is to be worked out again soon.
    """

    everywhere: Candidates
    near: Candidates
    far: Candidates | None
    spill: float
    panic: bool
    ramping: bool
    degraded: bool = False

    def pick(
        self, policy: Policy, call: Call, *, whole_pool: bool, uniform: Callable[[], float] = random.random
    ) -> Endpoint:
        """Has the policy choose; there must be somebody to choose from.

        Args:
            policy: The policy.
            call: The call.
            whole_pool: Whether it chooses among all zones.
            uniform: Random number from 0 up to 1.
        """
        if whole_pool:
            return policy.pick(self.everywhere, call)
        if self.far is not None and uniform() < self.spill:
            return policy.pick(self.far, call)
        return policy.pick(self.near, call)


def select(
    endpoints: Sequence[Endpoint], load: Load, *, now: float, zone: str = "", slow_start: float = 0.0
) -> Selection:
    """Works out who may be called.

    Args:
        endpoints: The endpoints that are known.
        load: The calls under way.
        now: The pool's time, in seconds.
        zone: The caller's own zone; empty where zones do not matter.
        slow_start: Seconds in which an endpoint comes to its full weight; 0 for at once.
    """
    usable = [endpoint for endpoint in endpoints if endpoint.usable]
    degraded = not usable
    if degraded:
        usable = [endpoint for endpoint in endpoints if endpoint.degraded]
    trusted = [endpoint for endpoint in usable if endpoint.gate.open]
    panic = len(trusted) < PANIC_SHARE * len(usable)
    chosen = usable if panic else trusted
    ramping = _weigh(chosen, now, slow_start)
    everywhere = Candidates(chosen, load)
    near = [endpoint for endpoint in chosen if endpoint.instance.zone == zone] if zone else chosen
    if not near or len(near) == len(chosen):
        return Selection(everywhere, everywhere, None, 0.0, panic, ramping, degraded)
    known = sum(1 for endpoint in endpoints if endpoint.instance.zone == zone)
    spill = max(0.0, 1.0 - OVERPROVISIONED * len(near) / known)
    far = [endpoint for endpoint in chosen if endpoint.instance.zone != zone] if spill else []
    beyond = Candidates(far, load) if far else None
    return Selection(everywhere, Candidates(near, load), beyond, spill, panic, ramping, degraded)


def _weigh(endpoints: Sequence[Endpoint], now: float, slow_start: float) -> bool:
    """Sets the weights of the moment; returns whether any of them grows."""
    ramping = False
    for endpoint in endpoints:
        if endpoint.since is None:
            endpoint.since = now
        age = now - endpoint.since
        ramp = 1.0
        if age < slow_start:
            ramping = True
            ramp = max(LEAST_RAMP, age / slow_start)
        endpoint.weight = endpoint.instance.weight * ramp
    return ramping
