"""Sealing: what is written into Redis is encrypted and bound to its place there, by those who hold the keys.

A sealed value is `v1.<kid>.<nonce>.<ciphertext>`, nonce and ciphertext in base64url without padding. It is AES-256-GCM
(NIST SP 800-38D) with a random nonce of 12 bytes and the tag of 16 bytes behind the ciphertext. The associated data are
the length of the Redis key in bytes as four bytes, big-endian, then the Redis key, then the field; both in UTF-8. So a
value that somebody copies to another key or field does not open there.

Sealing hides and proves; it does not date. A value that stood in the same place before still opens: who opens it checks
the time that is written within.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

if TYPE_CHECKING:
    from meshkit.config.secrets import SealingKey

MAX_SEALED_BYTES = 96 * 1024
"""Longest value that is written or opened, in bytes as it stands in Redis."""

_NONCE_BYTES = 12
_VERSIONED = re.compile(rb"v([0-9]{1,9})\.")
_SEALED = re.compile(rb"v1\.([A-Za-z0-9_-]{1,32})\.([A-Za-z0-9_-]{16})\.([A-Za-z0-9_-]{22,})")
_KID = re.compile(rb"v[0-9]{1,9}\.([A-Za-z0-9_-]{1,32})\.")


class SealRefused(ValueError):
    """A value was not sealed or not opened. The text says why and what to do, and quotes nothing of the value."""


class Sealer:
    """Seals what goes into Redis and opens what comes from there.

    A key seals at random, so one should seal no more than 2^32 values: rotate it long before. Without keys this is the
    plain sealer: it writes values as they are, and refuses sealed ones.

    Args:
        keys: The first seals, all open.

    Attributes:
        kid: Name of the key that seals; None where values are written plain.
    """

    def __init__(self, keys: Iterable[SealingKey]) -> None:
        self._ciphers = {key.kid: AESGCM(key.key) for key in keys}
        self.kid: str | None = next(iter(self._ciphers), None)

    def __repr__(self) -> str:
        return f"Sealer({', '.join(self._ciphers) or 'plain'})"

    def seal(self, plaintext: bytes, *, key: str, field: str) -> bytes:
        """The value as it goes into Redis.

        Args:
            plaintext: What to write.
            key: The Redis key that it is written to.
            field: The field within the key, or what else names its place there.

        Raises:
            SealRefused: It is too long; or, without keys, it looks like a sealed value.
        """
        if self.kid is None:
            if _VERSIONED.match(plaintext):
                raise SealRefused("a plain value may not begin like a sealed one")
            return _bounded(plaintext)
        nonce = os.urandom(_NONCE_BYTES)
        ciphertext = self._ciphers[self.kid].encrypt(nonce, plaintext, _place(key, field))
        return _bounded(b".".join((b"v1", self.kid.encode(), _encode(nonce), _encode(ciphertext))))

    def open(self, text: bytes, *, key: str, field: str) -> bytes:
        """What was sealed, from the value as it stands in Redis.

        Args:
            text: The value.
            key: The Redis key that it was read from.
            field: The field within the key, or what else names its place there.

        Raises:
            SealRefused: It does not open; the text says whether it is plain where values are sealed, sealed where they
                are plain, sealed with an unknown key, altered or in the wrong place, of a future version, or too long.
        """
        versioned = _VERSIONED.match(_bounded(text))
        if versioned is None:
            if self.kid is None:
                return text
            raise SealRefused(
                "it is not sealed: its writer has no REDIS_SECRET_KEY; give it the key, or end it"
            )
        if versioned[1] != b"1":
            raise SealRefused(
                f"it is sealed in version {versioned[1].decode()}, and this release reads version 1: upgrade meshkit"
            )
        return self._open_sealed(text, _place(key, field))

    def _open_sealed(self, text: bytes, place: bytes) -> bytes:
        matched = _SEALED.fullmatch(text)
        if matched is None:
            raise SealRefused("it is cut short or altered: its form is not v1.<kid>.<nonce>.<ciphertext>")
        kid = matched[1].decode()
        if self.kid is None:
            raise SealRefused(
                f"it is sealed with the key {kid}, and there is none here: set REDIS_SECRET_KEY"
            )
        cipher = self._ciphers.get(kid)
        if cipher is None:
            raise SealRefused(
                f"it is sealed with the key {kid}, which is not in REDIS_SECRET_KEY here: add it"
            )
        try:
            return cipher.decrypt(_decode(matched[2]), _decode(matched[3]), place)
        except InvalidTag:
            raise SealRefused(
                f"it does not open with the key {kid}: it was altered, written to another place, or sealed with "
                "another key of that name"
            ) from None


def sealed_with(text: bytes) -> str | None:
    """The kid of the key that a value says it is sealed with; None where it is plain."""
    matched = _KID.match(text)
    return matched[1].decode() if matched else None


def _place(key: str, field: str) -> bytes:
    name = key.encode("utf-8", "surrogatepass")
    return len(name).to_bytes(4, "big") + name + field.encode("utf-8", "surrogatepass")


def _bounded(text: bytes) -> bytes:
    if len(text) > MAX_SEALED_BYTES:
        raise SealRefused(f"it has {len(text)} bytes, more than {MAX_SEALED_BYTES}")
    return text


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decode(text: bytes) -> bytes:
    """The bytes of base64url, which has one spelling: else a value could be altered and still open."""
    padded = text + b"=" * (-len(text) % 4)
    try:
        data = base64.urlsafe_b64decode(padded)
    except ValueError:
        data = b""
    if base64.urlsafe_b64encode(data) != padded:
        raise SealRefused("it is cut short or altered: its nonce or ciphertext is not base64url")
    return data
