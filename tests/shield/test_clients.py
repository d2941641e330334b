"""What a process has of Shield: tokens once a scope and ahead of their end, keys no oftener than once a second."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from structlog.testing import capture_logs

from meshkit import MeshError, PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable
from meshkit.call import BLANK, Call, Deadline, Principal
from meshkit.protocol import ShieldClient, shield
from meshkit.security.bound import bound_token
from meshkit.security.keys import KeyStatus
from meshkit.security.minting import HmacTokens, Identity
from meshkit.security.revocations import Revocations
from meshkit.security.shield import Feed, ShieldRing, ShieldTokens
from meshkit.security.tokens import peek
from tests.security.handmade import SECRET, Clock
from tests.shield.bound import public
from tests.shield.test_mode import until


class FakeShield(ShieldClient):
    """Answers as Shield does, without a network: a stand-in to count questions and to hold answers back."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked: list[Any] = []
        self.failure: MeshError | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.keys = {"k1": Ed25519PrivateKey.generate()}
        self.states = {"k1": shield.KEY_STATE_ACTIVE}
        self.lifetime = 300
        self.news: asyncio.Queue[shield.WatchRevocationsResponse | MeshError] = asyncio.Queue()
        self.watched: list[shield.WatchRevocationsRequest] = []

    async def _answer(self, request: Any) -> None:
        self.asked.append(request)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure

    def _token(self, request: Any) -> shield.IssuedToken:
        scope, now = request.scope, self.clock.now
        held = Principal(
            "local",
            "me",
            frozenset(scope.permissions),
            frozenset(scope.tenants),
            f"j{len(self.asked)}",
            now + self.lifetime,
            now,
        )
        token = bound_token(
            held,
            audience=scope.audience,
            public_key=request.public_key,
            actors=(),
            kid="k1",
            key=self.keys["k1"],
        )
        return shield.IssuedToken(token=token)

    def issue_token(self, request: Any, **options: Any) -> Any:
        async def answer() -> shield.IssueTokenResponse:
            await self._answer(request)
            return shield.IssueTokenResponse(issued=self._token(request))

        return answer()

    def exchange_token(self, request: Any, **options: Any) -> Any:
        async def answer() -> shield.ExchangeTokenResponse:
            await self._answer(request)
            return shield.ExchangeTokenResponse(issued=self._token(request))

        return answer()

    def get_keys(self, request: Any, **options: Any) -> Any:
        async def answer() -> shield.GetKeysResponse:
            await self._answer(request)
            reply = shield.GetKeysResponse()
            reply.max_age.FromSeconds(300)
            for kid, key in self.keys.items():
                reply.keys.add(kid=kid, state=self.states[kid], algorithm="EdDSA", public_key=public(key))
            return reply

        return answer()

    def watch_revocations(self, request: Any, **options: Any) -> Any:
        self.watched.append(request)
        return _Stream(self.news)


class _Stream:
    def __init__(self, news: asyncio.Queue[Any]) -> None:
        self._news = news

    async def __aenter__(self) -> "_Stream":
        return self

    async def __aexit__(self, *failure: object) -> None:
        pass

    def __aiter__(self) -> "_Stream":
        return self

    async def __anext__(self) -> Any:
        message = await self._news.get()
        if isinstance(message, MeshError):
            raise message
        return message


CALL = BLANK.having(service="brain", tenant="acme")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def fake(clock: Clock) -> FakeShield:
    return FakeShield(clock)


@pytest.fixture
async def tokens(fake: FakeShield, clock: Clock) -> AsyncIterator[ShieldTokens]:
    own = HmacTokens(Identity("contextunity", "local", "me", "k1", SECRET.encode()), clock=clock)
    made = ShieldTokens(lambda: fake, own, address="shield:50055", capacity=3, clock=clock)
    yield made
    await made.close()


async def obtained(tokens: ShieldTokens, call: Call = CALL, permissions: tuple[str, ...] = ("*",)) -> Any:
    return tokens.kept(call, permissions) or await tokens.obtain(call, permissions)


async def test_a_token_is_fetched_once_a_scope(tokens: ShieldTokens, fake: FakeShield) -> None:
    first = await obtained(tokens)
    assert await obtained(tokens) is first
    await obtained(tokens, CALL.having(tenant="beta"))
    await obtained(tokens, permissions=("brain:read",))
    assert [tuple(each.scope.permissions) for each in fake.asked] == [("*",), ("*",), ("brain:read",)]
    assert peek(first.text)[1]["cnf"]["jwk"]["crv"] == "Ed25519"


