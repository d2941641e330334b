"""Tokens of Shield at a verifier: each thing that can be wrong with one, and with the proof of who shows it."""

import base64
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from meshkit.call import Principal
from meshkit.errors import MeshError
from meshkit.security.bound import Actor, bound_token
from meshkit.security.keys import KeyStatus, StaticRing, own_ring
from meshkit.security.proof import Claim, Proof, body_digest, make_proof
from meshkit.security.tokens import TokenVerifier, Verified
from tests.security.handmade import ABSENT, SECRET, Clock, Handmade, b64, compact
from tests.shield.bound import Bound, acting, public

CLOCK = Clock()
CALLER = Bound("brain", clock=CLOCK)


def verifier(ring: StaticRing | None = None) -> TokenVerifier:
    return TokenVerifier("brain", ring or CALLER.ring(), namespace="contextunity", clock=CLOCK)


async def refusal(token: str, ring: StaticRing | None = None) -> tuple[str, str]:
    with pytest.raises(MeshError) as caught:
        await verifier(ring).verify(token)
    return caught.value.reason, caught.value.message


async def test_a_token_of_shield_says_who_calls_with_which_rights() -> None:
    verified = await verifier().verify(CALLER.token(permissions=["brain:read"], jti="j"))
    assert verified.principal == Principal(
        "shop", "till", frozenset({"brain:read"}), frozenset({"acme"}), "j", CLOCK.now + 300, CLOCK.now
    )
    assert (verified.alg, verified.kid, verified.subject) == ("EdDSA", "shield:k1", None)
    assert not isinstance(verified.proof_key, bytes)
    assert verified.proof_key.public_bytes(Encoding.Raw, PublicFormat.Raw) == public(CALLER.holder)


async def test_what_the_code_makes_the_code_takes() -> None:
    holder = Principal("shop", "ada", frozenset({"a:b"}), frozenset({"acme"}), "j", CLOCK.now + 60, CLOCK.now)
    actors = [Actor("shop", "router", "j2"), Actor("shop", "front", "j1")]
    token = bound_token(
        holder,
        audience="brain",
        public_key=public(CALLER.holder),
        actors=actors,
        kid="k1",
        key=CALLER.signer,
    )
    verified = await verifier().verify(token)
    assert verified.actors == tuple(actors)
    assert (verified.principal.name, verified.principal.token_id) == ("router", "j")
    assert verified.subject is not None
    assert (verified.subject.name, verified.subject.token_id) == ("ada", "j1")
    assert {bearer.token_id for bearer in verified.bearers} == {"j", "j1", "j2"}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"aud": "router"}, "TOKEN_AUDIENCE"),
        ({"aud": ["brain", "router"]}, "TOKEN_AUDIENCE"),
        ({"iss": "shop"}, "TOKEN_PROJECT"),
        ({"project": "no project"}, "TOKEN_PROJECT"),
        ({"project": 7}, "TOKEN_PROJECT"),
        ({"exp": ABSENT}, "TOKEN_MALFORMED"),
        ({"exp": CLOCK.now - 31}, "TOKEN_MALFORMED"),
        ({"exp": int(CLOCK.now) - 31, "iat": int(CLOCK.now) - 60}, "TOKEN_EXPIRED"),
        ({"exp": int(CLOCK.now) + 4000}, "TOKEN_LIFETIME"),
        ({"iat": int(CLOCK.now) + 100, "exp": int(CLOCK.now) + 200}, "CLOCK_SKEW"),
        ({"cnf": ABSENT}, "TOKEN_MALFORMED"),
        ({"cnf": "a text"}, "TOKEN_MALFORMED"),
        ({"cnf": {"jwk": {"kty": "EC", "crv": "P-256", "x": "A" * 43}}}, "TOKEN_MALFORMED"),
        ({"cnf": {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": "A" * 42}}}, "TOKEN_MALFORMED"),
        ({"cnf": {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": "A" * 42 + "B"}}}, "TOKEN_MALFORMED"),
        ({"act": "a text"}, "TOKEN_MALFORMED"),
        ({"act": {"sub": "router"}}, "TOKEN_MALFORMED"),
        ({"act": {"sub": "router", "project": "shield shop", "jti": "j"}}, "TOKEN_MALFORMED"),
        ({"act": acting(5)}, "DELEGATION_DEPTH"),
        ({"act": acting(12)}, "DELEGATION_DEPTH"),
        ({"permissions": "*"}, "TOKEN_MALFORMED"),
    ],
)
async def test_a_token_of_shield_that_says_something_else_is_refused(changed: Any, reason: str) -> None:
    assert (await refusal(CALLER.token(**changed)))[0] == reason


async def test_an_act_chain_of_the_allowed_depth_is_taken() -> None:
    verified = await verifier().verify(CALLER.token(act=acting(4)))
    assert [actor.name for actor in verified.actors] == [f"actor-{number}" for number in range(4)]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"alg": "none"}, "TOKEN_MALFORMED"),
        ({"alg": "ES256"}, "TOKEN_MALFORMED"),
        ({"alg": "HS256"}, "TOKEN_ALGORITHM"),
        ({"kid": "shield:k2"}, "KEY_UNKNOWN"),
        ({"kid": "shop:k1"}, "KEY_UNKNOWN"),
        ({"kid": "k1"}, "TOKEN_MALFORMED"),
    ],
)
async def test_a_header_that_says_something_else_is_refused(header: Any, reason: str) -> None:
    assert (await refusal(CALLER.token(header=header)))[0] == reason


