"""Masking and unmasking: detectors, placeholders, sealing and vault together."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from meshkit import Aborted, DataLoss, FailedPrecondition, ResourceExhausted
from reference_services.zero.detectors import DEFAULT_CONFIDENCE
from reference_services.zero.findings import DETECTABLE, Finding, Kind, merge
from reference_services.zero.parts import Part, detect_part, parts
from reference_services.zero.placeholders import Token, foreign, new_tag, placeholder, tokens
from reference_services.zero.sealing import Master, SessionKeys, Unreadable
from reference_services.zero.vault import Draft, Holdings, Sealed, Session, SessionGone, VaultFull, VaultStore

T = TypeVar("T")

_INLINE = 8192
"""Texts up to this many code points are put together on the event loop; a hop to a thread would cost more."""
_FEW = 1000
"""Findings up to this many are put in order on the event loop."""
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for.

    Attributes:
        kinds: Kinds of personal data.
        region: Country of national telephone numbers (ISO 3166-1 alpha-2), empty for international ones only.
        min_confidence: What a finding must have to count.
    """

    kinds: frozenset[Kind] = DETECTABLE
    region: str = ""
    min_confidence: float = DEFAULT_CONFIDENCE


@dataclass(frozen=True, slots=True)
class Masked:
    """A masked text.

    Attributes:
        text: The text with placeholders.
        session_id: Their session.
        findings: What was replaced, with spans in the original text, in order.
        placeholders: What stands in its place, in the same order.
        expires_at: Unix time in seconds at which the session ends; None where there is no session.
    """

    text: str
    session_id: str
    findings: Sequence[Finding]
    placeholders: Sequence[str]
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class Unmasked:
    """An unmasked text, how many placeholders were restored in it, and how many were left."""

    text: str
    restored: int
    unresolved: int


class Privacy:
    """Masks and unmasks texts of tenants' sessions.

    Args:
        vault: Keeps the sessions.
        master: The key over all sessions' keys.
        ttl: Seconds that a session lives after its last masking.
        max_sessions: Sessions that a tenant may have at a time.
        max_entities: Different values that a session may hold.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        vault: VaultStore,
        master: Master,
        *,
        ttl: float = 3600.0,
        max_sessions: int = 100_000,
        max_entities: int = 10_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._vault = vault
        self._master = master
        self._ttl = ttl
        self._max_sessions = max_sessions
        self._max_entities = max_entities
        self._clock = clock
        # One thread: of two that search at once, each waits for the other, and the event loop for both.
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="zero-detect")

    async def scan(self, text: str, search: Search) -> list[Finding]:
        """Finds personal data and stores nothing.

        Texts that are searched at once take turns, part by part, and a search that nobody waits for any longer ends
        with its part.
        """
        run = asyncio.get_running_loop().run_in_executor
        found: list[Finding] = []
        for part in parts(len(text)):
            found += await run(self._threads, _detect, text, part, search)
        return await run(self._threads, merge, found) if len(found) > _FEW else merge(found)

    async def mask(
        self, tenant: str, text: str, session_id: str, search: Search, *, keep_placeholders: bool = False
    ) -> Masked:
        """Replaces personal data by placeholders of a session, which begins with its first value.

        Args:
            tenant: The session's tenant.
            text: What to mask.
            session_id: The session; empty for a new one.
            search: What to look for.
            keep_placeholders: Leave placeholders of the session as they are; else mask them like values.

        Raises:
            ResourceExhausted: `TOO_MANY_SESSIONS`, `SESSION_FULL`.
            FailedPrecondition: `MASTER_KEY_MISMATCH`.
        """
        findings = await self.scan(text, search)
        session_id = session_id or secrets.token_hex(16)
        for _ in range(_ATTEMPTS):
            session = await self._open(tenant, session_id, create=bool(findings))
            if session is None:
                return Masked(text, session_id, [], [], None)
            try:
                return await self._replace(tenant, session_id, session, text, findings, keep_placeholders)
            except SessionGone:
                continue
        raise Aborted(
            "the session is being destroyed while it is used; try again", reason="SESSION_CONTENDED"
        )

    async def unmask(self, tenant: str, text: str, session_id: str) -> Unmasked:
        """Puts values back in the place of the session's placeholders, and leaves all others.

        Raises:
            FailedPrecondition: `MASTER_KEY_MISMATCH`.
            DataLoss: `VALUE_DAMAGED`.
        """
        session = await self._vault.find(tenant, session_id, now=self._clock())
        if session is None:
            return Unmasked(text, 0, await self._work(text, lambda: foreign(text)))
        tag = session.tag
        found = await self._work(text, lambda: list(tokens(text, tag)))
        others = await self._work(text, lambda: foreign(text, tag))
        if not found:
            return Unmasked(text, 0, others)
        keys = self._keys(tenant, session_id, session)
        stored = await self._vault.recall(tenant, session_id, {token.number for token in found})
        try:
            restored = await self._work(text, lambda: _restore(text, found, stored, tag, keys))
        except Unreadable:
            # A session that was destroyed and begun anew in between has other values under the same numbers.
            if (
                now := await self._vault.find(tenant, session_id, now=self._clock())
            ) is None or now.tag != tag:
                return Unmasked(text, 0, len(found) + others)
            raise DataLoss("a stored value is damaged", reason="VALUE_DAMAGED") from None
        return Unmasked(restored.text, restored.restored, restored.unresolved + others)

    async def destroy(self, tenant: str, session_id: str) -> bool:
        """Destroys a session's key and values; False where there was no such session."""
        return await self._vault.destroy(tenant, session_id, now=self._clock())

    async def sweep(self, *, batch: int, batches: int) -> int:
        """Deletes expired sessions, up to `batch` in a transaction, and says how many."""
        swept = 0
        for _ in range(batches):
            some = await self._vault.sweep(now=self._clock(), limit=batch)
            swept += some
            if some < batch:
                break
        return swept

    async def holdings(self, tenant: str) -> Holdings:
        """Counts what is kept for a tenant."""
        return await self._vault.holdings(tenant, now=self._clock())

    async def check(self) -> None:
        """Makes sure that the vault can be used.

        Raises:
            MeshError: Why it cannot.
        """
        await self._vault.check()

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _open(self, tenant: str, session_id: str, *, create: bool) -> Session | None:
        now = self._clock()
        if not create and await self._vault.find(tenant, session_id, now=now) is None:
            return None
        fresh = Session(
            new_tag(), self._master.key_id, self._master.new_session(tenant, session_id), now + self._ttl
        )
        try:
            return await self._vault.open(tenant, session_id, fresh, now=now, limit=self._max_sessions)
        except VaultFull:
            raise ResourceExhausted(
                "this tenant has too many sessions; destroy some, or wait until they expire",
                reason="TOO_MANY_SESSIONS",
                limit=self._max_sessions,
            ) from None

    async def _replace(
        self,
        tenant: str,
        session_id: str,
        session: Session,
        text: str,
        findings: list[Finding],
        keep_placeholders: bool,
    ) -> Masked:
        keys = self._keys(tenant, session_id, session)
        spans, drafts = await self._work(
            text,
            lambda: _plan(
                text, findings, list(tokens(text, session.tag)), session.tag, keys, keep_placeholders
            ),
        )
        try:
            numbers = await self._vault.remember(
                tenant,
                session_id,
                session,
                list(drafts.values()),
                now=self._clock(),
                limit=self._max_entities,
            )
        except VaultFull:
            raise ResourceExhausted(
                "this session would hold too many values; split the text over several sessions",
                reason="SESSION_FULL",
                limit=self._max_entities,
            ) from None
        given = dict(zip(drafts, numbers, strict=True))
        written = [
            placeholder(span.kind, given[span.kind, text[span.start : span.end]], session.tag)
            for span in spans
        ]
        masked = await self._work(text, lambda: _splice(text, spans, written))
        return Masked(masked, session_id, spans, written, session.expires_at)

    def _keys(self, tenant: str, session_id: str, session: Session) -> SessionKeys:
        if session.key_id == self._master.key_id:
            try:
                return self._master.session(tenant, session_id, session.wrapped_key)
            except Unreadable:
                raise DataLoss("the session's key is damaged", reason="SESSION_DAMAGED") from None
        raise FailedPrecondition(
            "the session began under another ZERO_MASTER_KEY than this replica's; give all replicas the same",
            reason="MASTER_KEY_MISMATCH",
        )

    async def _work(self, text: str, work: Callable[[], T]) -> T:
        if len(text) <= _INLINE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _detect(text: str, part: Part, search: Search) -> list[Finding]:
    return detect_part(
        text, part, kinds=search.kinds, region=search.region, min_confidence=search.min_confidence
    )


