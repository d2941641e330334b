"""What the replicas of a process have to show: their figures, read from where they stand when somebody asks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from meshkit.inbound import of_observer, of_this_process
from meshkit.instance import State
from meshkit.outbound import of_mesh, one
from meshkit.telemetry.figures import Family, merged

if TYPE_CHECKING:
    from meshkit.parts import Parts

STATES = tuple(State)
"""Where a replica may stand; one of them holds."""


def of_process(replicas: Iterable[Parts]) -> list[Family]:
    """The figures of all replicas of this process, each under its service, and those of the process itself."""
    each = [
        ({"service": replica.name}, [*of_replica(replica), *of_mesh(replica.mesh)]) for replica in replicas
    ]
    return [*merged(each), *of_this_process()]


def of_replica(replica: Parts) -> Iterator[Family]:
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
    yield one("meshkit.ready", "gauge", "{instance}", "1 while it serves and lacks nothing.", ready)
    running = Family("meshkit.calls.running", "gauge", "{call}", "Calls that are served now.")
    running.add(admission.running, kind="unary")
    running.add(admission.streams, kind="stream")
    yield running
    yield one("meshkit.calls.limit", "gauge", "{call}", "Calls of each kind served at most.", admission.limit)
    late = replica.admission.lag.lately
    yield one("meshkit.loop.lag", "gauge", "s", "By how much the event loop was late at most, of late.", late)
    if (age := replica.lease_age()) is not None:
        yield one("meshkit.lease.age", "gauge", "s", "Since its place in the registry was renewed.", age)
    yield _certificates(replica)


def _certificates(replica: Parts) -> Family:
    family = Family(
        "meshkit.certificate.left", "gauge", "s", "Until a certificate ends; below 0 once it has."
    )
    for files in (replica.certificates, replica.mesh.certificates):
        if files is not None and (leaf := files.material.leaf) is not None:
            family.add(leaf.not_after - time.time(), side=files.use.name.lower())
    return family
