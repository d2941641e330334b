"""Tokens that hold no longer though their time has not come: revoked one by one, or all of a project up to a time.

A verifier asks it with each token, so an answer costs two look-ups in memory, however many are revoked, and none while
nothing was revoked since the token was last asked about (`generation`). A revocation is kept until every token that it
could concern has ended by itself.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from meshkit.call import Principal
from meshkit.errors import ResourceExhausted, Unauthenticated, Unavailable

TOKEN_REVOKED = "TOKEN_REVOKED"
"""The reason of refusals; a caller that can make another token does so."""

MAX_TOKENS = 500_000
"""Revoked tokens that are known at most."""

MAX_PROJECTS = 10_000
"""Projects of which tokens up to a time are revoked, at most."""

Ended = Callable[[], None]
"""What is called, once, when a token that somebody watches is revoked. It must not raise."""


class _Watch:
    """Somebody who works for the bearers of some tokens, and stops when one of them is revoked."""

    __slots__ = ("bearers", "ended")

    def __init__(self, bearers: tuple[Principal, ...], ended: Ended) -> None:
        self.bearers = bearers
        self.ended: Ended | None = ended

    def end(self) -> None:
        ended, self.ended = self.ended, None
        if ended is not None:
            ended()


class Revocations:
    """What is revoked, as one verifier knows it. Nothing of it is ever taken back.

    There is room for a stated number of tokens. When it is full, those that are known stay revoked, a further one is
    refused with an error, and whole projects can be revoked still.

    Args:
        max_lifetime: Seconds between `iat` and `exp` of a token at most: what ends when, follows from it.
        skew: Seconds by which clocks may differ.
        limit: Tokens that are known at most.
        awaited: Whether every call is refused until it was read for the first time what is revoked in Redis.
        clock: Unix time in seconds.

    Attributes:
        generation: Changes whenever something is revoked. A token that was checked under the present one need not be
            checked again.
    """

    def __init__(
        self,
        *,
        max_lifetime: float = 3600.0,
        skew: float = 30.0,
        limit: int = MAX_TOKENS,
        awaited: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.generation = 0
        self._awaited = {"Redis"} if awaited else set()
        self._max_lifetime = max_lifetime
        self._skew = skew
        self._limit = limit
        self._clock = clock
        self._tokens: dict[str, float] = {}
        self._ends: list[tuple[float, str]] = []
        self._projects: dict[str, float] = {}
        self._watched_tokens: dict[str, set[_Watch]] = {}
        self._watched_projects: dict[str, set[_Watch]] = {}

    def __len__(self) -> int:
        """How many tokens and projects are revoked; some of them may have ended since."""
        return len(self._tokens) + len(self._projects)

    def revoke_token(self, jti: str, until: float) -> None:
        """Revokes one token.

        Args:
            jti: Its id.
            until: Unix time in seconds from which nobody would take it any longer: its `exp` and the skew. What is
                later than any token of now can be is cut to that.

        Raises:
            ResourceExhausted: There is no room; what was known stays known.
        """
        now = self._clock()
        self._forget_ended(now)
        until = min(until, now + self._max_lifetime + 2 * self._skew)
        known = self._tokens.get(jti)
        if until <= now or (known is not None and known >= until):
            return
        if known is None:
            if len(self._tokens) >= self._limit:
                raise _full(f"{self._limit} tokens are revoked")
            heapq.heappush(self._ends, (until, jti))
        self._tokens[jti] = until
        if known is None:
            self._changed(self._watched_tokens.get(jti, ()))

    def revoke_before(self, project: str, issued_before: float) -> None:
        """Revokes all tokens of a project that were issued before a time.

        Args:
            project: The project.
            issued_before: Unix time in seconds; a token with an older `iat` is refused.

        Raises:
            ResourceExhausted: There is no room; what was known stays known.
        """
        known = self._projects.get(project)
        if self._are_over(issued_before) or (known is not None and known >= issued_before):
            return
        self._projects = {name: at for name, at in self._projects.items() if not self._are_over(at)}
        if project not in self._projects and len(self._projects) >= MAX_PROJECTS:
            raise _full(f"{MAX_PROJECTS} projects are")
        self._projects[project] = issued_before
        watches = self._watched_projects.get(project, ())
        self._changed(watch for watch in watches if any(map(self.is_revoked, watch.bearers)))

    def expect(self, source: str) -> None:
        """Has every call refused until what is revoked was read for the first time from another source."""
        self._awaited.add(source)

    def have_been_read(self, source: str = "Redis") -> None:
        """Takes note that what is revoked was read for the first time from there."""
        self._awaited.discard(source)

    def is_revoked(self, bearer: Principal) -> bool:
        """Whether the token that a principal came with is revoked."""
        if bearer.token_id in self._tokens:
            return True
        before = self._projects.get(bearer.project)
        return before is not None and bearer.issued_at < before

    def check(self, bearer: Principal) -> None:
        """Refuses a principal whose token is revoked.

        Raises:
            Unauthenticated: It is; the call can be made again with another token.
            Unavailable: Nobody knows yet; the call can be made again, here or elsewhere.
        """
        if self._awaited:
            raise _not_read(self._awaited)
        if self.is_revoked(bearer):
            error = token_revoked()
            error.unprocessed = True
            raise error

    @contextmanager
    def watching(self, bearers: Iterable[Principal], ended: Ended) -> Iterator[None]:
        """Calls back at once when the token of any of these principals is revoked within the block.

        Args:
            bearers: Who called, and on whose behalf.
            ended: Called at most once.

        Raises:
            Unauthenticated: One of them is revoked already.
        """
        watch = _Watch(tuple(bearers), ended)
        for bearer in watch.bearers:
            self.check(bearer)
        for index, key in self._places(watch):
            index.setdefault(key, set()).add(watch)
        try:
            yield
        finally:
            for index, key in self._places(watch):
                _discard(index, key, watch)

    def _places(self, watch: _Watch) -> Iterator[tuple[dict[str, set[_Watch]], str]]:
        for bearer in watch.bearers:
            yield self._watched_tokens, bearer.token_id
            yield self._watched_projects, bearer.project

    def _changed(self, watches: Iterable[_Watch]) -> None:
        self.generation += 1
        for watch in list(watches):
            watch.end()

    def _are_over(self, issued_before: float) -> bool:
        """Whether all tokens issued before that have ended by themselves."""
        return issued_before + self._max_lifetime + self._skew <= self._clock()

    def _forget_ended(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            jti = self._ends[0][1]
            until = self._tokens[jti]
            if until > now:  # it was revoked once more, for longer
                heapq.heapreplace(self._ends, (until, jti))
            else:
                heapq.heappop(self._ends)
                del self._tokens[jti]


def token_revoked() -> Unauthenticated:
    """The error of a call whose token is revoked."""
    return Unauthenticated(
        "the token was revoked; call with another, if you may have one", reason=TOKEN_REVOKED
    )


def _not_read(awaited: Iterable[str]) -> Unavailable:
    error = Unavailable(
        f"which tokens are revoked was not read yet from {' and '.join(sorted(awaited))}, away since this instance "
        "started",
        reason="REVOCATIONS_NOT_READ",
    )
    error.unprocessed = True
    return error


def _discard(index: dict[str, set[_Watch]], key: str, watch: _Watch) -> None:
    watches = index.get(key)
    if watches is not None:
        watches.discard(watch)
        if not watches:
            del index[key]


def _full(what: str) -> ResourceExhausted:
    return ResourceExhausted(
        f"{what}, and no more are taken in: those that are known stay revoked; revoke a whole project's tokens "
        "instead, or retire its key",
        reason="REVOCATIONS_FULL",
    )