async def test_many_calls_wait_for_one_answer(tokens: ShieldTokens, fake: FakeShield) -> None:
    fake.gate.clear()
    waiting = [asyncio.create_task(obtained(tokens)) for _ in range(50)]
    await until(lambda: _true(fake.asked))
    waiting[0].cancel()
    fake.gate.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert len(fake.asked) == 1
    assert len({task.result().text for task in waiting[1:]}) == 1


async def _true(value: object) -> bool:
    return bool(value)


async def test_a_token_is_renewed_in_the_background_and_used_meanwhile(
    tokens: ShieldTokens, fake: FakeShield, clock: Clock
) -> None:
    first = await obtained(tokens)
    clock.now += 239
    assert tokens.kept(CALL, ("*",)) is first
    fake.gate.clear()
    clock.now += 2
    for _ in range(5):
        assert tokens.kept(CALL, ("*",)) is first
    await until(lambda: _true(len(fake.asked) == 2))
    fake.gate.set()
    await until(lambda: _true(tokens.kept(CALL, ("*",)) is not first))
    assert len(fake.asked) == 2


async def test_a_short_token_is_renewed_before_it_ends_by_whole_seconds(
    tokens: ShieldTokens, fake: FakeShield, clock: Clock
) -> None:
    fake.lifetime = 2
    clock.now = int(clock.now) + 0.95
    first = await obtained(tokens)
    ends = peek(first.text)[1]["exp"]
    assert first.renew_at < ends < first.expires_at


async def test_a_token_in_use_is_renewed_without_a_call_and_an_unused_one_is_forgotten(
    fake: FakeShield, clock: Clock
) -> None:
    own = HmacTokens(Identity("contextunity", "local", "me", "k1", SECRET.encode()), clock=clock)
    made = ShieldTokens(lambda: fake, own, address="shield:50055", clock=clock)
    fake.lifetime = 1
    with contextlib.closing(_Moving(clock)) as moving:
        moving.start()
        await obtained(made)  # used: at 0.8 s it is renewed, then nobody uses it
        await until(lambda: _true(len(fake.asked) == 2))
        await until(lambda: _true(len(made) == 0))
        assert len(fake.asked) == 2
    await made.close()


