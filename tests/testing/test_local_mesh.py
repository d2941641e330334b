"""The kit that users test their services with."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient
from main import Greeter

from meshkit import Unavailable, resource
from meshkit.testing import LocalMesh
from tests.serving.probe import CONTRACT, Probe, ProbeClient, Text

pytest_plugins = ["pytester"]


async def test_it_runs_services_and_takes_them_away_again(tmp_path: Path) -> None:
    local = LocalMesh(Greeter, Probe, replicas={Probe: 2})
    before = len(asyncio.all_tasks())
    async with local as mesh:
        assert len(local.instances) == 3
        assert (
            await mesh.client(GreeterClient).greet(pb.GreetRequest(name="Ada"))
        ).text == "Hello Ada (local)"
        assert sorted(await mesh.services()) == ["greeter", "probe"]
        state = mesh.config.state_dir
        assert state.exists()
    assert local.instances == []
    assert not state.exists()
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) <= before


async def test_settings_tenant_and_overrides_are_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CU_TENANT", "from-the-environment")

    @asynccontextmanager
    async def real(service: Any) -> AsyncGenerator[str, None]:
        raise AssertionError("the real one is not opened")
        yield ""

    @asynccontextmanager
    async def fake(service: Any) -> AsyncGenerator[str, None]:
        yield "fake"

    class Holding(Probe, contract=CONTRACT):
        held = resource(real)

    local = LocalMesh(Holding, overrides={real: fake}, tenant="acme", settings={"zone": "z1"})
    async with local as mesh:
        await mesh.client(ProbeClient).read(Text())
        probe: Any = local.service(local.instances[0])
        assert probe.held == "fake"
        assert probe.calls[0].tenant == "acme"
        assert probe.instance.zone == "z1"


async def test_instances_are_started_drained_and_killed_at_will() -> None:
    local = LocalMesh(Probe)
    async with local as mesh:
        client = mesh.client(ProbeClient)
        second = await local.start(Probe)
        first = local.instances[0]
        await local.drain(first)
        assert local.instances == [second]
        assert (await client.write(Text(value="x"))).value == "x"
        await local.kill(second)
        assert local.instances == []
        with pytest.raises(Unavailable):
            await client.write(Text(value="x"), timeout=0.05)
        await local.start(Probe)
        assert (await client.write(Text(value="x"))).value == "x"


async def test_two_meshes_in_one_process_do_not_notice_each_other() -> None:
    one, other = LocalMesh(Probe), LocalMesh()
    async with one as mesh, other as strange:
        await mesh.client(ProbeClient).read(Text())
        with pytest.raises(Unavailable):
            await strange.client(ProbeClient).read(Text(), timeout=0.05)


async def test_an_error_inside_the_block_is_not_swallowed_and_all_is_closed() -> None:
    local = LocalMesh(Probe)
    with pytest.raises(ZeroDivisionError):
        async with local:
            raise ZeroDivisionError
    assert local.instances == []


async def test_the_plugin_makes_meshes_with_the_projects_settings(local_mesh: Any) -> None:
    async with local_mesh(Probe, settings={"zone": "here"}) as mesh:
        assert mesh.config.zone == "here"
        assert (await mesh.client(ProbeClient).read(Text(value="x"))).value == "x"


def test_a_project_may_override_the_plugins_settings(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def local_mesh_settings():
            return {"zone": "project", "service_version": "1.2.3"}
        """
    )
    pytester.makepyfile(
        """
        async def run(local_mesh):
            async with local_mesh(settings={"zone": "test"}) as mesh:
                return mesh.config.zone, mesh.config.service_version

        def test_it(local_mesh):
            import asyncio

            assert asyncio.run(run(local_mesh)) == ("test", "1.2.3")
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_the_plugin_loads_nothing_of_weight() -> None:
    code = (
        "import sys, meshkit.testing.pytest_plugin;"
        "heavy = {'grpc', 'google.protobuf', 'pydantic', 'structlog', 'cryptography', 'meshkit.mesh'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
