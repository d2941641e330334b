"""Calls to one instance, whatever the mesh thinks of it."""

from dataclasses import replace

import pytest

from meshkit import Unavailable
from meshkit._gen.meshkit.v1 import mesh_pb2 as pb
from meshkit._gen.meshkit.v1.mesh_client import MeshClient
from meshkit.instance import State
from meshkit.testing import LocalMesh
from tests.serving.probe import Probe, ProbeClient, Text


async def test_the_very_instance_answers_though_its_gate_is_shut_and_it_is_said_to_drain() -> None:
    async with LocalMesh(Probe, replicas=3) as mesh:
        await mesh.client(ProbeClient).write(Text(value="x"))
        for instance in await mesh.instances("probe"):
            mesh.pool("probe").endpoints[instance.instance_id].gate.shut("the test says so")
            said = replace(instance, state=State.DRAINING)
            async with mesh.reaching(MeshClient, said, permissions=["mesh:inspect"]) as client:
                for _ in range(3):
                    told = await client.measure(pb.MeasureRequest())
                    assert told.instance_id == instance.instance_id
        assert mesh.budget.retries == 0


@pytest.mark.parametrize("tls", [False, True])
async def test_streams_are_carried_too(tls: bool) -> None:
    async with LocalMesh(Probe, tls=tls) as mesh:
        (instance,) = await mesh.instances("probe")
        async with mesh.reaching(ProbeClient, instance) as client, client.list(Text(value="abc")) as replies:
            assert [reply.value async for reply in replies]
            assert replies.instance == instance.instance_id


async def test_nobody_else_answers_and_nothing_is_made_once_more() -> None:
    local = LocalMesh(Probe, replicas=2)
    async with local as mesh:
        first, second = await mesh.instances("probe")
        async with mesh.reaching(ProbeClient, replace(first, address=second.address)) as client:
            with pytest.raises(Unavailable) as caught:
                await client.read(Text(value="x"))
        assert caught.value.reason == "PROOF_MISDIRECTED"
        await local.kill(first.instance_id)
        async with mesh.reaching(ProbeClient, first) as client:
            with pytest.raises(Unavailable):
                await client.read(Text(value="x"), timeout=5)
        assert mesh.budget.retries == 0


async def test_what_is_claimed_must_be_permissions() -> None:
    async with LocalMesh(Probe) as mesh:
        (instance,) = await mesh.instances("probe")
        with pytest.raises(ValueError, match="permission 'inspect' is none"):
            async with mesh.reaching(ProbeClient, instance, permissions=["inspect"]):
                pass
