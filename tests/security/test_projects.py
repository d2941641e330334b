"""Two projects: what the keys file of one grants to the other, and what no grant can give."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from greeter.v1 import greeter_pb2 as pb

from meshkit.testing import LocalMesh
from tests.security.handmade import SETTINGS, Handmade, Outcome, b64, call
from tests.security.services import BODY, GREET, GREET_ALL, Echo

SHOP = Handmade("echo", "the-secret-of-the-shop-that-is-not-ours", "shop", "s1", name="till")
BANK = Handmade("echo", "the-secret-of-the-bank-that-is-not-ours", "bank", "b1", name="desk")
GRANTS = (
    """tenants = ["acme"], permissions = ["echo:greet"], subjects = ["till", "front"], delegate = ["bank"]"""
)


def exported(caller: Handmade, grants: str, status: str = "active") -> str:
    return (
        f'[[key]]\nproject = "{caller.project}"\nkid = "{caller.kid}"\nstatus = "{status}"\n'
        f'token_key = "{b64(caller.key("token"))}"\nproof_key = "{b64(caller.key("proof"))}"\n'
        f"grants = {{ {grants} }}\n"
    )


def with_secret(caller: Handmade, grants: str) -> str:
    return (
        f'[[key]]\nproject = "{caller.project}"\nkid = "{caller.kid}"\nsecret = "{caller.secret}"\n'
        f"grants = {{ {grants} }}\n"
    )


BANK_GRANTS = """tenants = ["acme"], permissions = ["echo:*"], subjects = ["*"]"""


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    path = tmp_path / "keys.toml"
    path.write_text(exported(SHOP, GRANTS) + with_secret(BANK, BANK_GRANTS))
    path.chmod(0o600)
    local = LocalMesh(Echo, configs={Echo: {"project_keys_file": path}}, settings=SETTINGS)
    async with local:
        found = local.service(local.instances[0]).instance
        assert found is not None
        yield found.address


async def greet(address: str, by: Handmade, **options: Any) -> Outcome:
    return await call(address, GREET, BODY, by.headers(GREET, BODY, **options))


async def test_another_project_is_let_in_with_the_rights_that_it_is_granted(address: str) -> None:
    outcome = await greet(address, SHOP, token=SHOP.token(tenants=["*"]))
    facts = json.loads(pb.GreetResponse.FromString(outcome.replies[0]).text)
    assert facts["principal"] == ["shop", "till", ["echo:greet"], ["acme"]]


@pytest.mark.parametrize(
    ("claims", "tenant", "said"),
    [
        ({"sub": "admin"}, "acme", "is not granted the subject admin"),
        ({"tenants": ["other"]}, "other", "may not call for tenant other"),
        ({"tenants": ["*"]}, "other", "may not call for tenant other"),
    ],
)
async def test_a_claim_beyond_the_grant_is_refused(
    address: str, claims: dict[str, Any], tenant: str, said: str
) -> None:
    outcome = await greet(address, SHOP, token=SHOP.token(**claims), tenant=tenant)
    assert (outcome.code, outcome.reason) == ("PERMISSION_DENIED", "GRANT_EXCEEDED")
    assert said in outcome.message


async def test_a_permission_beyond_the_grant_is_refused(address: str) -> None:
    headers = SHOP.headers(GREET_ALL, None)
    outcome = await call(address, GREET_ALL, [], headers, streams=(True, False))
    assert (outcome.code, outcome.reason) == ("PERMISSION_DENIED", "GRANT_EXCEEDED")
    assert outcome.facts == {"permission": "echo:collect"}


async def test_what_was_not_even_claimed_is_refused_as_missing(address: str) -> None:
    outcome = await greet(address, SHOP, token=SHOP.token(permissions=["echo:chat"]))
    assert outcome.reason == "PERMISSION_MISSING"


async def test_one_projects_key_cannot_sign_as_another(address: str) -> None:
    as_bank = {"iss": "bank", "project": "bank"}
    key = SHOP.key("token")
    assert (await greet(address, SHOP, token=SHOP.token(**as_bank, key=key))).reason == "TOKEN_PROJECT"
    token = SHOP.token(**as_bank, header={"kid": "bank:b1"}, key=key)
    assert (await greet(address, SHOP, token=token)).reason == "TOKEN_SIGNATURE"
    as_us = SHOP.token(iss="local", project="local", header={"kid": "local:k1"}, key=key)
    assert (await greet(address, SHOP, token=as_us)).reason == "TOKEN_SIGNATURE"


async def test_a_proof_by_another_projects_key_is_refused(address: str) -> None:
    headers = dict(BANK.headers(GREET, BODY))
    headers["authorization"] = f"Bearer {SHOP.token()}"
    outcome = await call(address, GREET, BODY, list(headers.items()))
    assert outcome.reason == "PROOF_MISMATCH"


async def test_a_project_calls_on_behalf_of_those_that_it_is_granted(address: str) -> None:
    front = Handmade("echo", SHOP.secret, "shop", "s1", name="front")
    subject = Handmade("front", BANK.secret, "bank", "b1", name="ada").token()
    outcome = await greet(address, front, subject=subject)
    facts = json.loads(pb.GreetResponse.FromString(outcome.replies[0]).text)
    assert facts["subject"] == ["bank", "ada", ["echo:greet"], ["acme"]]


async def test_a_project_does_not_call_on_behalf_of_others(address: str) -> None:
    front = Handmade("echo", BANK.secret, "bank", "b1", name="front")
    ours = Handmade("front", name="root").token()
    outcome = await greet(address, front, subject=ours)
    assert (outcome.code, outcome.reason) == ("PERMISSION_DENIED", "DELEGATE_FORBIDDEN")


async def test_a_subject_whose_projects_secret_is_not_held_cannot_be_forwarded(address: str) -> None:
    front = Handmade("echo", SHOP.secret, "shop", "s1", name="front")
    subject = Handmade("front", SHOP.secret, "shop", "s1", name="ada").token()
    outcome = await greet(address, front, subject=subject)
    assert (outcome.code, outcome.reason) == ("UNAUTHENTICATED", "SUBJECT_KEY_UNKNOWN")
    assert "does not hold the project's secret" in outcome.message


async def test_retiring_a_key_in_the_file_stops_a_token_that_was_in_use(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meshkit.security.keysfile import FileRing

    monkeypatch.setattr(FileRing, "RECHECK", 0.0)
    token = SHOP.token()
    assert (await greet(address, SHOP, token=token)).code == "OK"
    retired = '[[key]]\nproject = "local"\nkid = "k1"\nstatus = "retired"\n'
    (tmp_path / "keys.toml").write_text(exported(SHOP, GRANTS, "retired") + retired)
    outcome = await greet(address, SHOP, token=token)
    assert (outcome.code, outcome.reason) == ("UNAUTHENTICATED", "KEY_RETIRED")
    assert (await greet(address, Handmade("echo"))).reason == "KEY_RETIRED"