class _Moving:
    """Has the clock go on as time does."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._move())

    async def _move(self) -> None:
        loop = asyncio.get_running_loop()
        since = loop.time() - self._clock.now
        while True:
            self._clock.now = loop.time() - since
            await asyncio.sleep(0.01)

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()


async def test_while_shield_is_away_a_token_is_used_until_it_ends_and_then_the_error_names_shield(
    tokens: ShieldTokens, fake: FakeShield, clock: Clock
) -> None:
    first = await obtained(tokens)
    fake.failure = Unavailable("nobody is there")
    clock.now += 299
    assert tokens.kept(CALL, ("*",)) is first
    clock.now += 2
    with pytest.raises(Unavailable, match="Shield at shield:50055 cannot be reached") as caught:
        await obtained(tokens)
    assert (caught.value.reason, caught.value.unprocessed) == ("SHIELD_UNREACHABLE", True)


async def test_shield_that_failed_is_not_asked_by_each_call(tokens: ShieldTokens, fake: FakeShield) -> None:
    fake.failure = Unavailable("nobody is there")
    for _ in range(20):
        with pytest.raises(Unavailable):
            await obtained(tokens)
    assert len(fake.asked) == 1


async def test_a_limit_of_shields_is_told_as_one_with_the_time_to_wait(
    tokens: ShieldTokens, fake: FakeShield
) -> None:
    limit = ResourceExhausted("project local asks for too many", reason="RATE_LIMITED")
    limit.pushback = 20.0
    fake.failure = limit
    for _ in range(3):
        with pytest.raises(ResourceExhausted, match="Shield gives no token now: project local") as caught:
            await obtained(tokens)
        error = caught.value
        assert (error.reason, error.unprocessed, error.pushback) == ("RATE_LIMITED", True, 20.0)
    assert len(fake.asked) == 1


async def test_a_refusal_of_shields_is_told_as_it_is(tokens: ShieldTokens, fake: FakeShield) -> None:
    fake.failure = PermissionDenied("not granted", reason="GRANT_EXCEEDED")
    with pytest.raises(PermissionDenied) as caught:
        await obtained(tokens)
    assert caught.value.reason == "GRANT_EXCEEDED"


async def test_a_call_waits_no_longer_than_its_deadline(tokens: ShieldTokens, fake: FakeShield) -> None:
    fake.gate.clear()
    with pytest.raises(Unavailable, match="does not answer in time"):
        await obtained(tokens, CALL.having(deadline=Deadline.after(0.05)))


async def test_no_more_tokens_are_kept_than_allowed(tokens: ShieldTokens, fake: FakeShield) -> None:
    for number in range(10):
        await obtained(tokens, CALL.having(tenant=f"t{number}"))
    assert len(tokens) == 3


async def test_a_token_that_was_refused_is_not_used_again(tokens: ShieldTokens, fake: FakeShield) -> None:
    first = await obtained(tokens)
    tokens.replace(first)
    assert (await obtained(tokens)).text != first.text


async def test_on_behalf_of_somebody_a_token_is_exchanged_and_not_renewed(
    tokens: ShieldTokens, fake: FakeShield, clock: Clock
) -> None:
    call = CALL.having(subject_token="theirs", forwarded=False)
    first = await obtained(tokens, call)
    assert isinstance(fake.asked[0], shield.ExchangeTokenRequest)
    assert fake.asked[0].subject_token == "theirs"
    clock.now += 299
    assert tokens.kept(call, ("*",)) is first
    assert len(fake.asked) == 1
    clock.now += 1
    assert tokens.kept(call, ("*",)) is None


async def test_a_token_on_behalf_of_somebody_is_not_renewed_by_a_timer_that_comes_early(
    tokens: ShieldTokens, fake: FakeShield, clock: Clock
) -> None:
    await obtained(tokens, CALL.having(subject_token="theirs", forwarded=False))
    ((scope, slot),) = tokens._slots.items()
    clock.now += 299.999
    tokens._due(scope, slot)
    assert slot.fetching is not None
    assert slot.fetching.done()
    clock.now += 0.001
    tokens._due(scope, slot)
    assert len(tokens) == 0
    assert len(fake.asked) == 1


async def test_nothing_secret_is_in_a_repr(tokens: ShieldTokens) -> None:
    minted = await obtained(tokens, CALL.having(subject_token="theirs"))
    ((scope, slot),) = tokens._slots.items()
    assert slot.timer is not None
    assert "theirs" not in f"{scope} {slot.timer!r}"
    assert minted.text not in repr(minted)
    assert "private" not in repr(minted).lower()


@pytest.fixture
async def ring(fake: FakeShield, clock: Clock) -> AsyncIterator[ShieldRing]:
    made = ShieldRing(lambda: fake, address="shield:50055", clock=clock, monotonic=clock)
    yield made
    await made.close()


async def test_a_key_is_asked_for_once_and_known_from_then_on(ring: ShieldRing, fake: FakeShield) -> None:
    rows = await asyncio.gather(*(ring.find("shield", "k1") for _ in range(20)))
    assert {row.public_key is not None for row in rows if row} == {True}
    assert len(fake.asked) == 1


async def test_keys_of_projects_are_refused(ring: ShieldRing, fake: FakeShield) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await ring.find("local", "k1")
    assert (caught.value.reason, fake.asked) == ("TOKEN_AUTHORITY", [])


async def test_a_flood_of_unknown_keys_asks_once_a_second(
    ring: ShieldRing, fake: FakeShield, clock: Clock
) -> None:
    outcomes: set[str] = set()
    for number in range(500):
        clock.now += 0.01
        try:
            outcomes.add(str(await ring.find("shield", f"unknown-{number}")))
        except Unavailable as error:
            outcomes.add(f"{error.reason}, unprocessed: {error.unprocessed}")
    assert outcomes == {"None", "KEYS_NOT_READ, unprocessed: True"}
    assert len(fake.asked) == 5


async def test_one_unknown_key_is_not_asked_for_again_for_a_while(
    ring: ShieldRing, fake: FakeShield, clock: Clock
) -> None:
    for _ in range(29):
        assert await ring.find("shield", "unknown") is None
        clock.now += 1
    assert len(fake.asked) == 1
    clock.now += 2
    fake.keys["unknown"], fake.states["unknown"] = Ed25519PrivateKey.generate(), shield.KEY_STATE_ACTIVE
    assert await ring.find("shield", "unknown") is not None
    assert len(fake.asked) == 2


async def test_known_keys_verify_while_shield_is_away(
    ring: ShieldRing, fake: FakeShield, clock: Clock
) -> None:
    await ring.find("shield", "k1")
    fake.failure = Unavailable("nobody is there")
    clock.now += 3600
    assert await ring.find("shield", "k1") is not None
    with pytest.raises(Unavailable) as caught:
        await ring.find("shield", "k2")
    assert (caught.value.reason, caught.value.unprocessed) == ("SHIELD_UNREACHABLE", True)
    assert "50055" not in str(caught.value)


async def test_what_shield_says_of_a_service_is_not_told_to_its_callers(
    ring: ShieldRing, fake: FakeShield
) -> None:
    fake.failure = PermissionDenied("project local is disabled", reason="PROJECT_DISABLED")
    with pytest.raises(Unavailable) as caught:
        await ring.find("shield", "k1")
    assert caught.value.reason == "SHIELD_UNREACHABLE"


async def test_a_key_that_shield_retires_is_known_as_such(
    ring: ShieldRing, fake: FakeShield, clock: Clock
) -> None:
    await ring.find("shield", "k1")
    generation = ring.generation
    fake.states["k1"] = shield.KEY_STATE_RETIRED
    clock.now += 2
    ring.refresh()
    await until(lambda: _true(ring.generation != generation))
    row = await ring.find("shield", "k1")
    assert row is not None
    assert row.status is KeyStatus.RETIRED


async def test_a_retired_key_is_asked_about_until_there_is_an_answer(
    ring: ShieldRing, fake: FakeShield, clock: Clock
) -> None:
    await ring.find("shield", "k1")
    generation = ring.generation
    fake.states["k1"] = shield.KEY_STATE_RETIRED
    fake.failure = Unavailable("it is busy")
    clock.now += 2
    ring.refresh()
    await until(lambda: _true(len(fake.asked) == 2))
    fake.failure = None
    await until(lambda: _true(ring.generation != generation))
    row = await ring.find("shield", "k1")
    assert row is not None
    assert row.status is KeyStatus.RETIRED


async def test_nothing_is_asked_once_it_is_closed(ring: ShieldRing, fake: FakeShield, clock: Clock) -> None:
    await ring.find("shield", "k1")
    await ring.close()
    clock.now += 3600
    assert await ring.find("shield", "k1") is not None
    assert ring._timer is None


def message(revision: int, **facts: Any) -> shield.WatchRevocationsResponse:
    return shield.WatchRevocationsResponse(log_id="log", revision=revision, current=True, **facts)


async def test_the_feed_goes_on_where_it_broke_off(fake: FakeShield) -> None:
    revocations = Revocations()
    changes: list[int] = []
    refresh: Callable[[], object] = lambda: changes.append(1)  # noqa: E731
    feed = Feed(lambda: fake, revocations, refresh, address="shield:50055")
    feed.start()
    with pytest.raises(Unavailable) as caught:
        revocations.check(Principal("shop", "ada"))
    assert caught.value.reason == "REVOCATIONS_NOT_READ"
    one = shield.Revocation()
    one.token.token_id = "j1"
    one.token.until.GetCurrentTime()
    one.token.until.seconds += 300
    fake.news.put_nowait(message(7, revocations=[one], keys_revision=1))
    ada = Principal("shop", "ada", token_id="j1")
    await until(lambda: _true(revocations.is_revoked(ada)))
    assert changes == [1]
    fake.news.put_nowait(Unavailable("it broke off"))
    await until(lambda: _true(len(fake.watched) == 2))
    assert (fake.watched[1].log_id, fake.watched[1].after_revision) == ("log", 7)
    fake.news.put_nowait(message(7, keys_revision=2))
    await until(lambda: _true(len(changes) == 2))
    await feed.close()


async def test_a_feed_that_ends_by_a_fault_says_so(fake: FakeShield) -> None:
    feed = Feed(lambda: fake, Revocations(), lambda: None, address="shield:50055")
    with capture_logs() as logs:
        feed.start()
        fake.news.put_nowait(shield.GetKeysResponse())  # type: ignore[arg-type]  # no news
        await until(lambda: _true(logs))
    assert (logs[0]["log_level"], logs[0]["task"]) == ("error", "meshkit shield revocations")
    await feed.close()
