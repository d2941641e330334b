"""What a caller that signs by hand is told when its token, its proof or its metadata are wrong."""

import json
import time
from typing import Any

import pytest
from greeter.v1 import greeter_pb2 as pb

from meshkit.testing import LocalMesh
from tests.security.conftest import Send
from tests.security.handmade import ABSENT, SETTINGS, Handmade, Outcome, call
from tests.security.services import BODY, CHAT, GREET, GREET_ALL, GREET_MANY, Echo

UNAUTHENTICATED, DENIED, INVALID = "UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT"


def seen(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == "OK", (outcome.code, outcome.reason, outcome.message)
    facts: dict[str, Any] = json.loads(pb.GreetResponse.FromString(outcome.replies[0]).text)
    return facts


async def test_a_caller_that_signs_by_hand_is_let_in(send: Send, instance: str) -> None:
    for to in ("-", instance):
        outcome = await send(to=to)
        assert seen(outcome)["principal"] == ["local", "script", ["*"], ["acme"]]
        assert seen(outcome)["tenant"] == "acme"
        assert outcome.trailers["x-cu-instance"] == instance


@pytest.mark.parametrize(
    ("sent", "code", "reason", "message"),
    [
        ({"authorization": ABSENT}, UNAUTHENTICATED, "TOKEN_MISSING", "the call carries no token"),
        ({"authorization": "Basic YTpi"}, UNAUTHENTICATED, "TOKEN_MALFORMED", "is not `Bearer <token>`"),
        ({"authorization": "bearer x"}, UNAUTHENTICATED, "TOKEN_MALFORMED", "is not `Bearer <token>`"),
        ({"authorization": "Bearer x"}, UNAUTHENTICATED, "TOKEN_MALFORMED", "not three parts"),
        ({"authorization": "Bearer "}, UNAUTHENTICATED, "TOKEN_MALFORMED", "malformed"),
        ({"x-cu-proof": ABSENT}, UNAUTHENTICATED, "PROOF_MISSING", "the call carries no x-cu-proof"),
        ({"x-cu-proof": "ts=1"}, UNAUTHENTICATED, "PROOF_MALFORMED", "x-cu-proof is not ts="),
        ({"x-cu-to": ABSENT}, INVALID, "TO_MISSING", "x-cu-to is missing"),
        ({"x-cu-tenant": ABSENT}, INVALID, "TENANT_MISSING", "called for a tenant"),
        ({"x-cu-tenant": "a b"}, INVALID, "TENANT_MALFORMED", "x-cu-tenant is not"),
        ({"x-cu-criticality": "urgent"}, INVALID, "CRITICALITY_MALFORMED", "x-cu-criticality is none of"),
        ({"x-cu-criticality": "critical"}, UNAUTHENTICATED, "PROOF_MISMATCH", "does not fit the request"),
        ({"x-cu-subject": "x"}, UNAUTHENTICATED, "SUBJECT_TOKEN_MALFORMED", "x-cu-subject: "),
    ],
)
async def test_metadata_that_is_wrong_is_refused(
    send: Send, sent: dict[str, str], code: str, reason: str, message: str
) -> None:
    outcome = await send(sent=sent)
    assert (outcome.code, outcome.reason) == (code, reason)
    assert message in outcome.message
    assert not outcome.unprocessed


@pytest.mark.parametrize(
    ("token", "code", "reason"),
    [
        ({"aud": "brain"}, UNAUTHENTICATED, "TOKEN_AUDIENCE"),
        ({"header": {"alg": "none"}}, UNAUTHENTICATED, "TOKEN_MALFORMED"),
        ({"header": {"kid": "bank:k1"}}, UNAUTHENTICATED, "KEY_UNKNOWN"),
        ({"header": {"crit": ["\ud800"]}}, UNAUTHENTICATED, "TOKEN_MALFORMED"),
        ({"key": b"k" * 32}, UNAUTHENTICATED, "TOKEN_SIGNATURE"),
        ({"exp": 1_800_000_000_000}, UNAUTHENTICATED, "TOKEN_LIFETIME"),
        ({"project": "bank", "iss": "bank"}, UNAUTHENTICATED, "TOKEN_PROJECT"),
        ({"tenants": ["other"]}, DENIED, "TENANT_FORBIDDEN"),
        ({"tenants": []}, DENIED, "TENANT_FORBIDDEN"),
        ({"permissions": ["echo:other"]}, DENIED, "PERMISSION_MISSING"),
        ({"permissions": ["other:*"]}, DENIED, "PERMISSION_MISSING"),
        ({"permissions": []}, DENIED, "PERMISSION_MISSING"),
    ],
)
async def test_a_token_that_is_wrong_is_refused(
    send: Send, caller: Handmade, token: dict[str, Any], code: str, reason: str
) -> None:
    key = token.pop("key", caller.key("token"))
    text = caller.token(key=key, **token)
    outcome = await send(token=text)
    assert (outcome.code, outcome.reason) == (code, reason)
    assert text not in outcome.message


async def test_an_expired_token_is_refused(send: Send, caller: Handmade) -> None:
    now = int(time.time())
    outcome = await send(token=caller.token(iat=now - 400, nbf=now - 400, exp=now - 100))
    assert (outcome.code, outcome.reason) == (UNAUTHENTICATED, "TOKEN_EXPIRED")
    assert "expired 100 s ago" in outcome.message or "expired 101 s ago" in outcome.message


@pytest.mark.parametrize(("offset", "said"), [(3600.0, "ahead of"), (-3600.0, "behind")])
async def test_a_clock_that_is_wrong_by_an_hour_is_told_so(send: Send, offset: float, said: str) -> None:
    outcome = await send(by=Handmade("echo", offset=offset))
    assert (outcome.code, outcome.reason) == (UNAUTHENTICATED, "CLOCK_SKEW")
    assert f"s {said} this service's clock; at most 30 s are allowed" in outcome.message
    assert abs(float(outcome.facts["seconds"]) - offset) < 5


async def test_a_replayed_call_is_refused(address: str, caller: Handmade, instance: str) -> None:
    for to in ("-", instance):
        headers = caller.headers(GREET, BODY, to=to)
        assert (await call(address, GREET, BODY, headers)).code == "OK"
        again = await call(address, GREET, BODY, headers)
        assert (again.code, again.reason) == (UNAUTHENTICATED, "PROOF_REPLAYED")


async def test_a_replayed_stream_is_refused(address: str, caller: Handmade) -> None:
    headers = caller.headers(GREET_ALL, None)
    first = await call(address, GREET_ALL, [BODY, BODY], headers, streams=(True, False))
    assert json.loads(pb.GreetAllResponse.FromString(first.replies[0]).text) == ["Ada", "Ada"]
    again = await call(address, GREET_ALL, [BODY], headers, streams=(True, False))
    assert (again.code, again.reason) == (UNAUTHENTICATED, "PROOF_REPLAYED")


async def test_a_refused_proof_does_not_use_up_its_nonce(address: str, caller: Handmade) -> None:
    headers = caller.headers(GREET, BODY)
    assert (await call(address, GREET, BODY + b"x", headers)).reason == "PROOF_MISMATCH"
    assert (await call(address, GREET, BODY, headers)).code == "OK"


async def test_an_altered_message_is_refused(address: str, caller: Handmade) -> None:
    other = pb.GreetRequest(name="Eve").SerializeToString()
    outcome = await call(address, GREET, other, caller.headers(GREET, BODY))
    assert (outcome.code, outcome.reason) == (UNAUTHENTICATED, "PROOF_MISMATCH")
    assert (await call(address, GREET, b"", caller.headers(GREET, BODY))).reason == "PROOF_MISMATCH"


@pytest.mark.parametrize(
    "sent", [{"x-cu-tenant": "other"}, {"x-cu-criticality": "critical"}, {"x-cu-criticality": ABSENT}]
)
async def test_altered_metadata_is_refused(send: Send, sent: dict[str, str]) -> None:
    everywhere = Handmade("echo", tenants=("*",))
    outcome = await send(by=everywhere, criticality="sheddable", sent=sent)
    assert (outcome.code, outcome.reason) == (UNAUTHENTICATED, "PROOF_MISMATCH")


async def test_a_proof_for_another_method_is_refused(address: str, caller: Handmade) -> None:
    outcome = await call(address, GREET, BODY, caller.headers(GREET_MANY, BODY))
    assert outcome.reason == "PROOF_MISMATCH"
    outcome = await call(address, GREET_ALL, [BODY], caller.headers(GREET_ALL, BODY), streams=(True, False))
    assert outcome.reason == "PROOF_MISMATCH"


async def test_a_proof_for_another_token_is_refused(address: str, caller: Handmade) -> None:
    headers = dict(caller.headers(GREET, BODY))
    headers["authorization"] = f"Bearer {caller.token()}"
    assert (await call(address, GREET, BODY, list(headers.items()))).reason == "PROOF_MISMATCH"


async def test_a_call_for_another_instance_may_be_tried_elsewhere(send: Send, instance: str) -> None:
    outcome = await send(to="echo-01J00000000000000000000000")
    assert (outcome.code, outcome.reason) == ("UNAVAILABLE", "PROOF_MISDIRECTED")
    assert outcome.unprocessed
    assert instance not in outcome.message
    moved = await send(to=instance, sent={"x-cu-to": "-"})
    assert moved.reason == "PROOF_MISMATCH"


async def test_a_proof_for_anybody_must_be_younger_than_the_instance(send: Send) -> None:
    outcome = await send(ts=int((time.time() - 25) * 1000))
    assert (outcome.code, outcome.reason) == (UNAUTHENTICATED, "PROOF_REPLAYED")


@pytest.mark.parametrize(
    "key", ["authorization", "x-cu-proof", "x-cu-to", "x-cu-tenant", "x-cu-subject", "tracestate"]
)
async def test_metadata_that_comes_twice_is_refused(address: str, caller: Handmade, key: str) -> None:
    headers = caller.headers(GREET, BODY)
    value = dict(headers).get(key, "x")
    twice = [pair for pair in headers if pair[0] != key] + [(key, value), (key, value)]
    outcome = await call(address, GREET, BODY, twice)
    assert (outcome.code, outcome.reason) == (INVALID, "METADATA_DUPLICATE")
    assert key in outcome.message
    assert value in ("x", "-") or value not in outcome.message


async def test_a_method_without_tenant_ignores_one(address: str, caller: Handmade) -> None:
    headers = caller.headers(CHAT, None, tenant="other")
    outcome = await call(address, CHAT, [], headers, streams=(True, True))
    assert seen(outcome)["tenant"] == ""


async def test_an_unknown_method_is_refused(address: str, caller: Handmade) -> None:
    path = "/greeter.v1.GreeterService/Hug"
    assert (await call(address, path, BODY, caller.headers(path, BODY))).code == "UNIMPLEMENTED"


async def test_a_message_that_is_none_is_refused_after_its_proof(send: Send) -> None:
    outcome = await send(body=b"\xff\xff")
    assert (outcome.code, outcome.reason) == (INVALID, "REQUEST_MALFORMED")


async def test_what_a_handler_fails_of_stays_inside(send: Send) -> None:
    outcome = await send(body=pb.GreetRequest(name="break").SerializeToString())
    assert (outcome.code, outcome.reason) == ("INTERNAL", "INTERNAL")
    assert "cause" not in outcome.message.replace("its log has the cause", "")
    assert outcome.facts["incident"] in outcome.message


@pytest.mark.parametrize(
    ("sent", "principal", "tenant"),
    [
        ({}, "script", "acme"),
        ({"authorization": ABSENT}, None, ""),
        ({"authorization": ABSENT, "x-cu-proof": ABSENT, "x-cu-to": ABSENT}, None, ""),
        ({"authorization": "Basic YTpi"}, None, ""),
        ({"authorization": "Bearer x.y.z"}, None, ""),
        ({"x-cu-proof": "ts=1"}, None, ""),
    ],
)
async def test_a_public_method_takes_anybody_and_knows_those_whose_token_holds(
    address: str, caller: Handmade, sent: dict[str, str], principal: str | None, tenant: str
) -> None:
    headers = caller.headers(GREET_MANY, BODY, criticality="critical", sent=sent)
    facts = seen(await call(address, GREET_MANY, BODY, headers, streams=(False, True)))
    assert (facts["principal"] or [None, None])[1] == principal
    assert facts["tenant"] == tenant
    assert facts["criticality"] == ("critical" if principal else "default")
    assert facts["metadata"] == ["user-agent"]


async def test_an_expired_token_makes_nobody_of_the_caller_of_a_public_method(
    address: str, caller: Handmade
) -> None:
    now = int(time.time())
    token = caller.token(iat=now - 400, nbf=now - 400, exp=now - 100)
    headers = caller.headers(GREET_MANY, BODY, token=token)
    assert seen(await call(address, GREET_MANY, BODY, headers, streams=(False, True)))["principal"] is None


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"x-cu-proof": ABSENT}, "PROOF_MISSING"),
        ({"x-cu-tenant": "other"}, "TENANT_FORBIDDEN"),
        ({"x-cu-criticality": "critical"}, "PROOF_MISMATCH"),
    ],
)
async def test_who_shows_a_good_token_to_a_public_method_is_held_to_the_rest(
    address: str, caller: Handmade, sent: dict[str, str], reason: str
) -> None:
    headers = caller.headers(GREET_MANY, BODY, sent=sent)
    assert (await call(address, GREET_MANY, BODY, headers, streams=(False, True))).reason == reason


async def test_where_proofs_are_optional_one_that_is_there_must_hold() -> None:
    local = LocalMesh(Echo, settings={**SETTINGS, "request_proof": "optional"})
    async with local:
        found = local.service(local.instances[0]).instance
        assert found is not None
        caller = Handmade("echo")
        bare = caller.headers(GREET, BODY, sent={"x-cu-proof": ABSENT})
        assert (await call(found.address, GREET, BODY, bare)).code == "OK"
        altered = caller.headers(GREET, BODY + b"x")
        assert (await call(found.address, GREET, BODY, altered)).reason == "PROOF_MISMATCH"
