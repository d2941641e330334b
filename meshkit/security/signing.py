"""The layers that present a token with each attempt of a call, and sign it for the instance that was picked."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from meshkit import metadata
from meshkit.call import Call
from meshkit.errors import Unauthenticated
from meshkit.instance import Instance
from meshkit.pipeline import Exchange, Handler, Middleware
from meshkit.security.minting import Minted
from meshkit.security.proof import ANY_INSTANCE, Claim, body_digest, make_proof
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
        async def signed(exchange: Exchange) -> None:
            sign(exchange, now=clock())
            await next(exchange)

        return signed

    return wrap


def sign(exchange: Exchange, *, now: float) -> None:
    """Puts token, proof and what they cover into the exchange's headers, over whatever an earlier attempt put there."""
    call, headers, token = exchange.call, exchange.headers, exchange.token
    subject = call.subject_token if token.forwards else ""
    instance: Instance = exchange.endpoint.instance
    to = ANY_INSTANCE if instance.instance_id == instance.address else instance.instance_id
    claim = Claim(
        alg=token.alg,
        kid=token.kid,
        to=to,
        path=exchange.method.path,
        tenant=call.tenant,
        criticality="" if call.criticality == "default" else call.criticality,
        token_digest=token.digest,
        subject_digest=digest(subject) if subject else "",
        body_digest="" if exchange.method.streams_requests else body_digest(exchange.request),
    )
    headers[metadata.AUTHORIZATION] = metadata.BEARER + token.text
    headers[metadata.PROOF] = make_proof(claim, token.proof_key, now=now)
    headers[metadata.TO] = to
    _put(headers, metadata.TENANT, claim.tenant)
    _put(headers, metadata.CRITICALITY, claim.criticality)
    _put(headers, metadata.SUBJECT, subject)


def _put(headers: dict[str, str | bytes], key: str, value: str) -> None:
    """Sets a header that the proof covers, or takes it out: what is sent is what was signed."""
    if value:
        headers[key] = value
    else:
        headers.pop(key, None)
