"""What a replica, a mesh and a process have to show: their figures, read from where they stand when somebody asks."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from meshkit.balancing.gate import GateState
from meshkit.instance import State
from meshkit.telemetry.figures import Family, Kind, durations, merged

if TYPE_CHECKING:
    from meshkit.balancing.endpoint import Endpoint
    from meshkit.balancing.pool import EndpointPool
    from meshkit.mesh import Mesh
    from meshkit.replica import Replica
    from meshkit.telemetry.calls import Calls
    from meshkit.telemetry.observing import Observer

STATES = tuple(State)
"""Where a replica may stand; one of them holds."""

ENDPOINT_STATES = ("ready", "unconnected", "resting", "starting", "draining")
"""Where an endpoint stands: it takes calls; it has no connection, or says that it does not serve; it said a moment ago
that it takes none; or what the registry says of it."""


def of_process(replicas: Iterable[Replica] = ()) -> list[Family]:
    """The figures of all replicas of this process, each under its service, and those of the process itself."""
    each = [
        ({"service": replica.name}, [*of_replica(replica), *of_mesh(replica.mesh)]) for replica in replicas
    ]
    return [*merged(each), *_process()]


def of_observer(observer: Observer) -> Iterator[Family]:
    """What is served, and refused."""
    yield durations("rpc.server.call.duration", "How long calls took that were served.", observer.calls)
    refusals = Family(
        "meshkit.refusals", "counter", "{call}", "Calls refused before the service's own code saw them."
    )
    for reason, count in list(observer.refusals.counts.items()):
        refusals.add(count, reason=reason)
    yield refusals
    shed = observer.refusals.shed
    yield _one("meshkit.sheds", "counter", "{call}", "Calls refused for want of room.", shed)


def of_replica(replica: Replica) -> Iterator[Family]:
    """What a replica serves, and how it is."""
    yield from of_observer(replica.observer)
    admission = replica.admission
    info = Family("meshkit.instance.info", "gauge", "{instance}", "Who this is; always 1.")
    facts = {"instance_id": replica.instance_id, "version": replica.config.service_version}
    info.add(1, **facts, zone=replica.config.zone, namespace=replica.config.namespace)
    yield info
    state = Family("meshkit.state", "gauge", "{instance}", "1 for what it does with calls now.")
    for each in STATES:
        state.add(each is replica.lifecycle.state, state=each.value)
    yield state
    ready = replica.lifecycle.ready
    yield _one("meshkit.ready", "gauge", "{instance}", "1 while it serves and lacks nothing.", ready)
    running = Family("meshkit.calls.running", "gauge", "{call}", "Calls that are served now.")
    running.add(admission.running, kind="unary")
    running.add(admission.streams, kind="stream")
    yield running
    yield _one(
        "meshkit.calls.limit", "gauge", "{call}", "Calls of each kind served at most.", admission.limit
    )
    late = replica.admission.lag.lately
    yield _one(
        "meshkit.loop.lag", "gauge", "s", "By how much the event loop was late at most, of late.", late
    )
    if (age := replica.lease_age()) is not None:
        yield _one("meshkit.lease.age", "gauge", "s", "Since its place in the registry was renewed.", age)
    yield _certificates(replica)


def of_mesh(mesh: Mesh) -> Iterator[Family]:
    """What is called over a mesh, and how the services look from here."""
    yield from of_calls(mesh.calls)
    budget = mesh.budget
    yield _one(
        "meshkit.retries", "counter", "{attempt}", "Attempts that were made once more.", budget.retries
    )
    yield _one("meshkit.hedges", "counter", "{attempt}", "Attempts made beside one under way.", budget.hedges)
    left = budget.balance()
    yield _one("meshkit.budget", "gauge", "{attempt}", "Retries and hedges that may still be made.", left)
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
    yield _one("meshkit.panic", "gauge", "{pool}", "1 while gates are ignored.", pool.selection().panic)
    yield _one("meshkit.picks", "counter", "{attempt}", "Attempts that were given an instance.", pool.picks)
    failed = pool.failures
    yield _one("meshkit.failures", "counter", "{attempt}", "Attempts that failed by their instance.", failed)
    under_way = pool.load.in_flight
    yield _one("meshkit.in_flight", "gauge", "{attempt}", "Attempts under way.", under_way)
    stale = 0.0 if pool.stale_since is None else max(0.0, time.time() - pool.stale_since)
    yield _one(
        "meshkit.registry.staleness", "gauge", "s", "Since when the registry cannot be read; or 0.", stale
    )


def _state(endpoint: Endpoint) -> str:
    if endpoint.instance.state is not State.SERVING:
        return endpoint.instance.state.value
    if endpoint.resting:
        return "resting"
    return "ready" if endpoint.link.ready else "unconnected"


def _certificates(replica: Replica) -> Family:
    family = Family(
        "meshkit.certificate.left", "gauge", "s", "Until a certificate ends; below 0 once it has."
    )
    for files in (replica.certificates, replica.mesh.certificates):
        if files is not None and (leaf := files.material.leaf) is not None:
            family.add(leaf.not_after - time.time(), side=files.use.name.lower())
    return family


def _process() -> Iterator[Family]:
    used = time.process_time()
    yield _one("process.cpu.time", "counter", "s", "Processor time of this process.", used)
    with suppress(OSError, ValueError):  # no /proc here
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory = pages * os.sysconf("SC_PAGE_SIZE")
        yield _one("process.memory.usage", "gauge", "By", "Memory of this process that is in use.", memory)


def _one(name: str, kind: Kind, unit: str, what: str, value: float) -> Family:
    family = Family(name, kind, unit, what)
    family.add(value)
    return family
