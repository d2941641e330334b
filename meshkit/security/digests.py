"""SHA-256 (FIPS 180-4) and HMAC-SHA256 (RFC 2104) of a few hundred bytes, several times a call.

They use CPython's own SHA-256 where there is one. At such sizes OpenSSL spends more on finding and setting up its
algorithms than on the hash: on a busy server its HMAC took about 30 µs of a call, and this one could not be told from
none.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any


def _own_sha256() -> Callable[[bytes], Any]:
    for module in ("_sha2", "_sha256"):  # since Python 3.12, before
        try:
            found: Callable[[bytes], Any] = importlib.import_module(module).sha256
        except ImportError:
            continue
        return found
    return hashlib.sha256


_sha256 = _own_sha256()
_BLOCK = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def sha256_hex(data: bytes) -> str:
    """SHA-256 in lower-case hex."""
    digest: str = _sha256(data).hexdigest()
    return digest


class Mac:
    """HMAC-SHA256 under one key, of messages that begin alike: their beginning is hashed once.

    Args:
        key: At most 64 bytes, as derived keys are.
        beginning: How all of the messages begin.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes, beginning: bytes = b"") -> None:
        inner, self._outer = _prepared(key)
        self._inner = inner.copy()
        self._inner.update(beginning)

    def of(self, rest: bytes) -> bytes:
        """The 32 bytes for a message, given what follows upon the beginning."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(rest)
        outer.update(inner.digest())
        mac: bytes = outer.digest()
        return mac


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256, 32 bytes.

    Args:
        key: At most 64 bytes, as derived keys are.
        message: What is authenticated.
    """
    return Mac(key).of(message)


@lru_cache(maxsize=4096)
def _prepared(key: bytes) -> tuple[Any, Any]:
    """The two hashes of an HMAC once they took in their key."""
    if len(key) > _BLOCK:
        raise ValueError(f"a key of {len(key)} bytes; at most {_BLOCK} are taken")
    padded = key.ljust(_BLOCK, b"\0")
    return _sha256(padded.translate(_INNER)), _sha256(padded.translate(_OUTER))
