"""The layers that present a token with each attempt of a call, and sign it for the instance that was picked."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from meshkit import metadata
from meshkit.call import Call
from meshkit.errors import Unauthenticated
from meshkit.instance import Instance
from meshkit.pipeline import Exchange, Handler, Middleware
from meshkit.security.digests import sha256_hex
from meshkit.security.minting import Minted
from meshkit.security.proof import ANY_INSTANCE, Claim, Signer
from meshkit.security.revocations import TOKEN_REVOKED
from meshkit.security.tokens import digest


class TokenSource(Protocol):
    """Where the tokens come from with which a process calls."""

    def kept(self, call: Call, permissions: tuple[str, ...]) -> Minted | None:
        """The token for a call, if there is one that is good; takes no time.

        Args:
            call: Says which service is called, for which tenant, on behalf of whom.
            permissions: Rights to claim.
        """
        ...

    async def obtain(self, call: Call, permissions: tuple[str, ...]) -> Minted:
        """The token for a call, fetched where there is none.

        Raises:
            MeshError: None can be had; the call was not sent.
        """
        ...

    def replace(self, refused: Minted) -> None:
        """Makes no more use of a token that was refused though its time has not come; the next one is another."""
        ...


_REPLACED = frozenset({TOKEN_REVOKED, "KEY_RETIRED", "KEY_UNKNOWN"})
"""Reasons of refusals that another token may not meet."""


def presenting(source: TokenSource) -> Middleware:
    """Makes the layer that has a token ready before an instance is picked: none is to blame for the wait.

    Args:
        source: Where tokens come from.
    """

    def wrap(next: Handler) -> Handler:
        async def presented(exchange: Exchange) -> None:
            call, permissions = exchange.call, exchange.permissions
            exchange.token = source.kept(call, permissions) or await source.obtain(call, permissions)
            try:
                await next(exchange)
            except Unauthenticated as error:
                if error.reason in _REPLACED:
                    source.replace(exchange.token)
                raise

        return presented

    return wrap


def signing(*, clock: Callable[[], float] = time.time) -> Middleware:
    """Makes the layer that signs.

    Args:
        clock: Unix time in seconds.
    """

    def wrap(next: Handler) -> Handler:
        known: dict[_Place, _Alike] = {}

        def signed(exchange: Exchange) -> Awaitable[None]:
            place = _place(exchange)
            alike = known.get(place)
            if alike is None:
                alike = known[place] = _Alike(exchange.token, *place)
                _forget_oldest(known)
            alike.sign(exchange, clock())
            return next(exchange)

        return signed

    return wrap


CAPACITY = 1024
"""Kinds of calls, alike but for their messages, that are remembered."""

_Place = tuple[str, str, str, str, str, str]


def _forget_oldest(known: dict[_Place, _Alike]) -> None:
    if len(known) > CAPACITY:
        del known[next(iter(known))]


def _place(exchange: Exchange) -> _Place:
    """What the headers of a call depend on: token, instance, method, tenant, criticality and subject."""
    call, token = exchange.call, exchange.token
    instance: Instance = exchange.endpoint.instance
    return (
        token.text,
        ANY_INSTANCE if instance.instance_id == instance.address else instance.instance_id,
        exchange.method.path,
        call.tenant,
        "" if call.criticality == "default" else call.criticality,
        call.subject_token if token.forwards else "",
    )


class _Alike:
    """Calls that differ in their messages alone, and what they present: token, proof, and what that covers."""

    __slots__ = ("_absent", "_headers", "_signer")

    def __init__(
        self, token: Minted, _text: str, to: str, path: str, tenant: str, criticality: str, subject: str
    ) -> None:
        covered = {
            metadata.TENANT: tenant,
            metadata.CRITICALITY: criticality,
            metadata.SUBJECT: subject,
        }
        self._absent = [key for key, value in covered.items() if not value]
        self._headers = {
            metadata.AUTHORIZATION: metadata.BEARER + token.text,
            metadata.TO: to,
            **{key: value for key, value in covered.items() if value},
        }
        claim = Claim(
            alg=token.alg,
            kid=token.kid,
            to=to,
            path=path,
            tenant=tenant,
            criticality=criticality,
            token_digest=token.digest,
            subject_digest=digest(subject) if subject else "",
            body_digest="",
        )
        self._signer = Signer(claim, token.proof_key)

    def sign(self, exchange: Exchange, now: float) -> None:
        """Puts it into the exchange's headers, over whatever an earlier attempt, or the caller, put there."""
        headers = exchange.headers
        body = "" if exchange.method.streams_requests else sha256_hex(exchange.request)
        headers.update(self._headers)
        headers[metadata.PROOF] = self._signer.prove(body, now)
        for key in self._absent:  # what is sent is what was signed
            headers.pop(key, None)
