"""Bad input that no other test takes to its end: the code, the reason, what the caller may know, what mends it."""

import asyncio
import socket
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient

from meshkit import Call, Mesh, ResourceExhausted, SharedConfig, Unavailable
from meshkit.discovery.file import FileRegistry
from meshkit.replica import Replica
from meshkit.testing import LocalMesh
from tests.security.handmade import SETTINGS, Handmade, call
from tests.serving.probe import Probe, ProbeClient, Text

ROOT = Path(__file__).parents[2]
LARGE = Text(value="x" * 2_000_000)


def address_of(local: LocalMesh) -> str:
    found = local.service(local.instances[0]).instance
    assert found is not None
    return found.address


@pytest.mark.parametrize("path", ["/probe.v1.ProbeService/Nope", "/nobody.v1.NobodyService/Nope"])
async def test_an_unknown_method_has_a_reason_and_says_who_answered(path: str) -> None:
    local = LocalMesh(Probe, settings=SETTINGS)
    async with local:
        outcome = await call(address_of(local), path, b"", Handmade("probe").headers(path, b""))
        assert (outcome.code, outcome.reason) == ("UNIMPLEMENTED", "METHOD_UNKNOWN")
        assert outcome.trailers["x-cu-instance"] == local.instances[0]


@pytest.mark.parametrize("largest", [1, 16])
async def test_a_message_too_large_has_a_reason_and_names_the_setting(largest: int) -> None:
    local = LocalMesh(
        Probe, settings={"grpc_max_message_mb": largest}, configs={Probe: {"grpc_max_message_mb": 1}}
    )
    async with local as mesh:
        probe: Any = local.service(local.instances[0])

        async def answer_large(request: Text, call: Call) -> Text:
            return LARGE

        for request in (LARGE, Text()):
            with pytest.raises(ResourceExhausted) as caught:
                await mesh.client(ProbeClient).read(request)
            assert caught.value.reason == "MESSAGE_TOO_LARGE"
            assert "GRPC_MAX_MESSAGE_MB" in caught.value.message
            probe.behave["Read"] = answer_large


async def test_an_anonymous_caller_learns_nothing_of_the_largest_message() -> None:
    local = LocalMesh(Probe, settings={**SETTINGS, "grpc_max_message_mb": 1})
    async with local:
        outcome = await call(address_of(local), "/probe.v1.ProbeService/Read", LARGE.SerializeToString(), [])
        assert (outcome.code, outcome.reason) == ("UNAUTHENTICATED", "TOKEN_MISSING")


async def test_a_caller_of_a_service_is_not_told_where_its_registry_is(tmp_path: Path) -> None:
    local = LocalMesh(Probe)
    async with local as mesh:
        probe: Any = local.service(local.instances[0])
        inner = Mesh(SharedConfig(state_dir=tmp_path, tenant="local"), name="probe")

        async def ask(request: Text, call: Call) -> Text:
            await inner.client(GreeterClient).greet(pb.GreetRequest(name="Ada"), timeout=0.1)
            return Text()

        probe.behave["Read"] = ask
        async with inner:
            with pytest.raises(Unavailable) as caught:
                await mesh.client(ProbeClient).read(Text())
        assert "greeter" in caught.value.message
        assert caught.value.reason == "NO_INSTANCE"
        told = f"{caught.value.message} {caught.value.details}"
        assert str(tmp_path) not in told
        assert "file://" not in told


async def test_a_call_over_a_registry_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "registry"
    broken.touch()
    config = SharedConfig(state_dir=tmp_path, tenant="local", registry_url=f"file://{broken}")
    async with Mesh(config) as mesh:
        with pytest.raises(Unavailable) as caught:
            await mesh.client(GreeterClient).greet(pb.GreetRequest(name="Ada"), timeout=0.5)
    assert caught.value.reason == "REGISTRY_UNREADABLE"
    assert str(broken) in caught.value.message
    assert "knows none" not in caught.value.message


async def test_the_log_says_how_to_mend_a_registry_that_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "meshkit.discovery")
    broken = tmp_path / "registry"
    broken.touch()
    config = SharedConfig(state_dir=tmp_path, tenant="local", registry_url=f"file://{broken}")
    async with Mesh(config) as mesh:
        with pytest.raises(Unavailable) as caught:
            await mesh.client(GreeterClient).greet(pb.GreetRequest(name="Ada"), timeout=0.5)
    assert caught.value.code == "UNAVAILABLE"
    assert "remove it, or name another folder in CU_REGISTRY_URL" in caplog.text


async def test_calls_go_on_while_the_registry_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "meshkit.discovery")
    root = tmp_path / "registry"
    config = Probe.config_class()(state_dir=tmp_path, grpc_port=0, tenant="local", drain_propagation_s=0.05)
    registry = FileRegistry(root, lease_ttl=1)
    replica = Replica(Probe, config, registry)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(registry.close)
        await replica.start()
        stack.push_async_callback(replica.drain)
        mesh = await stack.enter_async_context(Mesh(config, registry))
        client = mesh.client(ProbeClient)
        await client.read(Text())
        root.rename(tmp_path / "away")
        root.touch()
        async with asyncio.timeout(30):
            while "the last known instances stand" not in caplog.text:
                await client.read(Text(value="meanwhile"))
        assert (await client.read(Text(value="after"))).value == "after"
        root.unlink()
        (tmp_path / "away").rename(root)


def run_greeter(tmp_path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "examples" / "greeter" / "main.py"],
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "CU_STATE_DIR": str(tmp_path / "state"),
            "GRPC_PORT": "0",
            **settings,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_service_whose_registry_cannot_be_used_says_so_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "registry").touch()
    done = run_greeter(tmp_path, CU_REGISTRY_URL=f"file://{tmp_path}/registry")
    assert done.returncode == 1
    assert "remove it, or name another folder in CU_REGISTRY_URL" in done.stderr
    assert "REGISTRY_UNWRITABLE" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_names_the_setting_that_mends_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_greeter(tmp_path, GRPC_PORT=str(port))
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if line.startswith(f"127.0.0.1:{port}")]
    assert "in use" in said
    assert "GRPC_PORT" in said
    assert "GRPC_VERBOSITY" not in said


def test_a_broken_keys_file_is_a_wrong_setting(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text('[[key]]\nproject = "shop"\nsecret = "not-to-be-shown"\n')
    keys.chmod(0o600)
    done = run_greeter(tmp_path, CU_PROJECT_KEYS_FILE=str(keys))
    assert done.returncode == 78
    assert f"CU_PROJECT_KEYS_FILE: keys file {keys} [[key]] number 1, kid" in done.stderr
    assert "not-to-be-shown" not in done.stderr
    assert "Traceback" not in done.stderr
