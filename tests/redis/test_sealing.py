import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.config import SealingKey
from meshkit.redis.sealing import MAX_SEALED_BYTES, Sealer, SealRefused, sealed_with

KEY = "contextunity:{brain}:instances"
FIELD = "brain-01hx"
OLD, NEW = SealingKey("old", b"\x01" * 32), SealingKey("new", b"\x02" * 32)
BOTH = Sealer([NEW, OLD])
PLAIN = Sealer(())

names = st.text(max_size=40)
kids = st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True)


def refusal(sealer: Sealer, text: bytes, key: str = KEY, field: str = FIELD) -> str:
    with pytest.raises(SealRefused) as caught:
        sealer.open(text, key=key, field=field)
    assert caught.value.__cause__ is None
    return str(caught.value)


@given(st.binary(max_size=2000), kids, st.binary(min_size=32, max_size=32), names, names)
def test_what_is_sealed_opens_in_its_place(
    plaintext: bytes, kid: str, key: bytes, place: str, field: str
) -> None:
    sealer = Sealer([SealingKey(kid, key)])
    text = sealer.seal(plaintext, key=place, field=field)
    assert sealed_with(text) == kid
    assert sealer.open(text, key=place, field=field) == plaintext
    assert len(plaintext) < 8 or plaintext not in text


@given(st.binary(max_size=200), st.data())
def test_a_value_that_was_altered_in_any_byte_does_not_open(plaintext: bytes, data: st.DataObject) -> None:
    text = BOTH.seal(plaintext, key=KEY, field=FIELD)
    position = data.draw(st.integers(0, len(text) - 1))
    change = data.draw(st.integers(1, 255))
    altered = text[:position] + bytes([text[position] ^ change]) + text[position + 1 :]
    refusal(BOTH, altered)


def test_no_bit_of_a_value_is_without_meaning() -> None:
    text = BOTH.seal(b"a record", key=KEY, field=FIELD)
    for position in range(len(text)):
        for bit in range(8):
            altered = bytearray(text)
            altered[position] ^= 1 << bit
            refusal(BOTH, bytes(altered))


@given(st.binary(max_size=200), st.integers(0, 60))
def test_a_value_that_was_cut_or_made_longer_does_not_open(plaintext: bytes, count: int) -> None:
    text = BOTH.seal(plaintext, key=KEY, field=FIELD)
    refusal(BOTH, text[: -count - 1])
    refusal(BOTH, text + b"A" * (count + 1))


@given(names, names, names, names)
def test_a_value_in_another_place_does_not_open(key: str, field: str, other: str, another: str) -> None:
    text = BOTH.seal(b"a record", key=key, field=field)
    if (key, field) == (other, another):
        assert BOTH.open(text, key=other, field=another) == b"a record"
    else:
        assert "written to another place" in refusal(BOTH, text, other, another)


@given(names, st.text(min_size=1, max_size=40), names)
def test_where_the_key_ends_and_the_field_begins_is_sealed_too(left: str, middle: str, right: str) -> None:
    text = BOTH.seal(b"a record", key=left + middle, field=right)
    refusal(BOTH, text, left, middle + right)


def test_the_first_key_seals_and_all_open() -> None:
    text = Sealer([OLD]).seal(b"a record", key=KEY, field=FIELD)
    assert BOTH.open(text, key=KEY, field=FIELD) == b"a record"
    assert (BOTH.kid, sealed_with(BOTH.seal(b"", key=KEY, field=FIELD))) == ("new", "new")


def test_no_two_seals_are_alike() -> None:
    sealed = {BOTH.seal(b"a record", key=KEY, field=FIELD) for _ in range(100)}
    assert len({text.split(b".")[2] for text in sealed}) == 100


def test_the_form_and_the_associated_data_are_those_of_the_page() -> None:
    from base64 import urlsafe_b64decode

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    version, kid, nonce, ciphertext = BOTH.seal(b"a record", key="ké", field="f").split(b".")
    assert (version, kid, len(nonce)) == (b"v1", b"new", 16)
    associated = b"\x00\x00\x00\x03" + "ké".encode() + b"f"
    padded = ciphertext + b"=" * (-len(ciphertext) % 4)
    opened = AESGCM(NEW.key).decrypt(urlsafe_b64decode(nonce), urlsafe_b64decode(padded), associated)
    assert opened == b"a record"


