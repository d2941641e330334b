"""Revocations in the Redis of a mesh: written by an operator, pushed to every verifier, in force while Redis is away.

They are the members of the sorted set `<namespace>:revocations`, by the Unix time in milliseconds from which they
concern no token any longer, and are published on `<namespace>:revocations:events` as they are written. A member is
sealed for that key (`meshkit/redis/sealing.py`), and holds JSON:

    {"version": 1, "jti": "EBESExQV…", "until": 1800000330, "by": "ops@host"}
    {"version": 1, "project": "shop", "before": 1800000000, "by": "ops@host"}

Nothing takes a revocation back, so none has to be told from an older one, and one that somebody puts back does no harm.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog

from meshkit.config.redis_url import RedisUrl
from meshkit.errors import ResourceExhausted
from meshkit.redis.database import Database, Script
from meshkit.redis.following import Followed, in_slices
from meshkit.redis.sealing import Sealer, SealRefused
from meshkit.security.keys import PROJECT
from meshkit.security.revocations import MAX_TOKENS, Revocations

VERSION = 1
MAX_JTI = 200
"""Characters of a token's id."""

LONGEST_S = 86_400.0 + 2 * 600.0
"""Seconds that a token can last at most, whatever the settings: its lifetime, and twice the skew."""

PAGE = 500
"""Revocations that Redis is asked for at once."""

MAX_TOLD = 100
"""Members that are none, of which the log says why."""

_LATEST = 2**40

ADD = Script(
    """
local set, channel, entry, ends, limit = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local now = redis.call('TIME')
local over = redis.call('ZRANGEBYSCORE', set, '-inf', now[1] * 1000, 'LIMIT', 0, 1000)
if #over > 0 then redis.call('ZREM', set, unpack(over)) end
if redis.call('ZCARD', set) >= limit then return 0 end
redis.call('ZADD', set, ends, entry)
redis.call('PUBLISH', channel, entry)
return 1
"""
)
"""Arguments: channel, sealed revocation, its end in Unix ms, revocations at most. Returns 0 where there is no room."""

log = structlog.get_logger("meshkit.security")


@dataclass(frozen=True, slots=True)
class Revocation:
    """One revocation: of a token, or of all tokens of a project up to a time.

    Attributes:
        jti: The token's id; empty where it is of a project.
        until: Unix time in seconds from which nobody would take the token any longer.
        project: The project; empty where it is of a token.
        before: Unix time in seconds; tokens with an older `iat` are refused.
        by: Who revoked, for people.
    """

    jti: str = ""
    until: int = 0
    project: str = ""
    before: int = 0
    by: str = field(default="", compare=False)

    @property
    def ends(self) -> float:
        """Unix time in seconds from which it concerns no token any longer."""
        return self.until if self.jti else self.before + LONGEST_S

    def enter(self, revocations: Revocations) -> None:
        """Makes it known.

        Raises:
            ResourceExhausted: There is no room.
        """
        if self.jti:
            revocations.revoke_token(self.jti, self.until)
        else:
            revocations.revoke_before(self.project, self.before)


class RevocationRefused(ValueError):
    """What stands in Redis is no revocation; the text says why, and what to do."""


def revocations_key(namespace: str) -> str:
    """The sorted set of a mesh's revocations."""
    return f"{namespace}:revocations"


def events_channel(namespace: str) -> str:
    """The channel on which revocations are published as they are written."""
    return f"{revocations_key(namespace)}:events"


class RevocationCodec:
    """Seals and opens the revocations of one mesh; without sealing keys they are plain.

    Args:
        sealer: Seals and opens values.
        namespace: Name of the mesh.
    """

    def __init__(self, sealer: Sealer, namespace: str) -> None:
        self._sealer = sealer
        self._key = revocations_key(namespace)

    def seal(self, revocation: Revocation) -> bytes:
        """The member of the sorted set."""
        fields = {name: value for name, value in asdict(revocation).items() if value}
        return self._sealer.seal(json.dumps({"version": VERSION} | fields).encode(), key=self._key, field="")

    def open(self, member: bytes) -> Revocation:
        """The revocation of a member.

        Raises:
            RevocationRefused: It does not open, or is none.
        """
        try:
            return _load(self._sealer.open(member, key=self._key, field=""))
        except SealRefused as refused:
            raise RevocationRefused(str(refused)) from None


