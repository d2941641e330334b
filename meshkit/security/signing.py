"""The layer that signs each attempt of an outgoing call for the instance that was picked."""

from __future__ import annotations

import time
from collections.abc import Callable

from meshkit import metadata
from meshkit.errors import PermissionDenied, Unauthenticated
from meshkit.instance import Instance
from meshkit.pipeline import Exchange, Handler, Middleware
from meshkit.security.proof import ANY_INSTANCE, Claim, body_digest, make_proof
from meshkit.security.revocations import TOKEN_REVOKED
from meshkit.security.tokens import Minted, TokenSource, digest


def signing(source: TokenSource, *, clock: Callable[[], float] = time.time) -> Middleware:
    """Makes the layer.

    Args:
        source: Where tokens come from.
        clock: Unix time in seconds.
    """

    def wrap(next: Handler) -> Handler:
        async def signed(exchange: Exchange) -> None:
            token = sign(exchange, source, now=clock())
            try:
                await next(exchange)
            except Unauthenticated as error:
                if error.reason == TOKEN_REVOKED:
                    source.replace(token)
                raise

        return signed

    return wrap


def sign(exchange: Exchange, source: TokenSource, *, now: float) -> Minted:
    """Puts token, proof and what they cover into the exchange's headers, over whatever an earlier attempt put there.

    Returns:
        The token.

    Raises:
        PermissionDenied: The call is on behalf of a subject that cannot be forwarded once more.
    """
    call, headers = exchange.call, exchange.headers
    if call.forwarded:
        raise PermissionDenied(
            "this call came on behalf of somebody, who cannot be forwarded once more: call as the service itself "
            "with mesh.scope(as_self=True)",
            reason="DELEGATION_DEPTH",
        )
    token = source.token(call.service, call.tenant, exchange.permissions)
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
        subject_digest=digest(call.subject_token) if call.subject_token else "",
        body_digest="" if exchange.method.streams_requests else body_digest(exchange.request),
    )
    headers[metadata.AUTHORIZATION] = metadata.BEARER + token.text
    headers[metadata.PROOF] = make_proof(claim, token.proof_key, now=now)
    headers[metadata.TO] = to
    _put(headers, metadata.TENANT, claim.tenant)
    _put(headers, metadata.CRITICALITY, claim.criticality)
    _put(headers, metadata.SUBJECT, call.subject_token)
    return token


def _put(headers: dict[str, str | bytes], key: str, value: str) -> None:
    """Sets a header that the proof covers, or takes it out: what is sent is what was signed."""
    if value:
        headers[key] = value
    else:
        headers.pop(key, None)
