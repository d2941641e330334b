"""The signing keys: which one signs, which verify, and how one takes over from another.

A new key is published some seconds before it signs, so that verifiers know it by then. From when it signs, the one
before it verifies as long as the longest token lives that it may have signed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from meshkit import FailedPrecondition
from meshkit.authority import ISSUER, KeyRow, KeyStatus
from reference_services.shield.audit import Event
from reference_services.shield.model import KeyState, SigningKey
from reference_services.shield.sealing import Master, Unreadable
from reference_services.shield.storage import KeyStore


class KeyBook:
    """The signing keys as this replica knows them; a `KeyRing` of those that verify.

    Args:
        store: Where they are kept.
        master: What private keys are sealed under.
        activation: Seconds between a key being published and its first use.
        overlap: Seconds for which a key verifies after its last use: the longest life of a token, and the clocks' skew.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        store: KeyStore,
        master: Master,
        *,
        activation: float,
        overlap: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._master = master
        self._activation = activation
        self._overlap = overlap
        self._clock = clock
        self._keys: tuple[SigningKey, ...] = ()
        self._private: dict[str, Ed25519PrivateKey] = {}
        self.generation = 0

    async def load(self) -> None:
        """Reads the keys, and makes the first one where there is none.

        Raises:
            FailedPrecondition: `MASTER_KEY_WRONG`: they were sealed under another master key.
        """

        def first(keys: Sequence[SigningKey]) -> Sequence[SigningKey]:
            return keys or [self._make(self._clock())]

        event = Event(self._clock(), "shield", "first-key")
        self._take(await self._store.change_keys(first, event))

    async def refresh(self) -> None:
        """Reads them again: another replica changed them."""
        self._take(await self._store.signing_keys())

    async def rotate(self, actor: str, *, retire_others: bool) -> None:
        """Makes a key that signs from now on, or in a moment.

        Args:
            actor: Who wants it.
            retire_others: Refuse all others from now on.
        """
        now = self._clock()
        made = self._make(now if retire_others else now + self._activation)
        until = now if retire_others else made.signs_from + self._overlap

        def change(keys: Sequence[SigningKey]) -> Sequence[SigningKey]:
            return [*(_ending(key, until) for key in keys), made]

        event = Event(now, actor, "rotate-keys", {"kid": made.kid, "retire_others": retire_others})
        self._take(await self._store.change_keys(change, event))

    def signing(self) -> tuple[str, Ed25519PrivateKey]:
        """Name and private key of the one that signs now."""
        kid = self._signing_kid()
        return kid, self._private[kid]

    def all(self) -> list[tuple[SigningKey, KeyState]]:
        """The keys, and where each stands now."""
        now, kid = self._clock(), self._signing_kid()
        return [(key, key.state(now, kid)) for key in self._keys]

    async def find(self, project: str, kid: str) -> KeyRow | None:
        """The key of that name as a verifier wants it; see `KeyRing`."""
        for key in self._keys:
            if project == ISSUER and key.kid == kid:
                retired = key.state(self._clock(), "") is KeyState.RETIRED
                status = KeyStatus.RETIRED if retired else KeyStatus.ACTIVE
                return KeyRow(project, kid, status, public_key=Ed25519PublicKey.from_public_bytes(key.public))
        return None

    def _signing_kid(self) -> str:
        """The newest of those whose time has come; `load` saw to it that there is one."""
        now = self._clock()
        live = [key for key in self._keys if key.verifies_until is None or key.verifies_until > now]
        due = [key for key in live if key.signs_from <= now] or live
        if not due:
            raise FailedPrecondition(
                "no key of Shield signs any more: meshkit shield rotate", reason="NO_KEY"
            )
        return max(due, key=lambda key: key.signs_from).kid

    def _make(self, signs_from: float) -> SigningKey:
        kid, private = secrets.token_hex(6), Ed25519PrivateKey.generate()
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        raw = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return SigningKey(kid, public, self._master.seal(raw, _place(kid, public)), signs_from)

    def _take(self, keys: Sequence[SigningKey]) -> None:
        private = {}
        for key in keys:
            try:
                raw = self._master.open(key.sealed, _place(key.kid, key.public))
            except Unreadable:
                raise FailedPrecondition(
                    f"SHIELD_MASTER_KEY does not open the signing key {key.kid}: set the master key that Shield's "
                    "database was made with, or another SHIELD_DATABASE_URL",
                    reason="MASTER_KEY_WRONG",
                ) from None
            private[key.kid] = Ed25519PrivateKey.from_private_bytes(raw)
        self._keys, self._private = tuple(keys), private
        self.generation += 1


def _ending(key: SigningKey, until: float) -> SigningKey:
    """The key as one that verifies until then at most."""
    known = key.verifies_until
    return replace(key, verifies_until=until if known is None else min(known, until))


def _place(kid: str, public: bytes) -> str:
    return f"signing key|{kid}|{public.hex()}"