def test_without_keys_values_are_plain() -> None:
    record = b'{"service": "brain"}'
    assert PLAIN.seal(record, key=KEY, field=FIELD) == record
    assert PLAIN.open(record, key=KEY, field=FIELD) == record
    assert (PLAIN.kid, sealed_with(record), repr(PLAIN)) == (None, None, "Sealer(plain)")


@given(st.binary(max_size=200))
def test_without_keys_what_is_written_is_read_or_not_written(plaintext: bytes) -> None:
    for candidate in (plaintext, b"v1." + plaintext, b"v2." + plaintext):
        try:
            text = PLAIN.seal(candidate, key=KEY, field=FIELD)
        except SealRefused:
            continue
        assert PLAIN.open(text, key=KEY, field=FIELD) == candidate


def test_a_plain_value_may_not_look_like_a_sealed_one() -> None:
    with pytest.raises(SealRefused, match="may not begin like a sealed one"):
        PLAIN.seal(b"v1.a.b.c", key=KEY, field=FIELD)


def test_a_refusal_says_which_it_is() -> None:
    sealed = Sealer([OLD]).seal(b"a record", key=KEY, field=FIELD)
    impostor = Sealer([SealingKey("old", b"\x03" * 32)])
    assert "it is not sealed: its writer has no REDIS_SECRET_KEY" in refusal(BOTH, b'{"a": 1}')
    assert "it is not sealed" in refusal(BOTH, b"")
    assert "sealed with the key old, and there is none here: set REDIS_SECRET_KEY" in refusal(PLAIN, sealed)
    assert "sealed with the key old, which is not in REDIS_SECRET_KEY here" in refusal(Sealer([NEW]), sealed)
    assert "does not open with the key old" in refusal(impostor, sealed)
    assert "sealed in version 2, and this release reads version 1" in refusal(BOTH, b"v2.anything at all")
    assert "sealed in version 2" in refusal(PLAIN, b"v2.anything at all")
    for broken in (b"v1.", b"v1.old", b"v1.a b.c.d", sealed[:40], b"v1.old." + b"=" * 80, sealed + b"."):
        assert "cut short or altered" in refusal(BOTH, broken)


def test_the_last_letter_has_one_spelling() -> None:
    text = BOTH.seal(
        b"12", key=KEY, field=FIELD
    )  # 18 bytes of ciphertext and tag: 24 letters, no bits to spare
    assert len(text.split(b".")[3]) == 24
    text = BOTH.seal(b"1", key=KEY, field=FIELD)  # 17 bytes: two bits to spare in the last letter
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    opened = [letter for letter in letters if opens(text[:-1] + bytes([letter]))]
    assert opened == [text[-1]]


def opens(text: bytes) -> bool:
    try:
        return BOTH.open(text, key=KEY, field=FIELD) == b"1"
    except SealRefused:
        return False


def test_length_is_bounded_both_ways() -> None:
    for sealer in (PLAIN, BOTH):
        with pytest.raises(SealRefused, match="more than 98304"):
            sealer.seal(b"x" * (MAX_SEALED_BYTES + 1), key=KEY, field=FIELD)
        assert "it has 98305 bytes, more than 98304" in refusal(sealer, b"x" * (MAX_SEALED_BYTES + 1))
    longest = b"x" * 73_000
    assert BOTH.open(BOTH.seal(longest, key=KEY, field=FIELD), key=KEY, field=FIELD) == longest


@pytest.mark.parametrize(
    ("text", "kid"),
    [(b"v1.a.b.c", "a"), (b"v2.a.b", "a"), (b"{}", None), (b"", None), (b"v1", None), (b"v1.a b.c", None)],
)
def test_the_kid_of_a_value_can_be_told_without_opening_it(text: bytes, kid: str | None) -> None:
    assert sealed_with(text) == kid


def test_keys_are_in_no_repr() -> None:
    key = SealingKey("k", b"CANARY" * 5 + b"xx")
    assert "CANARY" not in f"{key!r} {Sealer([key])!r}"
    assert repr(Sealer([NEW, OLD])) == "Sealer(new, old)"


def test_a_name_that_is_no_unicode_is_a_place_too() -> None:
    text = BOTH.seal(b"a record", key=KEY, field="\udcff")
    assert BOTH.open(text, key=KEY, field="\udcff") == b"a record"
    refusal(BOTH, text, field="\udcfe")


def test_sealing_loads_no_redis_library() -> None:
    code = "import sys, meshkit.redis.sealing; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=dict(os.environ)).returncode == 0