def _load(data: bytes) -> Revocation:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise RevocationRefused("it is no JSON object")
    version = fields.get("version")
    if type(version) is not int or version < 1:
        raise RevocationRefused("its version is no whole number above 0")
    if version > VERSION:
        raise RevocationRefused(
            f"its version is {version}, and this release reads {VERSION}: upgrade this program"
        )
    jti, project = fields.get("jti", ""), fields.get("project", "")
    by = fields.get("by", "")
    if not (isinstance(by, str) and len(by) <= MAX_JTI and by.isprintable()):
        raise RevocationRefused("it does not say who wrote it")
    if _is_jti(jti) and not project and _is_time(fields.get("until")):
        return Revocation(jti=jti, until=fields["until"], by=by)
    if not jti and isinstance(project, str) and PROJECT.fullmatch(project) and _is_time(fields.get("before")):
        return Revocation(project=project, before=fields["before"], by=by)
    raise RevocationRefused("it names neither a token and its end, nor a project and a time")


def _is_jti(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_JTI and value.isprintable()


def _is_time(value: object) -> bool:
    return type(value) is int and 0 <= value < _LATEST


class RevocationFeed(Followed):
    """The verifier's side: makes known what is revoked in Redis.

    Args:
        url: Where Redis is.
        revocations: Where it is made known.
        namespace: Name of the mesh.
        sealer: Opens them.
        options: Those of `Followed`.

    Attributes:
        refused: How many members were come upon that are no revocations.
    """

    what = "list of revocations"
    kept = "what is known to be revoked stays so"

    def __init__(
        self, url: RedisUrl, revocations: Revocations, *, namespace: str, sealer: Sealer, **options: Any
    ) -> None:
        super().__init__(url, events_channel(namespace), **options)
        self._revocations = revocations
        self._codec = RevocationCodec(sealer, namespace)
        self._set = revocations_key(namespace)
        self._met: set[bytes] = set()
        self._told_full = False
        self.refused = 0

    @property
    def _known(self) -> Revocations:
        return self._revocations

    async def _read(self) -> None:
        there: set[bytes] = set()
        async for page in self._database.score_pages(self._set, PAGE):
            members = [member for member, _ in page]
            await in_slices(members, self._take)
            there.update(map(_digest, members))
            if len(there) > 2 * MAX_TOKENS:
                log.error("the list of revocations in Redis has far more than there may be: read in part")
                break
        self._met = there
        self._revocations.have_been_read()

    def _take(self, message: bytes) -> None:
        if (digest := _digest(message)) in self._met:
            return
        if len(self._met) < 2 * MAX_TOKENS:
            self._met.add(digest)
        try:
            self._codec.open(message).enter(self._revocations)
        except RevocationRefused as refused:
            self._refuse(str(refused))
        except ResourceExhausted as full:
            if not self._told_full:
                self._told_full = True
                log.error("not all revocations are known here", reason=str(full))

    def _refuse(self, why: str) -> None:
        self.refused += 1
        if self.refused <= MAX_TOLD:
            log.warning("a revocation in Redis is ignored", reason=why)
        if self.refused == MAX_TOLD:
            log.error("revocations in Redis are ignored, and so many that no more are told of")


class RevocationTable:
    """The operator's side: writes revocations, each atomically and to all who follow.

    Args:
        database: The Redis.
        namespace: Name of the mesh.
        sealer: Seals them.
        limit: Revocations that there may be.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        database: Database,
        *,
        namespace: str,
        sealer: Sealer,
        limit: int = MAX_TOKENS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._codec = RevocationCodec(sealer, namespace)
        self._set = revocations_key(namespace)
        self._channel = events_channel(namespace)
        self._limit = limit
        self._clock = clock

    async def add(self, revocation: Revocation) -> None:
        """Revokes.

        Raises:
            RedisTrouble: It cannot be written.
            ResourceExhausted: There is no room for another token; a tenth more are taken of projects.
        """
        limit = self._limit if revocation.jti else self._limit + self._limit // 10 + 1
        entry = self._codec.seal(revocation)
        arguments: list[str | bytes | int] = [self._channel, entry, int(revocation.ends * 1000), limit]
        if not await self._database.run(ADD, [self._set], arguments):
            raise ResourceExhausted(
                f"{limit} revocations are in force, and there is no room for more: revoke a whole project's tokens, "
                "or retire its key",
                reason="REVOCATIONS_FULL",
            )

    async def all(self) -> list[Revocation | RevocationRefused]:
        """What is revoked now, and why a member is no revocation; the last to end first.

        Raises:
            RedisTrouble: It cannot be read.
        """
        found: dict[bytes, Revocation | RevocationRefused] = {}
        async for page in self._database.score_pages(self._set, PAGE):
            for member, _ in page:
                try:
                    found[member] = self._codec.open(member)
                except RevocationRefused as refused:
                    found[member] = refused
        usable = {
            each for each in found.values() if isinstance(each, Revocation) and each.ends > self._clock()
        }
        broken = [each for each in found.values() if isinstance(each, RevocationRefused)]
        return [*sorted(usable, key=lambda each: -each.ends), *broken]


def _digest(member: bytes) -> bytes:
    return hashlib.sha256(member).digest()
