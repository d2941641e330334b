"""When tokens are replaced that a service refuses: at once after a rotation, hardly ever where it helps nothing."""

from collections.abc import AsyncIterator

import pytest

from meshkit.security.minting import HmacTokens, Identity, Minted
from meshkit.security.shield import ShieldTokens
from meshkit.security.shield.refusals import MOST_S, Refusals
from tests.security.handmade import SECRET, Clock
from tests.shield.test_clients import CALL, FakeShield, obtained


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fake(clock: Clock) -> FakeShield:
    return FakeShield(clock)


@pytest.fixture
async def tokens(fake: FakeShield, clock: Clock) -> AsyncIterator[ShieldTokens]:
    own = HmacTokens(Identity("contextunity", "local", "me", "k1", SECRET.encode()), clock=clock)
    made = ShieldTokens(lambda: fake, own, address="shield:50055", clock=clock)
    yield made
    await made.close()


async def test_each_token_of_before_is_replaced_at_once(
    tokens: ShieldTokens, fake: FakeShield, clock: Clock
) -> None:
    calls = [CALL.having(tenant=f"t{number}") for number in range(20)]
    for call in calls:
        await obtained(tokens, call)
    clock.now += 0.5
    for call in calls:
        before = await obtained(tokens, call)
        tokens.replace(before)
        assert await obtained(tokens, call) is not before
    assert len(fake.asked) == 40


async def test_a_service_that_refuses_every_token_has_few_fetched(
    tokens: ShieldTokens, fake: FakeShield, clock: Clock
) -> None:
    for _ in range(6000):  # ten minutes of ten calls a second, each refused
        tokens.replace(await obtained(tokens))
        clock.now += 0.1
    assert len(fake.asked) < 20
    other = CALL.having(service="zero")
    tokens.replace(first := await obtained(tokens, other))
    assert await obtained(tokens, other) is not first


def minted(now: float) -> Minted:
    return Minted("t", "d", "EdDSA", "k", b"", issued_at=now, renew_at=now + 240, expires_at=now + 300)


def test_pauses_double_up_to_a_minute_and_are_short_again_after_a_while() -> None:
    refusals, now, pauses = Refusals(), 1000.0, []
    refusals.may_replace(minted(now), now)
    for _ in range(9):
        begun = now
        while not refusals.may_replace(minted(now), now):
            now += 0.5
        pauses.append(now - begun)
    assert pauses == [1, 2, 4, 8, 16, 32, MOST_S, MOST_S, MOST_S]
    now += 2 * MOST_S + 1
    assert refusals.may_replace(minted(now), now)
    assert not refusals.may_replace(minted(now), now + 0.5)
    assert refusals.may_replace(minted(now), now + 1)


def test_a_clock_that_was_put_back_holds_nothing_up() -> None:
    refusals = Refusals()
    assert refusals.may_replace(minted(2000.0), 2000.0)
    assert refusals.may_replace(minted(1000.0), 1000.0)
