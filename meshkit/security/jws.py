"""Compact JSON Web Signatures (RFC 7515), read and checked with HMAC-SHA256 or Ed25519.

Each token that a service has not seen is checked here. PyJWT makes tokens and shows them to people; for checking one
it takes several times as long as all else of a call's checks together. What it refuses is refused here, too: other
spellings of base64url, and headers with `crit`, which ask for what is not known.
"""

from __future__ import annotations

import hmac
import json
from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Mapping
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from meshkit.security.digests import hmac_sha256

_PLAIN = bytes.maketrans(b"-_", b"+/")
_URLSAFE = bytes.maketrans(b"+/", b"-_")


class Compact(NamedTuple):
    """A signature and what it is over, not checked.

    Attributes:
        header: The header.
        payload: What is signed, as bytes.
        signed: The text that the signature is over.
        signature: The signature.
    """

    header: Mapping[str, Any]
    payload: bytes
    signed: bytes
    signature: bytes

    @classmethod
    def read(cls, text: str) -> Compact:
        """Takes a text apart.

        Raises:
            ValueError: It is none.
        """
        signed, dot, signature = text.encode("ascii").rpartition(b".")
        header, other_dot, payload = signed.partition(b".")
        if not dot or not other_dot:
            raise ValueError("it is not three parts")
        fields = read_object(_decode(header))
        if "crit" in fields:
            raise ValueError("its header has crit")
        return cls(fields, _decode(payload), signed, _decode(signature))

    def is_signed_with(self, key: bytes | Ed25519PublicKey) -> bool:
        """Whether the signature is the key's. The key fixes the algorithm, whatever the header says."""
        if isinstance(key, bytes):
            return hmac.compare_digest(hmac_sha256(key, self.signed), self.signature)
        try:
            key.verify(self.signature, self.signed)
        except InvalidSignature:
            return False
        return True


def read_object(data: bytes) -> dict[str, Any]:
    """The JSON object in some bytes.

    Raises:
        ValueError: There is none.
    """
    try:
        fields = json.loads(data)
    except RecursionError:
        fields = None
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    return fields


def _decode(part: bytes) -> bytes:
    """The bytes of base64url without padding, in the one way to write it."""
    try:
        data = a2b_base64(part.translate(_PLAIN) + b"=" * (-len(part) % 4))
    except Error:
        raise ValueError("it is not base64url") from None
    if b2a_base64(data, newline=False).translate(_URLSAFE, b"=") != part:
        raise ValueError("it is base64url in another spelling")
    return data
