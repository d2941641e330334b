"""What the original let through, each held against ours; `docs/security.md` lists where the others are tested."""

import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient

from meshkit.redis.server import LocalServer
from meshkit.testing import LocalMesh
from tests.redis.servers import client_of
from tests.security.handmade import SECRET, SETTINGS, Handmade, b64, call
from tests.security.services import BODY, GREET, GREET_ALL, GREET_MANY, Echo
from tests.security.test_shared_nonces import be_patient

SHOP = Handmade("echo", "the-secret-of-the-shop-that-is-not-ours", "shop", "s1", name="till")
ME = Handmade("echo")


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    keys = tmp_path / "keys.toml"
    keys.write_text(
        f'[[key]]\nproject = "shop"\nkid = "s1"\nsecret = "{SHOP.secret}"\n'
        'grants = { tenants = ["*"], permissions = ["*"], subjects = ["*"] }\n'
    )
    keys.chmod(0o600)
    local = LocalMesh(Echo, settings={**SETTINGS, "project_keys_file": keys})
    async with local:
        found = local.service(local.instances[0]).instance
        assert found is not None
        yield found.address


async def test_rewriting_the_kid_makes_nobody_another_project(address: str) -> None:
    """There, one secret signed for all projects, and the kid was not signed."""
    assert (await call(address, GREET, BODY, SHOP.headers(GREET, BODY))).code == "OK"
    header, claims, signature = SHOP.token().split(".")
    read = json.loads(base64.urlsafe_b64decode(header + "=="))
    renamed = b64(json.dumps(read | {"kid": "local:k1"}).encode())
    outcome = await call(
        address, GREET, BODY, ME.headers(GREET, BODY, token=f"{renamed}.{claims}.{signature}")
    )
    assert outcome.reason == "TOKEN_SIGNATURE"
    whole = SHOP.token(header={"kid": "local:k1"}, iss="local", project="local")
    outcome = await call(address, GREET, BODY, ME.headers(GREET, BODY, token=whole))
    assert outcome.reason == "TOKEN_SIGNATURE"
    lying = SHOP.token(iss="local", project="local")
    outcome = await call(address, GREET, BODY, SHOP.headers(GREET, BODY, token=lying))
    assert outcome.reason == "TOKEN_PROJECT"


async def test_an_expired_token_is_refused_on_every_path(address: str) -> None:
    """There, one path took expired tokens."""
    now = int(time.time())
    expired = ME.token(iat=now - 600, nbf=now - 600, exp=now - 300)
    for path, body, streams in (
        (GREET, BODY, (False, False)),
        (GREET_ALL, None, (True, False)),
    ):
        sent = [] if body is None else body
        outcome = await call(address, path, sent, ME.headers(path, body, token=expired), streams=streams)
        assert outcome.reason == "TOKEN_EXPIRED"
    public = await call(
        address, GREET_MANY, b"", ME.headers(GREET_MANY, b"", token=expired), streams=(False, True)
    )
    assert json.loads(pb.GreetManyResponse.FromString(public.replies[0]).text)["principal"] is None
    subject = Handmade("script", SECRET).token(iat=now - 600, nbf=now - 600, exp=now - 300)
    outcome = await call(address, GREET, BODY, ME.headers(GREET, BODY, subject=subject))
    assert outcome.reason == "SUBJECT_TOKEN_EXPIRED"


async def test_a_replay_is_refused_by_every_replica(tmp_path: Path) -> None:
    """There, a call could be sent again as it was."""
    async with LocalServer(tmp_path / "redis") as server:
        local = LocalMesh(Echo, replicas=2, settings={**SETTINGS, "redis_url": server.url})
        async with local:
            be_patient(local)
            addresses = [local.service(each).instance for each in local.instances]
            headers = ME.headers(GREET_ALL, None)
            reasons = [
                (await call(each.address, GREET_ALL, [], headers, streams=(True, False))).reason
                for each in [*addresses, *addresses]
                if each is not None
            ]
    assert reasons == ["", "PROOF_REPLAYED", "PROOF_REPLAYED", "PROOF_REPLAYED"]


async def test_asking_what_is_revoked_costs_no_redis(tmp_path: Path) -> None:
    """There, each call opened a connection to Redis: 969 calls a second became 163."""
    async with LocalServer(tmp_path / "redis") as server:
        local = LocalMesh(Echo, settings={"redis_url": server.url, "redis_secret_key": "a:" + "A" * 43})
        async with local as mesh, client_of(server) as redis:
            client = mesh.client(GreeterClient, service="echo")
            await client.greet(pb.GreetRequest())
            await redis.config_resetstat()
            connected = (await redis.info("stats"))["total_connections_received"]
            for _ in range(100):
                await client.greet(pb.GreetRequest())
            ran = {name for name in await redis.info("commandstats") if not name.startswith("cmdstat_ping")}
            assert ran <= {"cmdstat_info", "cmdstat_config|resetstat"}
            assert (await redis.info("stats"))["total_connections_received"] == connected


async def test_nothing_in_redis_is_in_the_clear(tmp_path: Path) -> None:
    """There, rows of the registry could be read, and written."""
    async with LocalServer(tmp_path / "redis") as server:
        settings = {**SETTINGS, "redis_url": server.url, "redis_secret_key": "a:" + "A" * 43}
        local = LocalMesh(Echo, settings=settings)
        async with local, client_of(server) as redis:
            from meshkit.config import RedisUrl, parse_sealing_keys
            from meshkit.redis.database import Database
            from meshkit.redis.sealing import Sealer
            from meshkit.security.revoking import Revocation, RevocationTable

            database = Database(RedisUrl.parse(server.url))
            sealer = Sealer(parse_sealing_keys("a:" + "A" * 43))
            table = RevocationTable(database, namespace="contextunity", sealer=sealer)
            await table.add(Revocation(jti="canary-id", until=int(time.time()) + 600))
            await database.close()
            (member,) = await redis.zrange("contextunity:revocations", 0, -1)
            assert member.startswith("v1.a.")
            assert "canary-id" not in member
