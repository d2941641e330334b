"""The layers that let a call in: on its headers, token, freshness, rights and tenant; on its message, the proof.

A caller that is refused on its headers never has its message read.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from meshkit import metadata
from meshkit.call import CRITICALITIES, TENANT, Criticality, Principal
from meshkit.errors import InvalidArgument, MeshError, PermissionDenied, Unauthenticated, Unavailable
from meshkit.pipeline import END, Exchange, Handler, Middleware
from meshkit.security.digests import sha256_hex
from meshkit.security.proof import ANY_INSTANCE, Checker, Claim, NonceCache, Proof
from meshkit.security.rights import meet
from meshkit.security.standing import Standing, Standings
from meshkit.security.tokens import TokenVerifier, Verified, digest

if TYPE_CHECKING:
    from meshkit.security.nonces import SharedNonces

Headers = Mapping[str, Any]
"""The request's metadata; text under the keys of the mesh."""

ProofMode = Literal["required", "optional", "off"]
"""Whether each call must carry a proof, may carry one, or has it ignored."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a method asks of its callers.

    Attributes:
        permission: `service:verb`; empty for a public method.
        tenant: `required`, `optional` or `none`.
        peers: For `MeshInterceptor`: names of the services that alone may call, as their certificates say; empty: any.
    """

    permission: str = ""
    tenant: Literal["required", "optional", "none"] = "required"
    peers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Guard:
    """Lets calls of one instance in.

    Attributes:
        service: Name of the service.
        instance_id: Id of this instance: the `x-cu-to` that it accepts.
        verifier: Checks tokens.
        nonces: Remembers proofs.
        mode: Whether proofs are required.
        skew: Seconds by which clocks may differ.
        clock: Unix time in seconds.
        realm: Where the tokens that it accepts are good.
        shared_nonces: Where replicas share the nonces of proofs that name no instance; None where they do not.
        booted_at: Unix time in seconds of this instance's boot: proofs for any instance must be younger.
    """

    service: str
    instance_id: str
    verifier: TokenVerifier
    nonces: NonceCache
    mode: ProofMode = "required"
    skew: float = 30.0
    clock: Callable[[], float] = time.time
    realm: str = ""
    shared_nonces: SharedNonces | None = None
    booted_at: float = field(default_factory=time.time)

    def layer(self, demand: Demand) -> Middleware:
        """The layer for a method that makes this demand."""

        def wrap(next: Handler) -> Handler:
            known = Standings(self.verifier, clock=self.clock)

            def guarded(exchange: Exchange) -> Awaitable[None]:
                standing = known.find(exchange)
                if standing is None or exchange.method.streams_requests:
                    return examined(exchange)
                try:
                    proof = self._fresh_proof(exchange.headers)
                except MeshError:
                    if demand.permission:
                        raise
                    return next(exchange)
                if proof is None:
                    self._do_without_proof()
                elif standing.checker is None:
                    return examined(exchange)
                else:
                    self._check_address(exchange.headers, proof)
                self._let_in(exchange, standing, proof)
                return next(exchange)

            async def examined(exchange: Exchange) -> None:
                standing = await self._examine(exchange, demand)
                if standing is not None:
                    known.keep(exchange, standing)
                await next(exchange)

            return guarded

        return wrap

    async def _examine(self, exchange: Exchange, demand: Demand) -> Standing | None:
        """Lets a call in whose caller is not known yet, or no more; None where that is nobody."""
        headers, generation = exchange.headers, self.verifier.generation
        try:
            token = _bearer(headers)
            proof = self._fresh_proof(headers)
            actor = self.verifier.known(token) or await self.verifier.verify(token)
        except MeshError:
            if demand.permission:
                raise
            return None  # the method is public: a caller whose token does not hold is anybody
        if proof is None:
            self._do_without_proof()
        criticality, tenant = _criticality(headers), _tenant(headers, demand)
        if proof is not None:
            self._check_address(headers, proof)
        subject = await self._subject(headers, actor)
        _authorize(actor, subject, demand, tenant)
        tokens = (actor,) if subject is None else (actor, subject)
        standing = Standing(
            project=actor.principal.project,
            facts={
                "principal": actor.principal,
                "subject": _on_behalf(actor, subject) if subject else actor.subject or actor.principal,
                "tenant": tenant,
                "criticality": criticality,
                "subject_token": token,
                "realm": self.realm,
                "forwarded": subject is not None,
            },
            bearers=tuple(bearer for each in tokens for bearer in each.bearers),
            ends=min(self.verifier.ends(each) for each in tokens),
            generation=generation,
            checker=None if proof is None else Checker(_claim(exchange, actor), actor.proof_key),
        )
        self._let_in(exchange, standing, proof)
        if proof is not None and exchange.method.streams_requests and (shared := self._sharing(exchange)):
            await shared.take(standing.project, proof.nonce)
        return standing

    def _let_in(self, exchange: Exchange, standing: Standing, proof: Proof | None) -> None:
        """Tells the call who its caller is, and has the proof checked."""
        if proof is not None:
            assert standing.checker is not None
            self._demand_signature(exchange, standing, standing.checker, proof)
        method = exchange.method
        if method.streams_requests or method.streams_replies:
            exchange.bearers = standing.bearers
        exchange.call = exchange.call.knowing(standing.facts)

    async def _subject(self, headers: Headers, actor: Verified) -> Verified | None:
        """The verified token on whose behalf the actor calls, if it forwarded one."""
        token = headers.get(metadata.SUBJECT, "")
        if not token:
            return None
        name = actor.principal.name
        try:
            subject = self.verifier.known(token, name) or await self.verifier.verify(token, name)
        except Unauthenticated as error:
            raise Unauthenticated(
                f"x-cu-subject: {error.message}", reason=f"SUBJECT_{error.reason}"
            ) from None
        project = subject.principal.project
        if not ("*" in actor.grants.delegate or project in actor.grants.delegate):
            raise PermissionDenied(
                f"{actor.principal.project} may not call on behalf of project {project}",
                reason="DELEGATE_FORBIDDEN",
            )
        return subject

    def _fresh_proof(self, headers: Headers) -> Proof | None:
        """The call's proof, if it is of now; None where there is none, or it does not matter.

        It is looked at before the token, so that a caller whose clock is wrong is told by how much.
        """
        if self.mode == "off" or metadata.PROOF not in headers:
            return None
        proof = Proof.parse(headers.get(metadata.PROOF, ""))
        proof.check_fresh(self.clock(), self.skew)
        return proof

    def _do_without_proof(self) -> None:
        if self.mode == "required":
            raise Unauthenticated("the call carries no x-cu-proof", reason="PROOF_MISSING")

    def _check_address(self, headers: Headers, proof: Proof) -> None:
        """Refuses a call that was signed for another instance, or for any before this one was there."""
        to = headers.get(metadata.TO, "")
        if to == self.instance_id:
            return
        if not to:
            raise InvalidArgument(
                "x-cu-to is missing: send the id of the instance that the call is for, or - for any",
                reason="TO_MISSING",
            )
        if to != ANY_INSTANCE:
            raise _misdirected()
        if int(proof.ts) < int(self.booted_at * 1000):  # a proof's time is in whole milliseconds
            raise Unauthenticated("the proof is older than this instance; sign anew", reason="PROOF_REPLAYED")

    def _sharing(self, exchange: Exchange) -> SharedNonces | None:
        """Where the call's nonce is taken for all replicas: where each of them could take it, and twice does harm."""
        if exchange.method.idempotent or exchange.headers[metadata.TO] != ANY_INSTANCE:
            return None
        return self.shared_nonces

    def _demand_signature(
        self, exchange: Exchange, standing: Standing, checker: Checker, proof: Proof
    ) -> None:
        """Checks the proof's signature and nonce: now where it covers headers only, else when the message is there."""
        project = standing.project
        if exchange.method.streams_requests:
            checker.check(proof, "")
            self.nonces.add(project, proof.nonce)
            return
        receive, shared = exchange.receive, self._sharing(exchange)

        async def proven() -> Any:
            body = await receive()
            if body is not END:
                proof.check_on_time(self.clock(), self.skew)
                checker.check(proof, sha256_hex(body))
                self.nonces.add(project, proof.nonce)
                if shared is not None:
                    await shared.take(project, proof.nonce)
            return body

        exchange.receive = proven


