"""Making tokens: kept while they are good, made anew ahead of their end, never too many."""

import pytest

from meshkit.security.keys import own_ring
from meshkit.security.minting import HmacTokens, Identity
from meshkit.security.tokens import TokenVerifier, peek
from tests.security.handmade import SECRET, Clock

IDENTITY = Identity("contextunity", "shop", "script", "k1", SECRET.encode())


def source(clock: Clock, **options: int) -> HmacTokens:
    return HmacTokens(IDENTITY, clock=clock, **options)


async def test_what_it_makes_verifies() -> None:
    clock = Clock()
    minted = source(clock).token("brain", "acme", ("brain:read",))
    ring = own_ring("shop", [("k1", SECRET)])
    verified = await TokenVerifier("brain", ring, namespace="contextunity", clock=clock).verify(minted.text)
    assert (verified.principal.tenants, verified.principal.permissions) == ({"acme"}, {"brain:read"})
    assert (verified.proof_key, verified.digest) == (minted.proof_key, minted.digest)


def test_a_token_is_kept_for_its_scope() -> None:
    made = source(Clock())
    first = made.token("brain", "acme")
    assert made.token("brain", "acme") is first
    others = [made.token("router", "acme"), made.token("brain", ""), made.token("brain", "acme", ("a:b",))]
    assert len({first.text, *(other.text for other in others)}) == 4


def test_a_token_is_made_anew_ahead_of_its_end() -> None:
    clock = Clock()
    made = source(clock)
    first = made.token("brain", "acme")
    clock.now += 239.9
    assert made.token("brain", "acme") is first
    clock.now += 0.2
    second = made.token("brain", "acme")
    assert second is not first
    assert second.expires_at == clock.now + 300


def test_a_clock_that_was_put_back_makes_no_token_from_the_future() -> None:
    clock = Clock()
    made = source(clock)
    first = made.token("brain", "acme")
    clock.now -= 3600
    second = made.token("brain", "acme")
    assert second is not first
    assert peek(second.text)[1]["iat"] == int(clock.now)


def test_no_more_tokens_are_kept_than_allowed_and_the_least_used_goes_first() -> None:
    made = source(Clock(), capacity=2)
    first, second = made.token("brain", "t1"), made.token("brain", "t2")
    made.token("brain", "t1")
    made.token("brain", "t3")
    assert made.token("brain", "t1") is first
    assert made.token("brain", "t2") is not second


def test_no_two_tokens_are_one() -> None:
    made = source(Clock())
    ids = {peek(made.mint("brain", tenants=["acme"]).text)[1]["jti"] for _ in range(100)}
    assert len(ids) == 100


def test_what_no_service_would_take_is_not_made() -> None:
    made = source(Clock())
    with pytest.raises(ValueError, match="no tenant"):
        made.mint("brain", tenants=["acme*"])
    with pytest.raises(ValueError, match="no permission"):
        made.mint("brain", tenants=["acme"], permissions="brain:read")
    with pytest.raises(ValueError, match="above 4096"):
        made.mint("brain", tenants=[f"tenant-{number}" for number in range(1000)])
