"""Verifying tokens: each thing that can be wrong with one, and what is remembered of those that hold."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.errors import MeshError, PermissionDenied, Unauthenticated
from meshkit.security.keys import Grants, KeyRing, KeyRow, KeyStatus, ServiceKeys, StaticRing, own_ring
from meshkit.security.minting import HmacTokens, Identity
from meshkit.security.tokens import TokenVerifier, peek
from tests.security.handmade import ABSENT, SECRET, Clock, Handmade, b64, compact

CLOCK = Clock()
CALLER = Handmade("brain", project="shop", clock=CLOCK)
RING = own_ring("shop", [("k1", SECRET), ("k0", "an-older-secret-that-still-verifies-000")])
OTHER_SECRET = "the-secret-of-another-project-00000001"


def verifier(ring: KeyRing = RING, clock: Clock = CLOCK, capacity: int = 4096) -> TokenVerifier:
    return TokenVerifier("brain", ring, namespace="contextunity", clock=clock, capacity=capacity)


async def refusal(token: str, ring: KeyRing = RING) -> MeshError:
    with pytest.raises(MeshError) as error:
        await verifier(ring).verify(token)
    assert token not in str(error.value)
    error.value.message.encode()
    return error.value


async def test_a_good_token_says_who_calls() -> None:
    verified = await verifier().verify(CALLER.token(jti="j", tenants=["acme"], permissions=["brain:read"]))
    principal = verified.principal
    assert (principal.project, principal.name, principal.token_id) == ("shop", "script", "j")
    assert (principal.permissions, principal.tenants) == ({"brain:read"}, {"acme"})
    assert principal.expires_at == int(CLOCK.now) + 300
    assert verified.proof_key == CALLER.key("proof")
    assert verified.kid == "shop:k1"


@pytest.mark.parametrize(
    "claim", ["iss", "project", "sub", "aud", "iat", "nbf", "exp", "jti", "tenants", "permissions"]
)
async def test_every_claim_is_needed(claim: str) -> None:
    assert (await refusal(CALLER.token(**{claim: ABSENT}))).reason == "TOKEN_MALFORMED"
    assert f"the claim {claim} is missing" in (await refusal(CALLER.token(**{claim: None}))).message


@pytest.mark.parametrize(
    ("claim", "value", "reason"),
    [
        ("iss", "bank", "TOKEN_PROJECT"),
        ("iss", ["shop"], "TOKEN_PROJECT"),
        ("project", "bank", "TOKEN_PROJECT"),
        ("project", 7, "TOKEN_PROJECT"),
        ("aud", "router", "TOKEN_AUDIENCE"),
        ("aud", ["brain"], "TOKEN_AUDIENCE"),
        ("aud", "*", "TOKEN_AUDIENCE"),
        ("sub", "", "TOKEN_MALFORMED"),
        ("sub", 7, "TOKEN_MALFORMED"),
        ("sub", "x" * 201, "TOKEN_MALFORMED"),
        ("sub", "two\nlines", "TOKEN_MALFORMED"),
        ("sub", "\ud800", "TOKEN_MALFORMED"),
        ("jti", 7, "TOKEN_MALFORMED"),
        ("jti", "", "TOKEN_MALFORMED"),
        ("jti", "\x00", "TOKEN_MALFORMED"),
        ("tenants", "acme", "TOKEN_MALFORMED"),
        ("tenants", {"acme": 1}, "TOKEN_MALFORMED"),
        ("tenants", [7], "TOKEN_MALFORMED"),
        ("tenants", [["acme"]], "TOKEN_MALFORMED"),
        ("tenants", [""], "TOKEN_MALFORMED"),
        ("tenants", ["acme "], "TOKEN_MALFORMED"),
        ("tenants", ["a" * 65], "TOKEN_MALFORMED"),
        ("tenants", ["-"], "TOKEN_MALFORMED"),
        ("tenants", ["acme:*"], "TOKEN_MALFORMED"),
        ("permissions", "*", "TOKEN_MALFORMED"),
        ("permissions", ["brain"], "TOKEN_MALFORMED"),
        ("permissions", ["*:*"], "TOKEN_MALFORMED"),
        ("permissions", [None], "TOKEN_MALFORMED"),
        ("iat", "1800000000", "TOKEN_MALFORMED"),
        ("nbf", 1.5, "TOKEN_MALFORMED"),
        ("exp", True, "TOKEN_MALFORMED"),
        ("exp", 10**400, "TOKEN_MALFORMED"),
        ("iat", -1, "TOKEN_MALFORMED"),
    ],
)
async def test_a_claim_that_is_wrong_is_refused(claim: str, value: object, reason: str) -> None:
    error = await refusal(CALLER.token(key=CALLER.key("token"), **{claim: value}))
    assert (type(error), error.reason) == (Unauthenticated, reason)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"alg": "none"}, "alg is neither HS256 nor EdDSA"),
        ({"alg": "HS512"}, "alg is neither HS256 nor EdDSA"),
        ({"alg": ["HS256"]}, "alg is neither HS256 nor EdDSA"),
        ({"alg": ABSENT}, "alg is neither HS256 nor EdDSA"),
        ({"typ": "JWT"}, "typ is not at+jwt"),
        ({"typ": ABSENT}, "typ is not at+jwt"),
        ({"kid": "k1"}, "kid is not <project>:<kid>"),
        ({"kid": ABSENT}, "kid is not <project>:<kid>"),
        ({"kid": "shop:../k1"}, "kid is not <project>:<kid>"),
        ({"kid": "Shop:k1"}, "kid is not <project>:<kid>"),
        ({"kid": 7}, "kid is not <project>:<kid>"),
        ({"crit": ["\ud800"]}, "its header cannot be read"),
        ({"crit": ["b64"], "b64": False}, "its header cannot be read"),
    ],
)
async def test_a_header_that_is_wrong_is_refused(header: dict[str, Any], said: str) -> None:
    error = await refusal(CALLER.token(header=header))
    assert (error.reason, said in error.message) == ("TOKEN_MALFORMED", True)


async def test_a_token_without_signature_is_refused() -> None:
    head, claims, _ = CALLER.token().split(".")
    unsigned = {"alg": "none", "typ": "at+jwt", "kid": "shop:k1"}
    for token in (f"{head}.{claims}.", f"{head}.{claims}", f"{b64(json.dumps(unsigned).encode())}.{claims}."):
        assert (await refusal(token)).reason == "TOKEN_MALFORMED"


async def test_a_padded_token_is_refused() -> None:
    assert (await refusal(CALLER.token() + "=")).reason == "TOKEN_MALFORMED"


@given(st.data())
async def test_any_changed_character_is_refused(data: st.DataObject) -> None:
    token = CALLER.token()
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABCz09-_.").filter(lambda character: character != token[place]))
    assert isinstance(await refusal(token[:place] + other + token[place + 1 :]), Unauthenticated)


@given(
    st.text(max_size=300) | st.from_regex(r"[A-Za-z0-9_-]{1,80}(\.[A-Za-z0-9_-]{1,80}){2}", fullmatch=True)
)
async def test_no_text_does_worse_than_be_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        await verifier().verify(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
CLAIMS = ("iss", "project", "sub", "aud", "iat", "nbf", "exp", "jti", "tenants", "permissions")


@given(st.dictionaries(st.sampled_from(CLAIMS), json_values, min_size=1))
async def test_no_signed_claims_do_worse_than_be_refused(changed: dict[str, Any]) -> None:
    token = CALLER.token(key=CALLER.key("token"), **changed)
    try:
        principal = (await verifier().verify(token)).principal
    except MeshError as error:
        error.message.encode()
    else:
        assert (principal.project, principal.expires_at <= CLOCK.now + 3700) == ("shop", True)


async def test_one_projects_key_cannot_sign_as_another() -> None:
    other = KeyRow("bank", "k1", secret=OTHER_SECRET.encode())
    ring = StaticRing([*[await RING.find("shop", "k1")], other])  # type: ignore[list-item]
    bank = Handmade("brain", OTHER_SECRET, "bank", clock=CLOCK)
    as_shop = {"iss": "shop", "project": "shop"}
    assert (await refusal(bank.token(**as_shop), ring)).reason == "TOKEN_PROJECT"
    assert (await refusal(bank.token(header={"kid": "shop:k1"}, **as_shop), ring)).reason == "TOKEN_SIGNATURE"


async def test_the_kid_decides_which_key() -> None:
    old = Handmade("brain", "an-older-secret-that-still-verifies-000", "shop", "k0", clock=CLOCK)
    assert (await verifier().verify(old.token())).kid == "shop:k0"
    assert (await refusal(old.token(header={"kid": "shop:k1"}))).reason == "TOKEN_SIGNATURE"
    assert (await refusal(old.token(header={"kid": "shop:k9"}))).reason == "KEY_UNKNOWN"
    assert (await refusal(old.token(header={"kid": "bank:k0"}))).reason == "KEY_UNKNOWN"


async def test_a_key_for_another_use_service_or_namespace_does_not_sign() -> None:
    for key in (
        CALLER.key("proof"),
        CALLER.key("token", "router"),
        Handmade("brain", project="shop", namespace="else").key("token"),
        SECRET.encode(),
        b"\x00" * 32,
    ):
        assert (await refusal(CALLER.token(key=key))).reason == "TOKEN_SIGNATURE"


async def test_a_retired_key_is_refused() -> None:
    ring = StaticRing([KeyRow("shop", "k1", KeyStatus.RETIRED, secret=SECRET.encode())])
    assert (await refusal(CALLER.token(), ring)).reason == "KEY_RETIRED"


async def test_an_expired_token_is_refused_once_the_skew_has_passed() -> None:
    now = int(CLOCK.now)
    await verifier().verify(CALLER.token(iat=now - 300, nbf=now - 300, exp=now - 29))
    error = await refusal(CALLER.token(iat=now - 300, nbf=now - 300, exp=now - 60))
    assert (error.reason, error.message) == ("TOKEN_EXPIRED", "the token expired 60 s ago")


@pytest.mark.parametrize("claim", ["iat", "nbf"])
async def test_a_token_from_the_future_is_refused_beyond_the_skew(claim: str) -> None:
    now = int(CLOCK.now)
    await verifier().verify(CALLER.token(**{claim: now + 30}))
    error = await refusal(CALLER.token(**{claim: now + 31, "exp": now + 300}))
    assert (error.reason, "31 s in the future" in error.message) == ("CLOCK_SKEW", True)


async def test_a_lifetime_beyond_the_maximum_is_refused() -> None:
    now = int(CLOCK.now)
    await verifier().verify(CALLER.token(exp=now + 3600))
    error = await refusal(CALLER.token(exp=now + 3601))
    assert (error.reason, "3601 s, above the 3600 s" in error.message) == ("TOKEN_LIFETIME", True)


async def test_a_token_too_large_is_refused_before_it_is_looked_at() -> None:
    huge = CALLER.token(tenants=[f"tenant-{number}" for number in range(1000)])
    assert (await refusal(huge)).message == f"the token is malformed: it has {len(huge)} bytes, above 4096"


async def test_rights_are_cut_to_the_grants() -> None:
    grants = Grants(frozenset({"acme"}), frozenset({"brain:read"}), frozenset({"script"}), frozenset())
    ring = StaticRing([KeyRow("shop", "k1", grants=grants, secret=SECRET.encode())])
    verified = await verifier(ring).verify(CALLER.token(tenants=["*"], permissions=["*"]))
    assert (verified.principal.tenants, verified.principal.permissions) == ({"acme"}, {"brain:read"})
    assert verified.claimed.permissions == {"*"}
    error = await refusal(CALLER.token(sub="admin"), ring)
    assert (type(error), error.reason) == (PermissionDenied, "GRANT_EXCEEDED")


async def test_derived_keys_verify_tokens_for_their_own_service_only() -> None:
    keys = ServiceKeys(CALLER.key("token"), CALLER.key("proof"))
    everything = frozenset({"*"})
    ring = StaticRing([KeyRow("shop", "k1", grants=Grants(everything, everything, everything), keys=keys)])
    await verifier(ring).verify(CALLER.token())
    with pytest.raises(Unauthenticated) as error:
        await verifier(ring).verify(CALLER.token(aud="router"), "router")
    assert error.value.reason == "KEY_UNKNOWN"


async def test_a_token_that_held_is_known_for_that_audience_until_it_expires() -> None:
    clock = Clock()
    caller = Handmade("brain", project="shop", clock=clock)
    check, token = verifier(clock=clock), caller.token()
    assert check.known(token) is None
    verified = await check.verify(token)
    assert check.known(token) is verified
    assert await check.verify(token) is verified
    assert check.known(token, "router") is None
    clock.now += 330
    assert check.known(token) is None
    with pytest.raises(Unauthenticated):
        await check.verify(token)


async def test_what_does_not_hold_is_not_remembered_and_what_does_is_bounded() -> None:
    check = verifier(capacity=3)
    made = [CALLER.token() for _ in range(5)]
    for token in made:
        with pytest.raises(Unauthenticated):
            await check.verify(token + "x")
        await check.verify(token)
    assert [check.known(token) is not None for token in made] == [False, False, True, True, True]


class Turning:
    """A ring whose only row can be changed."""

    def __init__(self) -> None:
        self.generation = 0
        self.row = KeyRow("shop", "k1", grants=Grants(subjects=frozenset({"*"})), secret=SECRET.encode())

    def turn(self, row: KeyRow) -> None:
        self.row, self.generation = row, self.generation + 1

    async def find(self, project: str, kid: str) -> KeyRow | None:
        return self.row


async def test_tokens_that_have_ended_are_not_kept() -> None:
    clock = Clock()
    caller, check = Handmade("brain", project="shop", clock=clock), verifier(clock=clock)
    for number in range(100):
        await check.verify(caller.token(jti=f"token-{number}"))
        clock.now += 30
    assert len(check._seen) <= (300 + 30) / 30 + 1


async def test_retiring_a_key_stops_tokens_that_were_verified_before() -> None:
    ring = Turning()
    check, token = verifier(ring), CALLER.token()
    await check.verify(token)
    ring.turn(KeyRow("shop", "k1", KeyStatus.RETIRED))
    assert check.known(token) is None
    with pytest.raises(Unauthenticated) as error:
        await check.verify(token)
    assert error.value.reason == "KEY_RETIRED"


async def test_a_check_that_a_change_of_keys_overtakes_is_not_remembered() -> None:
    class Overtaken(Turning):
        async def find(self, project: str, kid: str) -> KeyRow | None:
            row = self.row
            self.turn(row)
            check.known("another call, meanwhile")
            return row

    check, token = verifier(Overtaken()), CALLER.token()
    await check.verify(token)
    assert check.known(token) is None


def test_peek_shows_what_is_in_a_token_and_refuses_what_is_none() -> None:
    header, claims = peek(CALLER.token(sub="ada"))
    assert (header["kid"], claims["sub"]) == ("shop:k1", "ada")
    with pytest.raises(Unauthenticated):
        peek("no token")
    with pytest.raises(Unauthenticated):
        peek(compact({"alg": "HS256", "crit": ["\ud800"]}, {}, b"k" * 32))


def test_nothing_of_a_token_or_key_is_in_a_repr() -> None:
    source = HmacTokens(Identity("ns", "shop", "script", "k1", SECRET.encode()))
    minted = source.token("brain", "acme")
    shown = repr(minted) + repr(Identity("ns", "shop", "script", "k1", SECRET.encode()))
    assert minted.text not in shown
    assert SECRET not in shown
    assert repr(minted.proof_key) not in shown
