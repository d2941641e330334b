"""`meshkit.v1.MeshService`: every instance tells of itself and of whom it calls, to those who may ask."""

import secrets
from collections.abc import Callable

import pytest

from meshkit import Mesh, NotFound, PermissionDenied
from meshkit._gen.meshkit.v1 import mesh_pb2 as pb
from meshkit._gen.meshkit.v1.mesh_client import MeshClient
from meshkit.balancing.gate import GateState
from meshkit.inspection import described
from meshkit.testing import LocalMesh
from tests.serving.probe import Probe, ProbeClient, Text


def inspector(mesh: Mesh, *permissions: str) -> MeshClient:
    return mesh.client(MeshClient, service="probe", permissions=permissions or ("mesh:inspect",))


async def test_an_instance_tells_what_it_is_and_hides_its_secrets() -> None:
    secret = secrets.token_urlsafe(32)
    local = LocalMesh(Probe, settings={"zone": "eu-1", "service_version": "1.2.3", "project_secret": secret})
    async with local as mesh:
        told = await inspector(mesh).describe(pb.DescribeRequest())
        assert (told.service, told.instance_id) == ("probe", local.instances[0])
        assert (told.zone, told.version, told.state, told.registry) == (
            "eu-1",
            "1.2.3",
            "serving",
            "memory://",
        )
        settings = {each.name: each for each in told.settings}
        assert settings["CU_ZONE"].value == "eu-1"
        assert settings["CU_PROJECT_SECRET"].value.startswith("set")
        assert secret not in str(told)
        assert told.admission.running == 1, "this very call"
        assert told.budget.balance > 0


async def test_who_may_not_ask_is_refused() -> None:
    async with LocalMesh(Probe) as mesh:
        with pytest.raises(PermissionDenied) as caught:
            await inspector(mesh, "probe:*").describe(pb.DescribeRequest())
        assert caught.value.reason == "PERMISSION_MISSING"


async def test_what_was_refused_is_counted_and_what_the_service_raises_itself_is_not() -> None:
    local = LocalMesh(Probe)
    async with local as mesh:
        for _ in range(3):
            with pytest.raises(PermissionDenied):
                await mesh.client(ProbeClient, permissions=("other:*",)).write(Text(value="x"))
        with pytest.raises(NotFound):
            await inspector(mesh).list_pools(pb.ListPoolsRequest(services=["brain"]))
        told = await inspector(mesh).describe(pb.DescribeRequest())
    assert dict(told.refusals) == {"PERMISSION_MISSING": 3}


async def test_it_needs_no_tenant() -> None:
    async with LocalMesh(Probe, tenant="") as mesh:
        assert (await inspector(mesh).list_pools(pb.ListPoolsRequest())).pools == []


async def test_a_pool_that_was_never_used_is_named() -> None:
    async with LocalMesh(Probe) as mesh:
        with pytest.raises(NotFound, match="has not called brain"):
            await inspector(mesh).list_pools(pb.ListPoolsRequest(services=["brain"]))


async def test_whom_an_instance_calls_is_told(eventually: Callable[..., object]) -> None:
    local = LocalMesh(Probe, replicas=2)
    async with local as mesh:
        replica = local._running[local.instances[0]]
        client = replica.mesh.client(ProbeClient)
        with replica.mesh.scope(tenant="local"):
            for _ in range(4):
                await client.write(Text(value="x"))
        told = {
            trailers["x-cu-instance"]: each
            for _ in range(4)
            for trailers in [{}]
            for each in (
                await inspector(mesh).list_pools(
                    pb.ListPoolsRequest(), trailers=trailers, policy="round_robin"
                )
            ).pools
        }
        pool = told[replica.instance_id]
        assert (pool.service, pool.registry) == ("probe", "memory://")
        assert sum(endpoint.picks for endpoint in pool.endpoints) == 4
        assert {endpoint.gate for endpoint in pool.endpoints} == {"open"}
        assert [method.path for method in pool.methods] == ["/probe.v1.ProbeService/Write"]
        assert pool.methods[0].p99_s >= pool.methods[0].p50_s > 0
        assert {endpoint.expected_s > 0 for endpoint in pool.endpoints if endpoint.picks} == {True}


async def test_what_a_call_is_expected_to_take_is_told_by_a_policy_that_measures_it() -> None:
    async with LocalMesh(Probe, settings={"lb_policies": "probe=round_robin"}) as mesh:
        await mesh.client(ProbeClient).write(Text(value="x"))
        assert not described(mesh.pool("probe")).endpoints[0].HasField("expected_s")


async def test_what_keeps_calls_from_an_endpoint_is_told() -> None:
    async with LocalMesh(Probe, replicas=3) as mesh:
        await mesh.client(ProbeClient).write(Text(value="x"))
        pool = mesh.pool("probe")
        shut = pool.endpoints[sorted(pool.endpoints)[0]]
        shut.gate.shut("the test says so")
        pool.stale_since = 1_700_000_000.0
        told = described(pool)
        assert told.stale_since.ToSeconds() == 1_700_000_000
        first, *others = told.endpoints
        assert (first.gate, first.gate_reason) == (GateState.SHUT.value, "the test says so")
        assert 0 < first.gate_opens_in_s <= 1.1
        assert {other.gate for other in others} == {"open"}
        assert not told.panic
