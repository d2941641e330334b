"""A service that calls another for its caller: the subject is the caller, the rights are those of both."""

import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient

from meshkit import Mesh
from meshkit.errors import PermissionDenied
from meshkit.testing import LocalMesh
from tests.security.handmade import ABSENT, SETTINGS, Handmade, Outcome, call
from tests.security.services import BODY, GREET, Echo, Front

ACTOR = Handmade("echo", name="front")
SUBJECT = Handmade("front", name="ada")


@pytest.fixture
def local() -> LocalMesh:
    return LocalMesh(Front, Echo, settings=SETTINGS, tenant="acme")


@pytest.fixture
async def mesh(local: LocalMesh) -> AsyncIterator[Mesh]:
    async with local as mesh:
        yield mesh


def address_of(local: LocalMesh, service: str) -> str:
    (instance_id,) = (name for name in local.instances if name.startswith(f"{service}-"))
    found = local.service(instance_id).instance
    assert found is not None
    return found.address


@pytest.fixture
def echo(local: LocalMesh, mesh: Mesh) -> str:
    return address_of(local, "echo")


async def through_front(mesh: Mesh, how: str = "", permissions: tuple[str, ...] = ("*",)) -> dict[str, Any]:
    front = mesh.client(GreeterClient, service="front", permissions=permissions)
    reply = await front.greet(pb.GreetRequest(name=how))
    facts: dict[str, Any] = json.loads(reply.text)
    return facts


async def test_the_subject_is_who_called_first_and_the_principal_who_calls_now(mesh: Mesh) -> None:
    facts = await through_front(mesh)
    assert facts["principal"] == ["local", "front", ["*"], ["acme"]]
    assert facts["subject"] == ["local", "client", ["*"], ["acme"]]
    assert facts["tenant"] == "acme"


async def test_the_subject_has_no_more_rights_than_it_gave(mesh: Mesh) -> None:
    facts = await through_front(mesh, permissions=("front:greet", "echo:*"))
    assert facts["subject"][2] == ["echo:*", "front:greet"]
    with pytest.raises(PermissionDenied) as error:
        await through_front(mesh, permissions=("front:greet",))
    assert error.value.reason == "PERMISSION_MISSING"
    assert error.value.details["permission"] == "echo:greet"


async def test_the_tenant_is_the_subjects(mesh: Mesh) -> None:
    with pytest.raises(PermissionDenied) as error:
        await through_front(mesh, "tenant,other")
    assert error.value.reason == "TENANT_FORBIDDEN"


async def test_detached_work_is_the_services_own(mesh: Mesh) -> None:
    facts = await through_front(mesh, "detached", permissions=("front:greet",))
    assert facts["principal"] == facts["subject"] == ["local", "front", ["*"], ["acme"]]


async def test_a_service_may_call_as_itself(mesh: Mesh) -> None:
    facts = await through_front(mesh, "self", permissions=("front:greet",))
    assert facts["principal"] == facts["subject"] == ["local", "front", ["*"], ["acme"]]


async def test_a_subject_is_not_forwarded_once_more(mesh: Mesh) -> None:
    with pytest.raises(PermissionDenied, match="as_self=True") as error:
        await through_front(mesh, "twice,")
    assert error.value.reason == "DELEGATION_DEPTH"
    facts = await through_front(mesh, "twice,self")
    assert facts["subject"][1] == "front"


async def test_what_nobody_asked_for_is_called_for_no_tenant(mesh: Mesh, local: LocalMesh) -> None:
    async with _plain(address_of(local, "front")) as outcome:
        assert (outcome.code, outcome.reason) == ("INVALID_ARGUMENT", "TENANT_MISSING")


