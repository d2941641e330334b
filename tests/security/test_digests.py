"""Our HMAC is HMAC: held against the standard library's, on any input."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.security.digests import Mac, hmac_sha256, sha256_hex


@given(st.binary(max_size=64), st.binary(max_size=2000))
def test_it_is_hmac_sha256(key: bytes, message: bytes) -> None:
    assert hmac_sha256(key, message) == hmac.digest(key, message, "sha256")
    assert hmac_sha256(key, message) == hmac.digest(key, message, "sha256"), "a second use of a key differs"


@given(st.binary(max_size=64), st.binary(max_size=500), st.lists(st.binary(max_size=500), max_size=3))
def test_a_beginning_is_hashed_once_for_all_messages(
    key: bytes, beginning: bytes, rests: list[bytes]
) -> None:
    mac = Mac(key, beginning)
    for rest in rests:
        assert mac.of(rest) == hmac.digest(key, beginning + rest, "sha256")


@given(st.binary(max_size=2000))
def test_it_is_sha256(data: bytes) -> None:
    assert sha256_hex(data) == hashlib.sha256(data).hexdigest()


def test_a_key_that_would_have_to_be_hashed_first_is_refused() -> None:
    with pytest.raises(ValueError, match="65 bytes"):
        hmac_sha256(bytes(65), b"")
