"""What a process has at one moment: its memory, its tasks, its descriptors, and what the mesh keeps in it."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from meshkit import Mesh
from meshkit.balancing.peak_ewma import PeakEwma
from meshkit.discovery.redis import RedisRegistry
from meshkit.measuring import of_replica
from meshkit.outbound import of_mesh
from meshkit.replica import Replica
from meshkit.telemetry.calls import Calls
from meshkit.telemetry.figures import Family

Figures = dict[str, float]

MEGABYTE = 1e6

BLOCKS_A_CALL = 3
"""Of a call that is remembered for how long it took: two numbers in a tuple."""

MAY_GROW: Mapping[str, float] = {
    "resident MB": 10,  # what allocators keep goes up and down by 6; what signs calls comes to 2 a client
    "tasks": 3,  # a job, and the renewal of a token, may be under way
    "descriptors": 2,  # a pool of connections to Redis opens one more when it is needed
    "connections": 4,  # those
    "threads": 4,  # gRPC's own come and go as there is work
    "blocks": 40_000,  # what signs calls that are alike: 1024 a client, at a dozen each; a row of the registry takes 5
    "rows remembered": 200,  # one an instance, and one more where it was released: forgotten after 15 minutes
    "latencies": 40,  # one an instance: forgotten after 2.5 minutes
    "calls remembered": 20 * 512,  # the latest 512 of each method
    "tokens": 60,  # those of a tenant overlap when they are renewed
    "verified tokens": 120,  # those that have ended are forgotten as others come
    "tenants": 20,  # as many as there are
    "nonces": 200,  # those of the last seconds
    "lines": 20 * 20,  # those of the series below
    "series": 20,  # one a method and status: which fault shows first is chance
}
"""How much more of a thing there may be in the end than in the middle; of what is not here, nothing."""


def of_process(pid: int) -> Figures:
    """What can be seen of a process from outside."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return {
        "resident MB": pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE,
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
    }


def of_python(mesh: Figures) -> Figures:
    """What there is in this process; blocks are those of Python's allocator, without those of calls remembered.

    Args:
        mesh: What the mesh keeps in it.
    """
    gc.collect()
    _give_back()
    blocks = sys.getallocatedblocks() - BLOCKS_A_CALL * mesh["calls remembered"]
    return {"tasks": len(asyncio.all_tasks()), "blocks": blocks, **mesh}


def of_a_mesh(mesh: Mesh) -> Figures:
    """What a mesh keeps of those that it calls."""
    pools = mesh.pools.values()
    policies = [policies.usual for policies in mesh._policies.values()]
    shielded = mesh.shielded
    return {
        "endpoints": sum(len(pool.endpoints) for pool in pools),
        "links leaving": sum(len(pool._leaving) for pool in pools),
        "gates not open": sum(len(pool.outliers._shut) for pool in pools),
        "latencies": sum(len(policy._known) for policy in policies if isinstance(policy, PeakEwma)),
        "calls remembered": _remembered(mesh.calls.values())
        + sum(len(each._recent) for pool in pools for each in pool.outliers.methods.values()),
        "rows remembered": _rows_of(mesh),
        "followers": len(mesh.certificates._followers) if mesh.certificates else 0,
        "tokens": len(shielded.tokens) if shielded else 0,
        "series": _series(of_mesh(mesh)),
    }


def of_a_replica(replica: Replica) -> Figures:
    """What a replica keeps of those that call it, and of those that it calls."""
    guard, admission = replica._guard, replica.admission
    mesh = of_a_mesh(replica.mesh)
    return {
        **mesh,
        "calls remembered": mesh["calls remembered"] + _remembered([replica.observer.calls]),
        "nonces": len(guard.nonces),
        "verified tokens": len(guard.verifier._seen),
        "tenants": len(admission.calls._tenants),
        "calls": admission.running + admission.streams,
        "series": _series([*of_replica(replica), *of_mesh(replica.mesh)]),
    }


def grown(before: Figures, after: Figures) -> list[str]:
    """What there is more of than there may be."""
    return [
        f"{name} {before[name]:.0f} -> {after[name]:.0f}"
        for name in before
        if after[name] > before[name] + MAY_GROW.get(name, 0)
    ]


def _give_back() -> None:
    """Has the C library give back to the system what is free: else resident memory is mostly what it keeps."""
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _remembered(each: Iterable[Calls]) -> int:
    return sum(len(tally.latencies._recent) for calls in each for tally in calls.by_method.values())


def _rows_of(mesh: Mesh) -> int:
    registry = mesh.registry
    if not isinstance(registry, RedisRegistry):
        return 0
    readers = [watch._reader for watch in registry._watches.values()]
    return sum(len(reader._newest) + len(reader._released) for reader in readers)


def _series(families: Iterable[Family]) -> int:
    return sum(len(family.samples) for family in families)
