"""Shield itself, whatever it is asked through: it issues, exchanges and revokes tokens, and writes down that it did."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from meshkit import MeshError, PermissionDenied, Principal, Unauthenticated
from meshkit.authority import (
    MAX_TOKEN,
    Actor,
    Grants,
    KeyRow,
    KeyStatus,
    Revocations,
    ServiceKeys,
    TokenVerifier,
    Verified,
    bound_token,
)
from reference_services.shield import policy
from reference_services.shield.audit import Event
from reference_services.shield.bulletin import Bulletin, open_bulletin
from reference_services.shield.keybook import KeyBook
from reference_services.shield.model import Project, ProjectKey, Revisions, Revocation
from reference_services.shield.policy import Allowed, Asked
from reference_services.shield.rates import Rates
from reference_services.shield.sealing import Master
from reference_services.shield.storage import Storage

EVERYBODY = frozenset({"shield:issue", "shield:exchange", "shield:verify"})
"""What each project that Shield knows may ask of it."""

MAX_LIFETIME_S = 3600.0
"""Longest life of a token that a setting allows."""

_SWEEP_LIMIT = 1000

_ROUNDING_S = 0.001
"""So that a token which is to end with another does, whatever is lost as seconds are added up."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How Shield works.

    Attributes:
        project_id: Its own project.
        namespace: The mesh that it is the authority of.
        lifetime: Seconds that a token lives at most.
        skew: Seconds by which clocks may differ.
        activation: Seconds between a signing key being published and its first use.
        rate: Tokens a second for one project.
        audit_age: Seconds after which an entry of the audit log is forgotten.
    """

    project_id: str
    namespace: str
    lifetime: float = 300.0
    skew: float = 30.0
    activation: float = 5.0
    rate: float = 200.0
    audit_age: float = 400 * 86400.0


class Authority:
    """What Shield does. It is of use within its `open`.

    Args:
        storage: Where it keeps what it knows.
        master: What keys are sealed under.
        terms: How it works.
        revocations: What is revoked elsewhere than in its storage.
        clock: Unix time in seconds.

    Attributes:
        keys: The signing keys.
    """

    def __init__(
        self,
        storage: Storage,
        master: Master,
        terms: Terms,
        *,
        revocations: Revocations | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._storage = storage
        self._terms = terms
        self._clock = clock
        self._rates = Rates(terms.rate)
        self.keys = KeyBook(
            storage,
            master,
            activation=terms.activation,
            overlap=terms.lifetime + 2 * terms.skew,
            clock=clock,
        )
        self._revocations = Revocations() if revocations is None else revocations
        self._subjects = TokenVerifier(
            "shield",
            self.keys,
            namespace=terms.namespace,
            max_lifetime=MAX_LIFETIME_S,
            skew=terms.skew,
            clock=clock,
            revocations=self._revocations,
        )
        self._bulletin: Bulletin | None = None
        self._known: dict[tuple[str, str], KeyRow] = {}

    @property
    def bulletin(self) -> Bulletin:
        """What has changed."""
        assert self._bulletin is not None
        return self._bulletin

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Authority, None]:
        """Reads what there is, and follows what other replicas change, for as long as the block runs.

        Raises:
            FailedPrecondition: The master key is not the one that its keys were sealed under.
        """
        await self.keys.load()
        async with open_bulletin(self._storage.revisions, self._follow) as self._bulletin:
            yield self

    async def _follow(self, before: Revisions, after: Revisions) -> None:
        if after.keys != before.keys:
            await self.keys.refresh()
        if (after.log_id, after.projects) != (before.log_id, before.projects):
            self._known = {
                (project.project_id, key.kid): _row(project, key)
                for project in await self._storage.known_projects()
                for key in project.keys
            }

    @property
    def generation(self) -> int:
        """Changes whenever a project does; see `KeyRing`."""
        return 0 if self._bulletin is None else self._bulletin.revisions.projects

    async def check(self) -> None:
        """Makes sure that the storage can be used: no token is made without an entry in the audit log.

        Raises:
            MeshError: Why it cannot.
        """
        await self._storage.check()

    async def find(self, project: str, kid: str) -> KeyRow | None:
        """The key with which a project proves itself to Shield; see `KeyRing`.

        It is in memory: whoever asks has proved nothing yet.
        """
        return self._known.get((project, kid))

    async def issue(self, caller: Principal, asked: Asked, public_key: bytes) -> tuple[str, float]:
        """A token for a service that calls as itself, and when it ends (Unix time in seconds).

        Raises:
            MeshError: It may not have one.
        """
        self._rates.take(caller.project)
        project = await self._project(caller.project)
        allowed = policy.issue(project, caller, asked, longest=self._terms.lifetime)
        holder = await self._holder(caller.project, caller.name, allowed)
        return await self._make("issue", caller, holder, asked.audience, public_key, ())

    async def exchange(
        self, caller: Principal, subject_token: str, asked: Asked, public_key: bytes
    ) -> tuple[str, float]:
        """A token for a service that calls on behalf of whoever called it, and when it ends.

        Raises:
            MeshError: It may not have one.
        """
        project = await self._project(caller.project)
        subject = await self._verified(subject_token, caller)
        self._rates.take(caller.project, (subject.subject or subject.principal).project)
        allowed = policy.exchange(
            project, caller, subject, asked, longest=self._terms.lifetime, now=self._clock()
        )
        on_behalf = subject.subject or subject.principal
        holder = await self._holder(on_behalf.project, on_behalf.name, allowed, caller.project)
        if holder.expires_at <= holder.issued_at:
            raise Unauthenticated("the subject's token has expired", reason="SUBJECT_TOKEN_EXPIRED")
        await self._check_unrevoked(subject)  # last: else one of before a moment is made one of after it
        actor = Actor(caller.project, caller.name, subject.principal.token_id)
        return await self._make(
            "exchange", caller, holder, asked.audience, public_key, (actor, *subject.actors)
        )

    async def revoke(self, caller: Principal, *, token_id: str = "", project_id: str = "") -> int:
        """Takes back one token, or all of a project from before now; returns the revision."""
        now = self._clock()
        moment = now + self._longest if token_id else math.floor(now) + 1.0
        what = {"token_id": token_id} if token_id else {"project_id": project_id}
        event = Event(now, _name(caller), "revoke", what)
        revision = await self._storage.revoke(token_id, project_id, moment, event)
        await self.bulletin.look()
        return revision

    async def revoked_after(self, revision: int, limit: int) -> Sequence[Revocation]:
        """Revocations behind a revision, in order."""
        return await self._storage.revoked_after(revision, limit)

    async def rotate(self, caller: Principal, *, retire_others: bool) -> None:
        """Makes another key to sign with."""
        await self.keys.rotate(_name(caller), retire_others=retire_others)
        await self.bulletin.look()

    async def put_project(self, caller: Principal, project: Project, *, keep_keys: bool) -> Project:
        """Writes what a project is and may do; returns it without its keys' bytes."""
        now = self._clock()
        written = replace(project, updated_at=now, updated_by=_name(caller))
        facts = {
            name: sorted(getattr(project, name))
            for name in ("tenants", "permissions", "subjects", "audiences", "delegate")
        }
        facts |= {"kids": sorted(key.kid for key in project.keys)}
        event = Event(
            now,
            _name(caller),
            "put-project",
            {"project_id": project.project_id, "disabled": project.disabled, **facts},
        )
        stored = await self._storage.put_project(written, keep_keys=keep_keys, event=event)
        await self.bulletin.look()
        return stored

    async def list_projects(self, after: str, limit: int) -> Sequence[Project]:
        """Projects behind a name, in order of their names."""
        return await self._storage.list_projects(after, limit)

    async def sweep(self) -> int:
        """Deletes what is of no use any more; returns how many rows."""
        now = self._clock()
        return await self._storage.sweep(
            ended_before=now - self._longest,
            audited_before=now - self._terms.audit_age,
            limit=_SWEEP_LIMIT,
        )

    @property
    def _longest(self) -> float:
        """Seconds from which no token of before is taken any longer, whatever settings it was issued under."""
        return MAX_LIFETIME_S + 2 * self._terms.skew

    async def _project(self, project_id: str) -> Project:
        found = await self._storage.find_project(project_id)
        if found is not None:
            return found
        if project_id == self._terms.project_id:
            return Project.own(project_id)
        raise PermissionDenied(
            f"Shield does not know project {project_id}: its operator adds it with `meshkit shield projects put`",
            reason="PROJECT_UNKNOWN",
        )

    async def _verified(self, token: str, caller: Principal) -> Verified:
        """The token that the caller was called with: for it, and of Shield."""
        try:
            return await self._subjects.verify(token, caller.name)
        except Unauthenticated as error:
            raise Unauthenticated(
                f"the subject's token: {error.message}", reason=f"SUBJECT_{error.reason}"
            ) from None

    async def _check_unrevoked(self, verified: Verified) -> None:
        principal, subject = verified.principal, verified.subject or verified.principal
        elsewhere = any(map(self._revocations.is_revoked, verified.bearers))
        if elsewhere or await self._storage.is_revoked(
            [principal.token_id, *(actor.token_id for actor in verified.actors)],
            [subject.project, *(actor.project for actor in verified.actors)],
            principal.issued_at,
        ):
            raise Unauthenticated("the subject's token was revoked", reason="SUBJECT_TOKEN_REVOKED")

    async def _holder(self, project: str, name: str, allowed: Allowed, *others: str) -> Principal:
        """Whom a token made now is for. Where a project was revoked within this second, it is of the next one."""
        now = self._clock()
        issued_at = int(now)
        projects = [project, *others]
        elsewhere = any(
            self._revocations.is_revoked(Principal(each, name, issued_at=issued_at)) for each in projects
        )
        issued_at += elsewhere or await self._storage.is_revoked([], projects, issued_at)
        ends = int(now + allowed.lifetime + _ROUNDING_S)
        token_id = secrets.token_urlsafe(16)
        return Principal(project, name, allowed.permissions, allowed.tenants, token_id, ends, issued_at)

    async def _make(
        self,
        action: str,
        caller: Principal,
        holder: Principal,
        audience: str,
        public_key: bytes,
        actors: tuple[Actor, ...],
    ) -> tuple[str, float]:
        kid, key = self.keys.signing()
        token = bound_token(holder, audience=audience, public_key=public_key, actors=actors, kid=kid, key=key)
        if len(token) > MAX_TOKEN:
            raise _too_large(len(token))
        details: dict[str, object] = {
            "token_id": holder.token_id,
            "audience": audience,
            "tenants": sorted(holder.tenants),
            "kid": kid,
        }
        if actors:
            details |= {"subject": f"{holder.project}/{holder.name}", "subject_token_id": actors[0].token_id}
        await self._storage.record(Event(self._clock(), _name(caller), action, details))
        return token, holder.expires_at


def _row(project: Project, key: ProjectKey) -> KeyRow:
    """A project's key, and what it may ask of Shield."""
    rights = EVERYBODY | {name for name in project.permissions if name.startswith("shield:")}
    return KeyRow(
        project.project_id,
        key.kid,
        KeyStatus.RETIRED if key.retired or project.disabled else KeyStatus.ACTIVE,
        Grants(frozenset({"*"}), rights, project.subjects, frozenset()),
        keys=ServiceKeys(key.token, key.proof),
    )


def _too_large(size: int) -> MeshError:
    return PermissionDenied(
        f"the token would have {size} bytes, above {MAX_TOKEN}: ask for fewer rights or tenants",
        reason="TOKEN_TOO_LARGE",
    )


def _name(caller: Principal) -> str:
    return f"{caller.project}/{caller.name}"