async def test_the_key_fixes_the_algorithm_not_the_token() -> None:
    pem = CALLER.signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for key in (public(CALLER.signer), pem, b64(public(CALLER.signer)).encode()):
        for alg, reason in (("HS256", "TOKEN_ALGORITHM"), ("EdDSA", "TOKEN_SIGNATURE")):
            header = {"typ": "at+jwt", "alg": alg, "kid": "shield:k1"}
            assert (await refusal(compact(header, CALLER.claims(), key)))[0] == reason
    unsigned = jwt.encode(CALLER.claims(), "", "none", {"typ": "at+jwt", "kid": "shield:k1"})
    assert (await refusal(unsigned + "AA"))[0] == "TOKEN_MALFORMED"


async def test_a_projects_key_takes_no_token_that_says_eddsa() -> None:
    token = Handmade("brain", clock=CLOCK).token(header={"alg": "EdDSA"})
    assert (await refusal(token, own_ring("local", [("k1", SECRET)])))[0] == "TOKEN_ALGORITHM"


async def test_another_key_of_the_same_name_does_not_sign() -> None:
    assert (await refusal(Bound("brain", clock=CLOCK).token()))[0] == "TOKEN_SIGNATURE"


async def test_a_retired_key_of_shield_is_refused_and_the_call_may_come_with_another_token() -> None:
    with pytest.raises(MeshError) as caught:
        await verifier(CALLER.ring(KeyStatus.RETIRED)).verify(CALLER.token())
    assert (caught.value.reason, caught.value.unprocessed) == ("KEY_RETIRED", True)


async def test_any_token_in_the_chain_that_is_revoked_takes_the_others_with_it() -> None:
    for revoked in ("own", "jti-0", "jti-1", "jti-2"):
        check = verifier()
        await check.verify(CALLER.token(jti="own", act=acting(3)))
        check.revocations.revoke_token(revoked, CLOCK.now + 300)
        with pytest.raises(MeshError) as caught:
            await check.verify(CALLER.token(jti="own", act=acting(3)))
        assert caught.value.reason == "TOKEN_REVOKED"


@given(st.data())
async def test_no_single_bit_of_a_token_can_be_changed(data: st.DataObject) -> None:
    token = CALLER.token(act=acting(1))
    place = data.draw(st.integers(0, len(token) - 1))
    bit = data.draw(st.integers(0, 6))
    changed = f"{token[:place]}{chr(ord(token[place]) ^ 1 << bit)}{token[place + 1 :]}"
    if _same_bytes(token, changed):
        return
    with pytest.raises(MeshError):
        await verifier().verify(changed)


def _same_bytes(token: str, changed: str) -> bool:
    """Whether it is the same token, with bits changed that base64 does not use."""
    try:
        return [base64.urlsafe_b64decode(part + "==") for part in token.split(".")] == [
            base64.urlsafe_b64decode(part + "==") for part in changed.split(".")
        ]
    except ValueError:
        return False


CLAIM = Claim("EdDSA", "shield:k1", "brain-1", "/b.B/Do", "acme", "critical", "1" * 64, "", body_digest(b"x"))


async def verified() -> Verified:
    return await verifier().verify(CALLER.token())


async def test_the_holders_proof_holds_and_nobody_elses() -> None:
    key = (await verified()).proof_key
    Proof.parse(make_proof(CLAIM, CALLER.holder)).check_signature(CLAIM, key)
    for signer in (Ed25519PrivateKey.generate(), CALLER.signer, b"k" * 32, public(CALLER.holder)):
        with pytest.raises(MeshError) as caught:
            Proof.parse(make_proof(CLAIM, signer)).check_signature(CLAIM, key)
        assert caught.value.reason == "PROOF_MISMATCH"


@given(field=st.sampled_from(Claim._fields), value=st.text("abc019", min_size=1, max_size=9))
async def test_nothing_that_a_proof_covers_can_be_changed(field: str, value: str) -> None:
    changed = CLAIM._replace(**{field: value})
    proof = Proof.parse(make_proof(CLAIM, CALLER.holder))
    with pytest.raises(MeshError) as caught:
        proof.check_signature(changed, CALLER.holder.public_key())
    assert caught.value.reason == "PROOF_MISMATCH"


@given(place=st.integers(0, 85), bit=st.integers(0, 5))
def test_no_bit_of_a_signature_can_be_changed_not_even_those_that_say_nothing(place: int, bit: int) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    proof = Proof.parse(make_proof(CLAIM, CALLER.holder))
    signature = list(proof.signature)
    signature[place] = alphabet[alphabet.index(signature[place]) ^ 1 << bit]
    with pytest.raises(MeshError) as caught:
        proof._replace(signature="".join(signature)).check_signature(CLAIM, CALLER.holder.public_key())
    assert caught.value.reason == "PROOF_MISMATCH"


def test_a_mac_in_place_of_a_signature_is_refused() -> None:
    proof = Proof.parse(make_proof(CLAIM, CALLER.holder))
    mac = hmac.digest(public(CALLER.holder), CLAIM.canonical(proof.ts, proof.nonce), "sha256")
    with pytest.raises(MeshError):
        proof._replace(signature=b64(mac)).check_signature(CLAIM, CALLER.holder.public_key())


def test_a_giant_act_is_no_trouble() -> None:
    deep = json.loads('{"act":' * 300 + "{}" + "}" * 300)
    assert len(CALLER.token(act=deep)) > 4096