def _plan(
    text: str, findings: list[Finding], present: list[Token], tag: str, keys: SessionKeys, keep: bool
) -> tuple[list[Finding], dict[tuple[Kind, str], Draft]]:
    """What to replace, and a draft for each different value of it."""
    if keep:
        spans = _outside(findings, present)
    else:
        literal = (Finding(Kind.PLACEHOLDER_TEXT, token.start, token.end, 1.0) for token in present)
        spans = merge([*findings, *literal])
    drafts: dict[tuple[Kind, str], Draft] = {}
    for span in spans:
        value = text[span.start : span.end]
        if (span.kind, value) not in drafts:
            drafts[span.kind, value] = Draft(
                span.kind, keys.lookup(span.kind, value), _sealer(keys, span.kind, value, tag)
            )
    return spans, drafts


def _sealer(keys: SessionKeys, kind: Kind, value: str, tag: str) -> Callable[[int], bytes]:
    return lambda number: keys.seal(placeholder(kind, number, tag), value)


def _outside(findings: list[Finding], present: list[Token]) -> list[Finding]:
    """The findings that share nothing with a placeholder, or hold more than one: both lists are in order."""
    kept, following = [], iter(present)
    token = next(following, None)
    for finding in findings:
        while token is not None and token.end <= finding.start:
            token = next(following, None)
        if (
            token is None
            or token.start >= finding.end
            or finding.end - finding.start > token.end - token.start
        ):
            kept.append(finding)
    return kept


def _splice(text: str, spans: Iterable[Finding | Token], written: Iterable[str]) -> str:
    """The text with the spans, which are in order and disjoint, replaced."""
    pieces, done = [], 0
    for span, replacement in zip(spans, written, strict=True):
        pieces += [text[done : span.start], replacement]
        done = span.end
    return "".join([*pieces, text[done:]])


def _restore(
    text: str, found: list[Token], stored: dict[int, Sealed], tag: str, keys: SessionKeys
) -> Unmasked:
    known = [token for token in found if token.number in stored and stored[token.number].label == token.label]
    values = {
        token.number: keys.open(placeholder(token.label, token.number, tag), stored[token.number].sealed)
        for token in known
    }
    restored = _splice(text, known, (values[token.number] for token in known))
    return Unmasked(restored, len(known), len(found) - len(known))
