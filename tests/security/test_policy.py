"""A service's own policy: asked with what is proven, before the message is read, and before the method runs."""

import json
from collections.abc import AsyncIterator

import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient

from meshkit import Call, PermissionDenied
from meshkit.errors import Internal, MeshError
from meshkit.testing import LocalMesh
from tests.security.handmade import SETTINGS, Handmade, call
from tests.security.services import BODY, GREET, GREET_ALL, GREET_MANY, Echo
from tests.security.test_unread import relay_to


class Strict(Echo, name="echo"):
    """Lets nobody in on behalf of `mallory`, nor anybody whose tenant is closed."""

    asked: list[Call]

    async def authorize(self, call: Call) -> None:
        self.asked.append(call)
        if call.tenant == "closed":
            raise PermissionDenied("the tenant is closed", reason="TENANT_CLOSED", until="tomorrow")
        if call.tenant == "broken":
            raise RuntimeError("a cause that stays inside")
        if call.tenant == "asks":
            await self.mesh.client(GreeterClient, service="nobody").greet(pb.GreetRequest(), timeout=0.05)


@pytest.fixture
async def local() -> AsyncIterator[LocalMesh]:
    mesh = LocalMesh(Strict, settings=SETTINGS)
    async with mesh:
        service(mesh).asked = []
        yield mesh


def service(local: LocalMesh) -> Strict:
    found = local.service(local.instances[0])
    assert isinstance(found, Strict)
    return found


def address(local: LocalMesh) -> str:
    instance = service(local).instance
    return instance.address


async def test_it_is_asked_with_what_is_proven(local: LocalMesh) -> None:
    me = Handmade("echo", permissions=("echo:greet",))
    assert (await call(address(local), GREET, BODY, me.headers(GREET, BODY))).code == "OK"
    (asked,) = service(local).asked
    assert asked.principal is not None
    assert (asked.principal.name, asked.principal.permissions) == ("script", {"echo:greet"})
    assert (asked.tenant, asked.method) == ("acme", GREET)


async def test_it_refuses_with_its_own_reason_and_the_method_does_not_run(local: LocalMesh) -> None:
    me = Handmade("echo", tenants=("*",))
    for path, body, streams in (
        (GREET, BODY, (False, False)),
        (GREET_MANY, b"", (False, True)),
        (GREET_ALL, None, (True, False)),
    ):
        headers = me.headers(path, body, tenant="closed")
        outcome = await call(address(local), path, [] if body is None else body, headers, streams=streams)
        assert (outcome.code, outcome.reason) == ("PERMISSION_DENIED", "TENANT_CLOSED")
        assert (outcome.facts["until"], outcome.replies) == ("tomorrow", [])


async def test_it_is_not_asked_about_who_is_refused_anyhow(local: LocalMesh) -> None:
    for by in (Handmade("echo", permissions=()), Handmade("echo", tenants=()), Handmade("echo", "x" * 32)):
        outcome = await call(address(local), GREET, BODY, by.headers(GREET, BODY))
        assert outcome.code != "OK"
    assert service(local).asked == []


async def test_whom_it_refuses_has_no_message_read(local: LocalMesh) -> None:
    large = pb.GreetRequest(name="x" * 10_000_000).SerializeToString()
    me = Handmade("echo", tenants=("*",))
    async with relay_to(address(local)) as relay:
        outcome = await call(relay.address, GREET, large, me.headers(GREET, large, tenant="closed"))
    assert outcome.reason == "TENANT_CLOSED"
    assert relay.bytes_in < 5_000_000


async def test_what_it_breaks_on_refuses_and_stays_inside(local: LocalMesh) -> None:
    assert local._mesh is not None
    client = local._mesh.client(GreeterClient, service="echo")
    with pytest.raises(Internal) as error:
        await client.greet(pb.GreetRequest(), tenant="broken")
    assert "stays inside" not in str(error.value)
    with pytest.raises(MeshError) as missing:
        await client.greet(pb.GreetRequest(), tenant="asks", timeout=5)
    assert not missing.value.unprocessed
    assert "memory://" not in str(missing.value)


async def test_public_methods_ask_it_too(local: LocalMesh) -> None:
    outcome = await call(address(local), GREET_MANY, b"", [], streams=(False, True))
    facts = json.loads(pb.GreetManyResponse.FromString(outcome.replies[0]).text)
    assert facts["principal"] is None
    (asked,) = service(local).asked
    assert asked.principal is None


async def test_a_service_without_one_pays_nothing() -> None:
    from meshkit.serving import layers

    local = LocalMesh(Echo, Strict, settings=SETTINGS)
    async with local:
        counts = {
            type(replica.service).__name__: len(
                layers(
                    replica.service,
                    replica.service.definition.rpcs[0],
                    replica._guard,
                    replica.admission,
                    replica.observer,
                    stream_max_age=60,
                    namespace="contextunity",
                )
            )
            for replica in local._running.values()
        }
    assert counts["Strict"] == counts["Echo"] + 1
