"""What is revoked in Redis binds a mesh with a Shield too: its services, and Shield, which exchanges no such token."""

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshkit import MeshError
from meshkit.config import RedisUrl
from meshkit.protocol import ShieldClient
from meshkit.protocol import shield as pb
from meshkit.redis.database import Database
from meshkit.redis.sealing import Sealer
from meshkit.redis.server import LocalServer
from meshkit.security.revoking import LONGEST_S, Revocation, RevocationTable
from meshkit.security.tokens import peek
from tests.security.handmade import call
from tests.security.services import BODY, GREET
from tests.shield.bound import public
from tests.shield.conftest import SECRET, Place, running, served
from tests.shield.test_mode import address, client, greeting, headers, issued, until
from tests.shield.test_service import calling, scope


async def revoke(server: LocalServer, revocation: Revocation) -> None:
    """Does what `meshkit revoke` does."""
    database = Database(RedisUrl.parse(server.url))
    try:
        await RevocationTable(database, namespace="contextunity", sealer=Sealer(())).add(revocation)
    finally:
        await database.close()


def revoked_token(token: str) -> Revocation:
    return Revocation(jti=peek(token)[1]["jti"], until=math.ceil(time.time() + LONGEST_S))


def revoked_project(project: str) -> Revocation:
    return Revocation(project=project, before=math.ceil(time.time()))


async def is_exchanged(front: ShieldClient, token: str) -> str:
    """Why Shield does not exchange a token; empty where it does."""
    key = public(Ed25519PrivateKey.generate())
    request = pb.ExchangeTokenRequest(subject_token=token, scope=scope("echo"), public_key=key)
    try:
        await front.exchange_token(request)
    except MeshError as error:
        return error.reason
    return ""


@asynccontextmanager
async def delegate(shield: Place) -> AsyncIterator[ShieldClient]:
    """The service front of Shield's own project."""
    async with calling(shield, "front", f"k1:{SECRET}", project_id="local") as front:
        yield front


@pytest.mark.parametrize("whose", ["token", "project"])
async def test_shield_exchanges_no_token_that_is_revoked_in_redis(server: LocalServer, whose: str) -> None:
    async with (
        running(redis_url=server.url, shield_key_activation_s=0.0) as shield,
        delegate(shield) as front,
    ):
        token, _ = await issued(shield, "front")
        assert await is_exchanged(front, token) == ""
        await revoke(server, revoked_token(token) if whose == "token" else revoked_project("local"))

        async def refused() -> bool:
            return await is_exchanged(front, token) == "SUBJECT_TOKEN_REVOKED"

        await until(refused)
        another, _ = await issued(shield, "front")
        assert await is_exchanged(front, another) == ""


async def test_services_in_shield_mode_follow_both_redis_and_shield(server: LocalServer) -> None:
    async with (
        running(redis_url=server.url, shield_key_activation_s=0.0) as shield,
        served(shield.address, redis_url=server.url) as mode,
    ):
        by_redis, by_shield = [await issued(shield, "echo") for _ in range(2)]
        await revoke(server, revoked_token(by_redis[0]))
        await shield.client.revoke(pb.RevokeRequest(token_id=peek(by_shield[0])[1]["jti"]))

        async def both_are_refused() -> bool:
            outcomes = [
                await call(address(mode), GREET, BODY, headers(*each)) for each in (by_redis, by_shield)
            ]
            return [outcome.reason for outcome in outcomes] == ["TOKEN_REVOKED"] * 2

        await until(both_are_refused)


async def test_callers_of_a_project_revoked_in_redis_go_on_with_new_tokens(server: LocalServer) -> None:
    async with (
        running(redis_url=server.url, shield_key_activation_s=0.0) as shield,
        served(shield.address, redis_url=server.url) as mode,
    ):
        await client(mode, "front").greet(greeting())
        token, holder = await issued(shield, "echo")
        await revoke(server, revoked_project("local"))

        async def known_to_all() -> bool:
            theirs = [mode.replica(name)._guard.verifier.revocations for name in ("echo", "front")]
            return all("local" in each._projects for each in (*theirs, shield.authority._revocations))

        await until(known_to_all)
        assert (await call(address(mode), GREET, BODY, headers(token, holder))).reason == "TOKEN_REVOKED"
        for name in ("echo", "front", "echo"):
            await client(mode, name).greet(greeting())


async def test_a_shield_that_could_not_read_redis_yet_exchanges_nothing_where_that_closes() -> None:
    async with running(shield_key_activation_s=0.0) as shield, delegate(shield) as front:
        token, _ = await issued(shield, "front")
        shield.authority._revocations.expect("Redis")
        assert await is_exchanged(front, token) == "REVOCATIONS_NOT_READ"
        shield.authority._revocations.have_been_read("Redis")
        assert await is_exchanged(front, token) == ""
