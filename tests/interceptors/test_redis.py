"""An existing server in a mesh with a Redis: revocations, nonces and keys that stand there count for it, too."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from greeter.v1 import greeter_pb2_grpc

from meshkit.config import RedisUrl
from meshkit.interceptors import MeshInterceptor
from meshkit.redis.database import Database
from meshkit.redis.sealing import Sealer
from meshkit.redis.server import LocalServer, free_port
from meshkit.security.revoking import LONGEST_S, Revocation, RevocationTable
from tests.interceptors.test_adoption import DEMANDS, Servicer, config
from tests.security.handmade import SECRET, Handmade, Outcome, call
from tests.security.services import BODY, GREET, GREET_ALL

ME = Handmade("greeter")


@asynccontextmanager
async def guarded(path: Path, url: str, **settings: Any) -> AsyncIterator[str]:
    """A server with the interceptor, which knows of a Redis; its address."""
    known = config(path, project_secret=f"k1:{SECRET}", redis_url=url, **settings)
    guard = MeshInterceptor("greeter", demands=DEMANDS, config=known)
    if guard._shared.nonces is not None:
        guard._shared.nonces._patience = 30.0  # a busy machine is no failure
    grpc_server = grpc.aio.server(interceptors=[guard])
    greeter_pb2_grpc.add_GreeterServiceServicer_to_server(Servicer(), grpc_server)
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await grpc_server.stop(0)
        await guard.close()


async def revoke(server: LocalServer, jti: str) -> None:
    database = Database(RedisUrl.parse(server.url))
    try:
        table = RevocationTable(database, namespace="contextunity", sealer=Sealer(()))
        await table.add(Revocation(jti=jti, until=math.ceil(time.time() + LONGEST_S)))
    finally:
        await database.close()


async def sent(address: str, token: str) -> Outcome:
    return await call(address, GREET, BODY, ME.headers(GREET, BODY, token=token))


async def test_what_is_revoked_in_redis_is_refused(server: LocalServer, tmp_path: Path) -> None:
    before, later = ME.token(jti="before"), ME.token(jti="later")
    await revoke(server, "before")
    async with guarded(tmp_path, server.url) as address:
        assert (
            await sent(address, before)
        ).reason == "TOKEN_REVOKED"  # the first call waits for what is there
        assert (await sent(address, later)).code == "OK"
        await revoke(server, "later")
        async with asyncio.timeout(30):
            while (await sent(address, later)).reason != "TOKEN_REVOKED":
                await asyncio.sleep(0.01)


async def test_a_proof_for_any_instance_is_taken_by_one_of_several_servers(
    server: LocalServer, tmp_path: Path
) -> None:
    async with guarded(tmp_path, server.url) as first, guarded(tmp_path, server.url) as second:
        headers = ME.headers(GREET_ALL, None)
        outcomes = [
            await call(each, GREET_ALL, [], headers, streams=(True, False)) for each in (first, second)
        ]
        assert [(each.code, each.reason) for each in outcomes] == [
            ("OK", ""),
            ("UNAUTHENTICATED", "PROOF_REPLAYED"),
        ]


@pytest.mark.parametrize(("without", "reason"), [("closed", "REVOCATIONS_NOT_READ"), ("open", "")])
async def test_without_redis_it_does_as_the_setting_says(tmp_path: Path, without: str, reason: str) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}"
    async with guarded(tmp_path, nowhere, without_redis=without) as address:
        assert (await sent(address, ME.token())).reason == reason