class _plain:
    """A call of the public method by nobody."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def __aenter__(self) -> Outcome:
        path = "/greeter.v1.GreeterService/GreetMany"
        return await call(self._address, path, b"", [("x-cu-tenant", "acme")], streams=(False, True))

    async def __aexit__(self, *failure: object) -> None: ...


async def forwarded(echo: str, subject: str, actor: Handmade = ACTOR, **options: Any) -> Outcome:
    return await call(echo, GREET, BODY, actor.headers(GREET, BODY, subject=subject, **options))


async def test_rights_of_the_subject_are_the_intersection(echo: str) -> None:
    actor = Handmade("echo", name="front", permissions=("echo:greet", "echo:chat"), tenants=("acme", "b"))
    subject = Handmade("front", name="ada", permissions=("echo:*", "front:*"), tenants=("acme", "c"))
    outcome = await forwarded(echo, subject.token(), actor)
    facts = json.loads(pb.GreetResponse.FromString(outcome.replies[0]).text)
    assert facts["subject"] == ["local", "ada", ["echo:chat", "echo:greet"], ["acme"]]


@pytest.mark.parametrize(
    ("actor", "subject", "reason"),
    [
        (("echo:chat",), ("*",), "PERMISSION_MISSING"),
        (("*",), ("echo:chat",), "PERMISSION_MISSING"),
    ],
)
async def test_both_need_the_permission(
    echo: str, actor: tuple[str, ...], subject: tuple[str, ...], reason: str
) -> None:
    by = Handmade("echo", name="front", permissions=actor)
    outcome = await forwarded(echo, SUBJECT.token(permissions=list(subject)), by)
    assert (outcome.code, outcome.reason) == ("PERMISSION_DENIED", reason)


async def test_both_need_the_tenant(echo: str) -> None:
    outcome = await forwarded(echo, SUBJECT.token(tenants=["other"]))
    assert (outcome.code, outcome.reason) == ("PERMISSION_DENIED", "TENANT_FORBIDDEN")
    assert (await forwarded(echo, SUBJECT.token(), tenant="other")).reason == "TENANT_FORBIDDEN"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "echo"}, "SUBJECT_TOKEN_AUDIENCE"),
        ({"aud": "elsewhere"}, "SUBJECT_TOKEN_AUDIENCE"),
        ({"exp": 1}, "SUBJECT_TOKEN_EXPIRED"),
        ({"header": {"kid": "bank:k1"}}, "SUBJECT_KEY_UNKNOWN"),
        ({"permissions": ["*:*"]}, "SUBJECT_TOKEN_MALFORMED"),
    ],
)
async def test_a_subject_that_does_not_hold_is_refused(
    echo: str, claims: dict[str, Any], reason: str
) -> None:
    if "exp" in claims:
        now = int(time.time())
        claims = {"iat": now - 400, "nbf": now - 400, "exp": now - 100}
    token = SUBJECT.token(key=SUBJECT.key("token"), **claims)
    outcome = await forwarded(echo, token)
    assert (outcome.code, outcome.reason) == ("UNAUTHENTICATED", reason)
    assert outcome.message.startswith("x-cu-subject: ")
    assert token not in outcome.message


async def test_a_token_for_the_subject_serves_no_other_actor(echo: str) -> None:
    outcome = await forwarded(echo, SUBJECT.token(), Handmade("echo", name="thief"))
    assert outcome.reason == "SUBJECT_TOKEN_SIGNATURE"


@pytest.mark.parametrize("make", [lambda: ABSENT, SUBJECT.token], ids=["stripped", "changed"])
async def test_a_subject_that_was_stripped_or_changed_is_noticed(echo: str, make: Callable[[], Any]) -> None:
    outcome = await forwarded(echo, SUBJECT.token(), sent={"x-cu-subject": make()})
    assert (outcome.code, outcome.reason) == ("UNAUTHENTICATED", "PROOF_MISMATCH")


async def test_a_subject_that_was_added_is_noticed(echo: str) -> None:
    headers = ACTOR.headers(GREET, BODY, sent={"x-cu-subject": SUBJECT.token()})
    assert (await call(echo, GREET, BODY, headers)).reason == "PROOF_MISMATCH"
