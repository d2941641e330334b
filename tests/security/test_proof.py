"""Request proofs: the canonical text, and that nothing which it covers can be changed."""

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.errors import Unauthenticated
from meshkit.security.proof import Claim, Proof, body_digest, make_proof
from tests.security.handmade import b64

KEY = bytes(range(32))
CLAIM = Claim(
    alg="HS256",
    kid="shop:k1",
    to="brain-01J",
    path="/brain.v1.BrainService/Search",
    tenant="acme",
    criticality="critical",
    token_digest="1" * 64,
    subject_digest="2" * 64,
    body_digest=body_digest(b"body"),
)
NOW = 1_800_000_000.123
FIELDS = list(Claim._fields)


def proof() -> Proof:
    return Proof.parse(make_proof(CLAIM, KEY, now=NOW, nonce=bytes(16)))


def refused(claim: Claim, key: bytes = KEY, checked: Proof | None = None) -> str:
    with pytest.raises(Unauthenticated) as error:
        (checked or proof()).check_signature(claim, key)
    return error.value.reason


def test_the_canonical_text_is_twelve_lines() -> None:
    lines = CLAIM.canonical("1", "n").decode().split("\n")
    assert lines == [
        "meshkit-proof-v1",
        "HS256",
        "shop:k1",
        "brain-01J",
        "/brain.v1.BrainService/Search",
        "acme",
        "critical",
        "1",
        "n",
        "1" * 64,
        "2" * 64,
        "230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5",
    ]


def test_what_is_absent_is_a_dash() -> None:
    bare = CLAIM._replace(tenant="", criticality="", subject_digest="", body_digest="")
    assert bare.canonical("1", "n").decode().split("\n")[5:7] == ["-", "-"]
    assert bare.canonical("1", "n").decode().split("\n")[10:] == ["-", "-"]


def test_a_proof_is_made_as_it_is_stated() -> None:
    signature = b64(hmac.digest(KEY, CLAIM.canonical("1800000000123", "A" * 22), "sha256"))
    assert make_proof(CLAIM, KEY, now=NOW, nonce=bytes(16)) == (
        f"ts=1800000000123;nonce={'A' * 22};sig={signature}"
    )
    proof().check_signature(CLAIM, KEY)


def test_two_proofs_of_one_request_differ() -> None:
    assert make_proof(CLAIM, KEY, now=NOW) != make_proof(CLAIM, KEY, now=NOW)


@given(st.sampled_from(FIELDS), st.data())
def test_any_changed_character_is_refused(name: str, data: st.DataObject) -> None:
    value = getattr(CLAIM, name)
    place = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=value[place]))
    changed = value[:place] + other + value[place + 1 :]
    assert refused(CLAIM._replace(**{name: changed})) == "PROOF_MISMATCH"


@pytest.mark.parametrize("name", FIELDS)
def test_anything_taken_away_or_added_is_refused(name: str) -> None:
    for changed in ("", getattr(CLAIM, name)[:-1], getattr(CLAIM, name) + "x"):
        assert refused(CLAIM._replace(**{name: changed})) == "PROOF_MISMATCH"


@given(st.integers(0, 8 * 4 - 1))
def test_any_changed_bit_of_the_message_is_refused(bit: int) -> None:
    body = bytearray(b"body")
    body[bit // 8] ^= 1 << bit % 8
    assert refused(CLAIM._replace(body_digest=body_digest(bytes(body)))) == "PROOF_MISMATCH"


@given(st.integers(0, 255))
def test_any_changed_bit_of_the_key_is_refused(bit: int) -> None:
    key = bytearray(KEY)
    key[bit // 8] ^= 1 << bit % 8
    assert refused(CLAIM, bytes(key)) == "PROOF_MISMATCH"


@pytest.mark.parametrize("name", ["ts", "nonce", "signature"])
def test_any_changed_character_of_the_proof_itself_is_refused(name: str) -> None:
    value = getattr(proof(), name)
    for place, character in enumerate(value):
        other = value[:place] + ("7" if character != "7" else "8") + value[place + 1 :]
        assert refused(CLAIM, checked=proof()._replace(**{name: other})) == "PROOF_MISMATCH"


@given(st.sampled_from(FIELDS), st.sampled_from(FIELDS))
def test_values_cannot_be_moved_from_one_line_to_another(one: str, other: str) -> None:
    swapped = CLAIM._replace(**{one: getattr(CLAIM, other), other: getattr(CLAIM, one)})
    if one != other:
        assert refused(swapped) == "PROOF_MISMATCH"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ts=1;nonce=AAAAAAAAAAAAAAAAAAAAAA",
        f"ts=01;nonce={'A' * 22};sig={'A' * 43}",
        f"ts=-1;nonce={'A' * 22};sig={'A' * 43}",
        f"ts=1;nonce={'A' * 21};sig={'A' * 43}",
        f"ts=1;nonce={'A' * 23};sig={'A' * 43}",
        f"ts=1;nonce={'A' * 22};sig={'A' * 42}",
        f"ts=1;nonce={'A' * 22};sig={'A' * 87}",
        f"ts=1;nonce={'A' * 22};sig={'A' * 43}=",
        f"ts=1;nonce={'+' * 22};sig={'A' * 43}",
        f"ts=1; nonce={'A' * 22}; sig={'A' * 43}",
        f"ts=1;nonce={'A' * 22};sig={'A' * 43}\n",
        f"ts=\u0661;nonce={'A' * 22};sig={'A' * 43}",
        f"ts={'9' * 17};nonce={'A' * 22};sig={'A' * 43}",
    ],
)
def test_what_is_no_proof_is_refused(text: str) -> None:
    with pytest.raises(Unauthenticated) as error:
        Proof.parse(text)
    assert error.value.reason == "PROOF_MALFORMED"


@given(st.text(max_size=200))
def test_no_text_does_worse_than_be_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        Proof.parse(text)


@pytest.mark.parametrize(("off", "said"), [(3600, "3600.0 s behind"), (-3600, "3600.0 s ahead of")])
def test_a_clock_that_is_wrong_is_told_by_how_much(off: float, said: str) -> None:
    with pytest.raises(Unauthenticated, match=said) as error:
        proof().check_fresh(NOW + off, 30)
    assert error.value.reason == "CLOCK_SKEW"
    assert error.value.details["seconds"] == f"{-off:.1f}"


@pytest.mark.parametrize("off", [-30, 0, 30])
def test_a_clock_within_the_skew_is_right(off: float) -> None:
    proof().check_fresh(proof().time + off, 30)


def test_a_message_that_comes_late_is_refused() -> None:
    proof().check_on_time(proof().time + 30, 30)
    with pytest.raises(Unauthenticated, match=r"31\.0 s after") as error:
        proof().check_on_time(proof().time + 31, 30)
    assert error.value.reason == "PROOF_STALE"
