"""Keys and sealed values.

master key -> (HKDF, tenant and session) -> wrapping key -> (AES-256-GCM) -> the session's random data key
-> (HKDF) -> a key that seals values, and a key that looks them up. Without the wrapped data key nothing
of a session can be read, so deleting it destroys the session wherever copies of its rows survive.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_NONCE_BYTES = 12
_SCHEME = "contextunity.zero/v1"


class Unreadable(Exception):
    """Sealed bytes do not open with this key: another master key, or damage."""


def _derive(key: bytes, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=f"{_SCHEME}|{purpose}".encode()).derive(
        key
    )


def _seal(key: bytes, plain: bytes, associated: str) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, associated.encode())


def _open(key: bytes, sealed: bytes, associated: str) -> bytes:
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], associated.encode())
    except (InvalidTag, ValueError):
        raise Unreadable from None


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """What seals and opens the values of one session.

    Attributes:
        tenant: The session's tenant.
        session_id: The session.
    """

    tenant: str
    session_id: str
    _sealing: bytes = field(repr=False)
    _lookup: bytes = field(repr=False)

    def lookup(self, label: str, value: str) -> bytes:
        """A keyed hash under which the same value is found again, 32 bytes."""
        return hmac.digest(self._lookup, f"{label}|{value}".encode(), hashlib.sha256)

    def seal(self, placeholder: str, value: str) -> bytes:
        """Seals a value for the one place that its placeholder names."""
        return _seal(self._sealing, value.encode(), self._place(placeholder))

    def open(self, placeholder: str, sealed: bytes) -> str:
        """Opens a sealed value.

        Raises:
            Unreadable: It was not sealed for this placeholder of this session, or is damaged.
        """
        return _open(self._sealing, sealed, self._place(placeholder)).decode()

    def _place(self, placeholder: str) -> str:
        return f"{self.tenant}|{self.session_id}|{placeholder}"


class Master:
    """The master key: makes, wraps and unwraps the data keys of sessions."""

    def __init__(self, key: bytes) -> None:
        """Takes the key.

        Raises:
            ValueError: It is not 32 bytes.
        """
        if len(key) != KEY_BYTES:
            raise ValueError(f"a master key is {KEY_BYTES} bytes")
        self._key = key
        self.key_id = _derive(key, "id").hex()[:8]
        """Names the key without telling it, 8 hex digits."""

    def new_session(self, tenant: str, session_id: str) -> bytes:
        """A fresh data key, wrapped for that tenant and session."""
        wrapping, associated = self._wrapping(tenant, session_id)
        return _seal(wrapping, secrets.token_bytes(KEY_BYTES), associated)

    def session(self, tenant: str, session_id: str, wrapped: bytes) -> SessionKeys:
        """The keys of a session.

        Raises:
            Unreadable: The data key was wrapped under another master key, for another session, or is damaged.
        """
        wrapping, associated = self._wrapping(tenant, session_id)
        data_key = _open(wrapping, wrapped, associated)
        return SessionKeys(tenant, session_id, _derive(data_key, "seal"), _derive(data_key, "lookup"))

    def _wrapping(self, tenant: str, session_id: str) -> tuple[bytes, str]:
        place = f"wrap|{tenant}|{session_id}"
        return _derive(self._key, place), place