def _claim(exchange: Exchange, actor: Verified) -> Claim:
    """What the proofs of such calls say, but for their message."""
    headers = exchange.headers
    subject = headers.get(metadata.SUBJECT, "")
    return Claim(
        alg=actor.alg,
        kid=actor.kid,
        to=headers[metadata.TO],
        path=exchange.method.path,
        tenant=headers.get(metadata.TENANT, ""),
        criticality=headers.get(metadata.CRITICALITY, ""),
        token_digest=actor.digest,
        subject_digest=digest(subject) if subject else "",
        body_digest="",
    )


def _authorize(actor: Verified, subject: Verified | None, demand: Demand, tenant: str) -> None:
    """Refuses a caller without the permission, or not of the tenant; the subject needs both as well."""
    for verified in (actor, subject):
        if verified is None:
            continue
        held, claimed = verified.principal, verified.claimed
        if demand.permission and not held.may(demand.permission):
            exceeded = claimed.may(demand.permission)
            raise PermissionDenied(
                f"{held.name} of project {held.project} lacks the permission {demand.permission}",
                reason="GRANT_EXCEEDED" if exceeded else "PERMISSION_MISSING",
                permission=demand.permission,
            )
        if tenant and not held.serves(tenant):
            exceeded = claimed.serves(tenant)
            raise PermissionDenied(
                f"{held.name} of project {held.project} may not call for tenant {tenant}",
                reason="GRANT_EXCEEDED" if exceeded else "TENANT_FORBIDDEN",
            )


