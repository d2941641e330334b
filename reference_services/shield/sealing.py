"""What the master key does: it seals keys (AES-256-GCM), and chains the audit log (HMAC-SHA256)."""

from __future__ import annotations

import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_NONCE_BYTES = 12
_SCHEME = "meshkit.shield/v1"


class Unreadable(Exception):
    """Sealed bytes do not open: they were sealed under another master key, for another place, or are damaged."""


class Master:
    """The master key, as the keys that are derived from it (HKDF-SHA256, RFC 5869): one a purpose.

    Args:
        key: The master key, 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a master key is {KEY_BYTES} bytes")
        self._sealing = AESGCM(_derive(key, "sealing"))
        self._audit = _derive(key, "audit")

    def seal(self, plain: bytes, place: str) -> bytes:
        """Seals bytes for the one place where they are kept."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._sealing.encrypt(nonce, plain, place.encode())

    def open(self, sealed: bytes, place: str) -> bytes:
        """Opens them.

        Raises:
            Unreadable: They were not sealed under this key for this place.
        """
        try:
            return self._sealing.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode())
        except (InvalidTag, ValueError):
            raise Unreadable from None

    def mac(self, text: bytes) -> bytes:
        """Authenticates text of the audit log, 32 bytes."""
        return hmac.digest(self._audit, text, "sha256")


def _derive(key: bytes, purpose: str) -> bytes:
    info = f"{_SCHEME}/{purpose}".encode()
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key)
