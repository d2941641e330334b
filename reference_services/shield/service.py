"""The service shield: its messages on one side, `Authority` on the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import cached_property

from meshkit import Call, CUService, InvalidArgument, Principal, every, resource, rpc
from meshkit.authority import KeyRow, Revocations
from meshkit.protocol import shield as pb
from reference_services.shield import messages
from reference_services.shield.authority import Authority, Terms
from reference_services.shield.config import ShieldConfig
from reference_services.shield.model import Revisions, Revocation
from reference_services.shield.opening import open_storage
from reference_services.shield.sealing import Master
from reference_services.shield.watchers import Place, Watchers

KEYS_MAX_AGE_S = 300
"""Seconds after which verifiers ask for the keys again; they are told of a change at once."""

HEARTBEAT_S = 10.0
"""Seconds after which who watches hears of Shield, though nothing happened."""

PAGE = 500
"""Revocations in one message; projects in a list where nobody says how many."""

_DAY_S = 86400.0


@asynccontextmanager
async def open_shield(service: Shield) -> AsyncGenerator[Authority, None]:
    """Opens the database and the master key that the settings name.

    Raises:
        FailedPrecondition: The database was made with another master key.
    """
    config = service.config
    terms = Terms(
        config.project_id,
        config.namespace,
        lifetime=config.shield_token_ttl_s,
        skew=config.clock_skew_s,
        activation=config.shield_key_activation_s,
        rate=config.shield_issue_rate,
        audit_age=config.shield_audit_days * _DAY_S,
    )
    master = Master(await asyncio.to_thread(config.master_key))
    async with (
        open_storage(config, master) as storage,
        Authority(storage, master, terms, revocations=service.projects.revocations).open() as authority,
    ):
        service.projects.authority = authority
        yield authority


class KnownProjects:
    """The keys of the projects in Shield's database; a `KeyRing`, of use once that is open.

    Attributes:
        authority: Shield, once its database is open.
        revocations: What is revoked elsewhere than there: in Redis, where the settings name one.
    """

    def __init__(self) -> None:
        self.authority: Authority | None = None
        self.revocations = Revocations()

    @property
    def generation(self) -> int:
        """Changes whenever a project does."""
        return 0 if self.authority is None else self.authority.generation

    async def find(self, project: str, kid: str) -> KeyRow | None:
        """The key of that name, or None."""
        return None if self.authority is None else await self.authority.find(project, kid)


class Shield(CUService, contract=pb.DESCRIPTOR.services_by_name["ShieldService"], port=50055):
    """Issues the tokens of a mesh, and takes them back."""

    config: ShieldConfig
    authority = resource(open_shield, check=Authority.check)

    @cached_property
    def projects(self) -> KnownProjects:
        """The projects that may call."""
        return KnownProjects()

    @cached_property
    def watchers(self) -> Watchers:
        """Who follows what is revoked. Some streams are left for newcomers, who may have a right to a place."""
        return Watchers(max(self.config.max_calls * 9 // 10, 1))

    def key_ring(self, revocations: Revocations) -> KnownProjects:
        """The projects' keys in Shield's database. What is revoked in Redis may not be exchanged either."""
        self.projects.revocations = revocations
        return self.projects

    @rpc(permission="shield:issue", tenant="none", timeout=5.0)
    async def issue_token(self, request: pb.IssueTokenRequest, call: Call) -> pb.IssueTokenResponse:
        """Issues a token to the calling service."""
        asked, key = messages.asked(request.scope), messages.public_key(request.public_key)
        token, ends = await self.authority.issue(_caller(call), asked, key)
        return pb.IssueTokenResponse(issued=messages.issued(token, ends))

    @rpc(permission="shield:exchange", tenant="none", timeout=5.0)
    async def exchange_token(self, request: pb.ExchangeTokenRequest, call: Call) -> pb.ExchangeTokenResponse:
        """Issues a token to the calling service on behalf of whoever called it."""
        asked, key = messages.asked(request.scope), messages.public_key(request.public_key)
        token, ends = await self.authority.exchange(_caller(call), request.subject_token, asked, key)
        return pb.ExchangeTokenResponse(issued=messages.issued(token, ends))

    @rpc(permission="shield:verify", tenant="none", timeout=5.0)
    async def get_keys(self, request: pb.GetKeysRequest, call: Call) -> pb.GetKeysResponse:
        """Gives the keys that verify tokens, as the database has them now, whichever replica changed them."""
        await self.authority.bulletin.look()
        response = pb.GetKeysResponse(keys=messages.keys_of(self.authority.keys))
        response.max_age.FromSeconds(KEYS_MAX_AGE_S)
        return response

    @rpc(permission="shield:verify", tenant="none")
    async def watch_revocations(
        self, request: pb.WatchRevocationsRequest, call: Call
    ) -> AsyncIterator[pb.WatchRevocationsResponse]:
        """Gives what is revoked, and each revocation as it comes, until this replica stops."""
        with self.watchers.joined(_caller(call).project) as place:
            async with aclosing(self._news_after(request, place, call)) as told:
                async for news in told:
                    yield news

    async def _news_after(
        self, request: pb.WatchRevocationsRequest, place: Place, call: Call
    ) -> AsyncGenerator[pb.WatchRevocationsResponse, None]:
        bulletin = self.authority.bulletin
        if request.after_revision > bulletin.revisions.revocations:
            await bulletin.look()
        there = bulletin.revisions
        same = request.log_id == there.log_id and request.after_revision <= there.revocations
        known, reset = (request.after_revision, False) if same else (0, True)
        while not call.draining.is_set():
            seen = bulletin.revisions
            page = await self.authority.revoked_after(known, PAGE)
            known = page[-1].revision if page else max(known, seen.revocations)
            yield _news(seen, known, reset, len(page) < PAGE, page)
            reset = False
            if len(page) < PAGE:
                await place.keep(bulletin.wait(seen, HEARTBEAT_S, call.draining))

    @rpc(permission="shield:revoke", tenant="none", timeout=5.0)
    async def revoke(self, request: pb.RevokeRequest, call: Call) -> pb.RevokeResponse:
        """Takes back a token, or all of a project until now."""
        if not (messages.is_id(request.token_id) or messages.is_project(request.project_id)):
            raise InvalidArgument("give the jti of a token, or a project", reason="REVOCATION_MALFORMED")
        revision = await self.authority.revoke(
            _caller(call), token_id=request.token_id, project_id=request.project_id
        )
        return pb.RevokeResponse(revision=revision)

    @rpc(permission="shield:rotate", tenant="none", timeout=5.0)
    async def rotate_keys(self, request: pb.RotateKeysRequest, call: Call) -> pb.RotateKeysResponse:
        """Makes another key to sign with."""
        await self.authority.rotate(_caller(call), retire_others=request.retire_others)
        return pb.RotateKeysResponse(keys=messages.keys_of(self.authority.keys))

    @rpc(permission="shield:projects", tenant="none", timeout=5.0)
    async def put_project(self, request: pb.PutProjectRequest, call: Call) -> pb.PutProjectResponse:
        """Writes what a project is and may do."""
        project = messages.project(request.project, keep_keys=request.keep_keys)
        stored = await self.authority.put_project(_caller(call), project, keep_keys=request.keep_keys)
        return pb.PutProjectResponse(project=messages.project_message(stored))

    @rpc(permission="shield:projects", tenant="none", timeout=5.0)
    async def list_projects(self, request: pb.ListProjectsRequest, call: Call) -> pb.ListProjectsResponse:
        """Lists the projects."""
        limit = min(request.limit or PAGE, PAGE)
        found = await self.authority.list_projects(request.after, limit + 1)
        return pb.ListProjectsResponse(
            projects=[messages.project_message(each) for each in found[:limit]], more=len(found) > limit
        )

    @every(seconds=60)
    async def sweep(self) -> None:
        """Deletes what is of no use any more."""
        if swept := await self.authority.sweep():
            self.log.info("ended revocations, keys and old audit entries deleted", rows=swept)


def _caller(call: Call) -> Principal:
    """Who calls: no method is public."""
    assert call.principal is not None
    return call.principal


def _news(
    seen: Revisions, known: int, reset: bool, current: bool, page: Sequence[Revocation]
) -> pb.WatchRevocationsResponse:
    return pb.WatchRevocationsResponse(
        log_id=seen.log_id,
        revision=known,
        reset=reset,
        current=current,
        revocations=[messages.revocation(each) for each in page],
        keys_revision=seen.keys,
    )
