"""Health under TLS: for those who have a certificate, and for probes that have none."""

from __future__ import annotations

import socket
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshkit import SharedConfig, State
from meshkit._gen.meshkit.v1 import mesh_pb2 as pb
from meshkit._gen.meshkit.v1.mesh_client import MeshClient
from meshkit.discovery.memory import MemoryRegistry
from meshkit.replica import Replica
from meshkit.testing import LocalMesh
from meshkit.transport.probing import probe
from meshkit.transport.server import PortTaken
from tests.certificates import Signer
from tests.serving.probe import Probe
from tests.tls.parts import Files, serving, settings

LOOPBACK = "127.0.0.1"


@pytest.fixture
def config(tmp_path: Path, authority: Signer) -> SharedConfig:
    files = Files(tmp_path / "probe").write(authority, authority.service("probe"))
    return SharedConfig(**settings(files, grpc_tls_require_client_auth=True, health_port=0))


async def test_a_probe_without_a_certificate_asks_the_health_port(config: SharedConfig) -> None:
    async with serving(MemoryRegistry(), config) as replica:
        address = f"{LOOPBACK}:{replica.probed_at}"
        assert (await probe(address, timeout=20)).serves
        assert (await probe(address, timeout=20, contract="probe.v1.ProbeService")).serves
        replica.health.set(State.DRAINING)
        assert (await probe(address, timeout=20)).status == "NOT_SERVING"
        assert replica.instance is not None
        secured = await probe(replica.instance.address, timeout=20)
        assert secured.problem == (
            "it closed the connection at once: it may speak TLS, and GRPC_TLS_ENABLED is off here"
        )
    gone = await probe(address, timeout=20)
    assert gone.problem == "Connection refused"


async def test_the_health_port_serves_nothing_else(config: SharedConfig) -> None:
    async with (
        serving(MemoryRegistry(), config) as replica,
        grpc.aio.insecure_channel(f"{LOOPBACK}:{replica.probed_at}") as channel,
    ):
        assert await health_pb2_grpc.HealthStub(channel).Check(  # type: ignore[no-untyped-call]
            health_pb2.HealthCheckRequest(), timeout=20
        )
        for path in (
            "/probe.v1.ProbeService/Read",
            "/meshkit.v1.MeshService/Describe",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(path)(b"", timeout=20)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_it_says_that_a_replica_starts_and_drains(config: SharedConfig) -> None:
    replica = Replica(Probe, config, MemoryRegistry())
    replica.bind()
    assert replica.health_port is not None
    await replica.health_port.start()
    try:
        assert (await probe(f"{LOOPBACK}:{replica.probed_at}", timeout=20)).status == "NOT_SERVING"
    finally:
        await replica.kill()


async def test_a_health_port_that_is_taken_is_named_with_its_setting(config: SharedConfig) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        replica = Replica(Probe, config.model_copy(update={"health_port": port}), MemoryRegistry())
        try:
            with pytest.raises(PortTaken, match=f"{LOOPBACK}:{port} .*: set CU_HEALTH_PORT to another port"):
                replica.bind()
        finally:
            await replica.leave()


async def test_without_the_setting_there_is_no_health_port() -> None:
    local = LocalMesh(Probe)
    async with local:
        (replica,) = local._running.values()
        assert (replica.health_port, replica.probed_at) == (None, None)


async def test_an_instance_tells_until_when_its_certificates_hold() -> None:
    async with LocalMesh(Probe, tls=True) as mesh:
        client = mesh.client(MeshClient, service="probe", permissions=["mesh:inspect"])
        told = await client.describe(pb.DescribeRequest(), timeout=20)
        assert [each.side for each in told.certificates] == ["server", "client"]
        for each in told.certificates:
            assert each.spiffe_id == "spiffe://contextunity/probe"
            assert Path(each.file).name == "probe.pem"
            days = (each.not_after.ToSeconds() - told.started_at.ToSeconds()) / 86400
            assert days == pytest.approx(7, abs=0.1)


async def test_without_tls_there_are_no_certificates_to_tell_of() -> None:
    async with LocalMesh(Probe) as mesh:
        client = mesh.client(MeshClient, service="probe", permissions=["mesh:inspect"])
        assert not (await client.describe(pb.DescribeRequest(), timeout=20)).certificates
