"""Between leaving the registry's serving set and refusing calls, a drain waits for callers to hear of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from meshkit import State
from meshkit.testing import LocalMesh
from tests.security.handmade import SETTINGS, Handmade, call
from tests.serving.probe import Probe

READ = "/probe.v1.ProbeService/Read"


async def outcome(address: str) -> str:
    return (await call(address, READ, b"", Handmade("probe").headers(READ, b""))).code


async def test_callers_that_have_not_heard_of_a_drain_are_still_served(
    eventually: Callable[..., Awaitable[None]],
) -> None:
    local = LocalMesh(Probe, settings={**SETTINGS, "drain_propagation_s": 60.0})
    async with local as mesh:
        (name,) = local.instances
        replica: Any = local._running.pop(name)
        pool = mesh.pool("probe")
        await eventually(lambda: bool(pool.endpoints))
        hurry = asyncio.Event()
        drain = asyncio.create_task(replica.drain(hurry))
        await eventually(
            lambda: any(each.instance.state is State.DRAINING for each in pool.endpoints.values())
        )
        assert await outcome(replica.instance.address) == "OK"
        hurry.set()
        await asyncio.wait_for(drain, 10)
        assert await outcome(replica.instance.address) == "UNAVAILABLE"


async def test_a_registry_that_hangs_does_not_keep_a_drain_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("meshkit.replica.LEASE_S", 0.05)
    local = LocalMesh(Probe)
    async with local:
        (name,) = local.instances
        lease: Any = local._running[name]._lease

        async def hang(**changes: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(lease, "update", hang)
        await asyncio.wait_for(local.drain(name), 10)
