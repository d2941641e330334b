"""A service with `CU_ENV=production` from end to end: TLS to callers and to Redis, sealed records, a password."""

import asyncio
import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient

from meshkit import Mesh, SharedConfig, Unauthenticated, Unavailable
from meshkit.transport.reflecting import reflect
from meshkit.transport.tls import open_channel
from tests.certificates import Certificates, Signer, write_private
from tests.redis.servers import PASSWORD, tls_server

GREETER = Path(__file__).parents[2] / "examples" / "greeter"
SECONDS = 60.0


def settings(folder: Path, signer: Signer, redis_url: str, name: str) -> dict[str, str]:
    """The environment of a program of the mesh, with a certificate of its own."""
    authority = folder / "authority.pem"
    authority.write_bytes(signer.pem)
    own = str(write_private(folder / f"{name}.pem", signer.service(name).both))
    files = {f"GRPC_TLS_{side}_{kind}": own for side in ("SERVER", "CLIENT") for kind in ("CERT", "KEY")}
    return {
        "PATH": os.defpath,
        "CU_ENV": "production",
        "CU_STATE_DIR": str(folder / "state"),
        "CU_PROJECT_SECRET": "a-secret-of-production-that-is-long-enough",
        "CU_DRAIN_PROPAGATION_S": "0.1",
        "GRPC_HOST": "127.0.0.1",
        "GRPC_PORT": "0",
        "GRPC_TLS_ENABLED": "true",
        "GRPC_TLS_CA_CERT": str(authority),
        "REDIS_URL": redis_url,
        "REDIS_SECRET_KEY": f"k1:{base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip('=')}",
        **files,
    }


async def run(environment: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshkit", "run", "main:Greeter"),
        cwd=GREETER,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def printed(environment: dict[str, str], *words: str) -> tuple[int | None, str]:
    """What a command prints, and how it ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshkit", *words), env=environment, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    return process.returncode, output.decode()


async def logged(process: asyncio.subprocess.Process, event: str) -> dict[str, Any]:
    """The line of its log that tells of an event, once it is there; lines of production are JSON."""
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS):
        async for line in process.stdout:
            told: dict[str, Any] = json.loads(line)
            if told["event"] == event:
                return told
    raise AssertionError(f"it ended without {event!r}")


async def test_a_service_and_its_caller_in_production(tmp_path: Path) -> None:
    signer = Signer()
    certificates = Certificates.make(tmp_path / "redis-certificates")
    async with tls_server(tmp_path / "redis", certificates, password=PASSWORD) as redis:
        process = await run(settings(tmp_path, signer, redis.url, "greeter"))
        try:
            serving = await logged(process, "serving")
            config = SharedConfig.load(settings(tmp_path, signer, redis.url, "client"))
            async with Mesh(config) as mesh:
                greeter = mesh.client(GreeterClient)
                reply = await greeter.greet(pb.GreetRequest(name="Ada"), tenant="acme", timeout=30)
                assert reply.text == "Hello Ada (acme)"
                (instance,) = await mesh.instances("greeter")
                assert instance.instance_id == serving["instance"]
                secured = mesh.secured("greeter")
            request = '{"name": "Ada"}'
            words = ("call", "greeter/Greet", request, "--tenant", "acme", "--timeout", "30", "--compact")
            assert await printed(settings(tmp_path, signer, redis.url, "client"), *words) == (
                0,
                '{"text": "Hello Ada (acme)"}\n',
            )
            async with open_channel(instance.address, [], secured) as channel:
                with pytest.raises(Unauthenticated) as caught:  # a certificate alone shows nobody a contract
                    await reflect(channel, "greeter", timeout=30)
            assert caught.value.reason == "TOKEN_MISSING"
            process.terminate()
            await logged(process, "stopped")
            assert await asyncio.wait_for(process.wait(), SECONDS) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_a_stranger_with_a_certificate_of_its_own_authority_is_not_answered(tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path / "redis-certificates")
    async with tls_server(tmp_path / "redis", certificates, password=PASSWORD) as redis:
        process = await run(settings(tmp_path, Signer(), redis.url, "greeter"))
        try:
            await logged(process, "serving")
            stranger = tmp_path / "stranger"
            stranger.mkdir()
            config = SharedConfig.load(settings(stranger, Signer("a stranger"), redis.url, "client"))
            async with Mesh(config) as mesh:
                with pytest.raises(Unavailable) as caught:
                    await mesh.client(GreeterClient).greet(
                        pb.GreetRequest(name="Eve"), tenant="acme", timeout=3
                    )
                assert caught.value.unprocessed
                assert "authority" in caught.value.message
        finally:
            process.kill()
            await process.wait()


async def test_what_is_missing_for_production_is_told_in_one_report_before_a_port_is_bound(
    tmp_path: Path,
) -> None:
    process = await run({"PATH": os.defpath, "CU_ENV": "production", "CU_STATE_DIR": str(tmp_path / "state")})
    output, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    told = output.decode()
    assert process.returncode == 78, told
    for setting in ("GRPC_TLS_ENABLED", "CU_REGISTRY_URL", "CU_PROJECT_SECRET"):
        assert setting in told
