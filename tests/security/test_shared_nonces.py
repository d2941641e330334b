"""A proof for no particular instance is taken once by all replicas, where twice would do harm; no other asks Redis."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.wrappers_pb2 import StringValue
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient
from structlog.testing import capture_logs

from meshkit import Call, CUService, rpc
from meshkit.config import RedisUrl
from meshkit.errors import Unauthenticated, Unavailable
from meshkit.redis.database import Database
from meshkit.redis.server import LocalServer, free_port
from meshkit.security.nonces import SharedNonces
from meshkit.testing import LocalMesh
from tests.redis.servers import client_of
from tests.security.handmade import SETTINGS, Handmade, Headers, Outcome, call
from tests.security.services import BODY, CHAT, GREET, GREET_ALL, GREET_MANY, Echo

FILE = FileDescriptorProto(
    name="tests/notes.proto",
    package="notes.v1",
    syntax="proto3",
    dependency=["google/protobuf/wrappers.proto"],
)
TEXT = ".google.protobuf.StringValue"
FILE.service.add(name="NoteService").method.add(name="Add", input_type=TEXT, output_type=TEXT)
descriptor_pool.Default().AddSerializedFile(FILE.SerializeToString())

ADD = "/notes.v1.NoteService/Add"
NOTE = StringValue(value="a note").SerializeToString()
ME = Handmade("notes")
ECHO = Handmade("echo")
NONCE = "n" * 22


class Notes(
    CUService,
    contract=descriptor_pool.Default().FindServiceByName("notes.v1.NoteService"),
    name="notes",
    port=50994,
):
    """Takes notes: twice is not once."""

    @rpc(permission="notes:add")
    async def add(self, request: StringValue, call: Call) -> StringValue:
        return request


def be_patient(local: LocalMesh) -> None:
    """Has replicas wait for Redis as long as it takes: a busy machine is no failure."""
    for replica in local._running.values():
        shared = replica._shared.nonces
        if shared is not None:
            shared._patience = 30.0


class Replicas:
    def __init__(self, local: LocalMesh) -> None:
        be_patient(local)
        self.local = local
        found = [local.service(each).instance for each in local.instances]
        self.addresses = [each.address for each in found if each is not None]

    async def each(
        self, headers: Headers, path: str = ADD, body: Any = NOTE, **options: Any
    ) -> list[Outcome]:
        """What each replica says to the same request."""
        return [await call(address, path, body, headers, **options) for address in self.addresses]


@pytest.fixture
async def replicas(server: LocalServer) -> AsyncIterator[Replicas]:
    local = LocalMesh(Notes, replicas=2, settings={**SETTINGS, "redis_url": server.url})
    async with local:
        yield Replicas(local)


@pytest.fixture
async def echoes(server: LocalServer) -> AsyncIterator[Replicas]:
    local = LocalMesh(Echo, replicas=2, settings={**SETTINGS, "redis_url": server.url})
    async with local:
        yield Replicas(local)


async def commands(server: LocalServer) -> dict[str, int]:
    """How often each command was run that is not of the feeds or of asking this."""
    async with client_of(server) as client:
        stats = await client.info("commandstats")
    feeds = (
        "info",
        "ping",
        "hello",
        "select",
        "auth",
        "subscribe",
        "unsubscribe",
        "zscan",
        "hscan",
        "client",
    )
    counted = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}
    return {name: calls for name, calls in counted.items() if not name.startswith(feeds)}


async def test_one_replica_takes_a_call_and_no_other(replicas: Replicas, server: LocalServer) -> None:
    first, second = await replicas.each(ME.headers(ADD, NOTE))
    assert first.code == "OK"
    assert (second.code, second.reason) == ("UNAUTHENTICATED", "PROOF_REPLAYED")
    assert await commands(server) == {"set": 2}
    async with client_of(server) as client:
        (key,) = await client.keys("contextunity:nonces:*")
        assert key.startswith("contextunity:nonces:local:")
        assert 30_000 < await client.pttl(key) <= 62_000


async def test_streams_of_requests_too(echoes: Replicas) -> None:
    headers = ECHO.headers(GREET_ALL, None)
    first, second = await echoes.each(headers, GREET_ALL, [], streams=(True, False))
    assert first.code == "OK"
    assert second.reason == "PROOF_REPLAYED"
    headers = ECHO.headers(CHAT, None, tenant="")
    first, second = await echoes.each(headers, CHAT, [], streams=(True, True))
    assert first.code == "OK"
    assert second.reason == "PROOF_REPLAYED"


async def test_what_is_refused_anyhow_takes_nothing(replicas: Replicas, server: LocalServer) -> None:
    for wrong in (
        ME.headers(ADD, NOTE + b"x"),
        ME.headers(ADD, NOTE, token=ME.token(permissions=[])),
        Handmade("notes", "not-the-secret-of-this-mesh-0000000000").headers(ADD, NOTE),
    ):
        outcomes = await replicas.each(wrong)
        assert all(each.code != "OK" for each in outcomes)
    assert await commands(server) == {}


async def test_bound_proofs_never_reach_redis(replicas: Replicas, server: LocalServer) -> None:
    for number, (instance, address) in enumerate(
        zip(replicas.local.instances, replicas.addresses, strict=True)
    ):
        for _ in range(20 + number):
            outcome = await call(address, ADD, NOTE, ME.headers(ADD, NOTE, to=instance))
            assert outcome.code == "OK"
    mesh = replicas.local._mesh
    assert mesh is not None
    stub = mesh.channel("notes").unary_unary(ADD)
    for _ in range(20):
        assert await stub(NOTE, metadata=(("x-cu-tenant", "acme"),)) == NOTE
    assert await commands(server) == {}


async def test_idempotent_methods_never_reach_redis(echoes: Replicas, server: LocalServer) -> None:
    mesh = echoes.local._mesh
    assert mesh is not None
    client = mesh.client(GreeterClient, service="echo")
    for _ in range(20):
        await client.greet(pb.GreetRequest(), tenant="acme")
    for path, streams in ((GREET, (False, False)), (GREET_MANY, (False, True))):
        outcomes = await echoes.each(ECHO.headers(path, BODY), path, BODY, streams=streams)
        assert [each.code for each in outcomes] == ["OK", "OK"]
    assert await commands(server) == {}


@pytest.mark.parametrize(("failure", "reason"), [("open", ""), ("closed", "REPLAY_UNCHECKED")])
async def test_redis_away_is_open_or_closed_as_the_settings_say(
    server: LocalServer, failure: str, reason: str
) -> None:
    settings = {**SETTINGS, "redis_url": server.url, "without_redis": failure}
    local = LocalMesh(Notes, settings=settings)
    async with local:
        replicas = Replicas(local)
        await server.kill()
        (outcome,) = await replicas.each(ME.headers(ADD, NOTE))
        assert (outcome.reason, outcome.unprocessed) == (reason, bool(reason))
        (bound,) = await replicas.each(ME.headers(ADD, NOTE, to=local.instances[0]))
        assert bound.code == "OK"
        await server.restart()
        (outcome,) = await replicas.each(ME.headers(ADD, NOTE))
        assert outcome.code == "OK"


async def test_it_can_be_turned_off(server: LocalServer) -> None:
    settings = {**SETTINGS, "redis_url": server.url, "replay_shared": False}
    local = LocalMesh(Notes, replicas=2, settings=settings)
    async with local:
        outcomes = await Replicas(local).each(ME.headers(ADD, NOTE))
    assert [each.code for each in outcomes] == ["OK", "OK"]
    assert await commands(server) == {}


async def test_a_redis_that_says_nothing_holds_a_call_up_for_a_moment_only(server: LocalServer) -> None:
    database = Database(RedisUrl.parse(server.url))
    patient = SharedNonces(database, namespace="m", window=60, closed=True, patience=30)
    nonces = SharedNonces(database, namespace="m", window=60, closed=True, patience=0.05)
    await patient.take("shop", NONCE)
    server.pause()
    try:
        with capture_logs() as logs:
            for _ in range(3):
                with pytest.raises(Unavailable) as refused:
                    await nonces.take("shop", NONCE)
                assert (refused.value.reason, refused.value.unprocessed) == ("REPLAY_UNCHECKED", True)
    finally:
        server.resume()
    assert len(logs) == 1
    with pytest.raises(Unauthenticated):
        await patient.take("shop", NONCE)
    await patient.take("bank", NONCE)
    await nonces.close()


async def test_while_it_is_away_an_open_one_tells_once(tmp_path: Path) -> None:
    gone = RedisUrl.parse(f"redis://127.0.0.1:{free_port()}/0")
    nonces = SharedNonces(Database(gone), namespace="m", window=60, closed=False)
    with capture_logs() as logs:
        await nonces.take("shop", NONCE)
        await nonces.take("shop", NONCE)
    (told,) = logs
    assert "are let in" in told["event"]
    await nonces.close()