def _on_behalf(actor: Verified, subject: Verified) -> Principal:
    """The subject, with the rights and tenants that the actor has too."""
    return replace(
        subject.principal,
        permissions=meet(actor.principal.permissions, subject.principal.permissions),
        tenants=meet(actor.principal.tenants, subject.principal.tenants),
    )


def _bearer(headers: Headers) -> str:
    value: str = headers.get(metadata.AUTHORIZATION, "")
    if not value:
        raise Unauthenticated("the call carries no token", reason="TOKEN_MISSING")
    if not value.startswith(metadata.BEARER):
        raise Unauthenticated("authorization is not `Bearer <token>`", reason="TOKEN_MALFORMED")
    return value[len(metadata.BEARER) :]


def _tenant(headers: Headers, demand: Demand) -> str:
    """The tenant that the call names; empty where the method asks for none."""
    tenant: str = headers.get(metadata.TENANT, "")
    if tenant and not TENANT.fullmatch(tenant):
        raise InvalidArgument(f"x-cu-tenant is not {TENANT.pattern}", reason="TENANT_MALFORMED")
    if not tenant and demand.tenant == "required":
        raise InvalidArgument(
            "this method is called for a tenant: pass tenant=…, use mesh.scope(tenant=…), or set CU_TENANT",
            reason="TENANT_MISSING",
        )
    return "" if demand.tenant == "none" else tenant


def _criticality(headers: Headers) -> Criticality:
    found = _CRITICALITIES.get(headers.get(metadata.CRITICALITY, ""))
    if found is None:
        raise InvalidArgument(
            f"x-cu-criticality is none of {', '.join(CRITICALITIES)}", reason="CRITICALITY_MALFORMED"
        )
    return found


_CRITICALITIES: dict[str, Criticality] = {"": "default", **{each: each for each in CRITICALITIES}}


def _misdirected() -> MeshError:
    error = Unavailable("the call is for another instance, which was here before", reason="PROOF_MISDIRECTED")
    error.unprocessed = True
    return error
