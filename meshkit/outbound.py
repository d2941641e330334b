"""What calls other services has to show: its calls, and how the services look from here."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from meshkit.balancing.gate import GateState
from meshkit.instance import State
from meshkit.telemetry.figures import Family, Kind, durations, merged

if TYPE_CHECKING:
    from meshkit.balancing.endpoint import Endpoint
    from meshkit.balancing.pool import EndpointPool
    from meshkit.resilience.retry import Budget
    from meshkit.telemetry.calls import Calls

ENDPOINT_STATES = ("ready", "unconnected", "resting", "starting", "draining")
"""Where an endpoint stands: it takes calls; it has no connection, or says that it does not serve; it said a moment ago
that it takes none; or what the registry says of it."""


class Calling(Protocol):
    """What calls services; a `Mesh`."""

    budget: Budget
    calls: dict[str, Calls]

    @property
    def pools(self) -> Mapping[str, EndpointPool]:
        """The services that it called, and their endpoints."""
        ...


def of_mesh(mesh: Calling) -> Iterator[Family]:
    """What is called over a mesh, and how the services look from here."""
    yield from of_calls(mesh.calls)
    budget = mesh.budget
    yield one("meshkit.retries", "counter", "{attempt}", "Attempts that were made once more.", budget.retries)
    yield one("meshkit.hedges", "counter", "{attempt}", "Attempts made beside one under way.", budget.hedges)
    left = budget.balance()
    yield one("meshkit.budget", "gauge", "{attempt}", "Retries and hedges that may still be made.", left)
    yield from merged(({"target": name}, _of_pool(pool)) for name, pool in list(mesh.pools.items()))


def of_calls(calls: Mapping[str, Calls]) -> list[Family]:
    """The calls that are made, by service."""
    what = "How long calls took, with all attempts."
    each = [
        durations("rpc.client.call.duration", what, made, server__address=name)
        for name, made in list(calls.items())
    ]
    return merged(({}, [family]) for family in each)


def _of_pool(pool: EndpointPool) -> Iterator[Family]:
    known = list(pool.endpoints.values())
    states = Counter(_state(endpoint) for endpoint in known)
    endpoints = Family("meshkit.endpoints", "gauge", "{instance}", "Instances of a service, by state.")
    for state in ENDPOINT_STATES:
        endpoints.add(states[state], state=state)
    yield endpoints
    gates = Family(
        "meshkit.gates", "gauge", "{instance}", "Instances of a service, by where their gates stand."
    )
    stand = Counter(endpoint.gate.state for endpoint in known)
    for gate in GateState:
        gates.add(stand[gate], state=gate.value)
    yield gates
    yield one("meshkit.panic", "gauge", "{pool}", "1 while gates are ignored.", pool.selection().panic)
    yield one("meshkit.picks", "counter", "{attempt}", "Attempts that were given an instance.", pool.picks)
    failed = pool.failures
    yield one("meshkit.failures", "counter", "{attempt}", "Attempts that failed by their instance.", failed)
    under_way = pool.load.in_flight
    yield one("meshkit.in_flight", "gauge", "{attempt}", "Attempts under way.", under_way)
    stale = 0.0 if pool.stale_since is None else max(0.0, time.time() - pool.stale_since)
    yield one(
        "meshkit.registry.staleness", "gauge", "s", "Since when the registry cannot be read; or 0.", stale
    )


def _state(endpoint: Endpoint) -> str:
    if endpoint.instance.state is not State.SERVING:
        return endpoint.instance.state.value
    if endpoint.resting:
        return "resting"
    return "ready" if endpoint.link.ready else "unconnected"


def one(name: str, kind: Kind, unit: str, what: str, value: float) -> Family:
    """A family of one figure."""
    family = Family(name, kind, unit, what)
    family.add(value)
    return family
