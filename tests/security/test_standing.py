"""A caller that is known: what is worked out once lets nobody in who would not get in without."""

from typing import Any

import pytest

from meshkit.call import Call
from meshkit.errors import MeshError
from meshkit.pipeline import Exchange, Method
from meshkit.security.guard import Demand, Guard
from meshkit.security.keys import own_ring
from meshkit.security.proof import NonceCache
from meshkit.security.revocations import Revocations
from meshkit.security.standing import Standing, Standings
from meshkit.security.tokens import TokenVerifier
from tests.security.handmade import ABSENT, SECRET, Clock, Handmade, Headers

PATH = "/a.B/C"


class Bench:
    """One method behind a guard, which has seen the caller once."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.caller = Handmade("brain", clock=self.clock)
        self.token = self.caller.token()
        self.revocations = Revocations(clock=self.clock)
        ring = own_ring("local", [("k1", SECRET)])
        self.verifier = TokenVerifier(
            "brain", ring, namespace="contextunity", clock=self.clock, revocations=self.revocations
        )
        guard = Guard("brain", "brain-1", self.verifier, NonceCache(60, clock=self.clock), clock=self.clock)
        self.layered = guard.layer(Demand("brain:read"))(_reads)

    def signed(self, **said: Any) -> Headers:
        return self.caller.headers(PATH, b"pay", **{"token": self.token, "to": "brain-1", **said})

    async def call(self, headers: Headers, body: bytes = b"pay") -> Call:
        async def receive() -> Any:
            return body

        async def send(message: Any) -> None: ...

        exchange = Exchange(Method(PATH), Call(service="brain"), receive, send, headers=dict(headers))
        await self.layered(exchange)
        return exchange.call

    async def refusal(self, headers: Headers, body: bytes = b"pay") -> str:
        with pytest.raises(MeshError) as error:
            await self.call(headers, body)
        return error.value.reason


async def _reads(exchange: Exchange) -> None:
    await exchange.receive()


@pytest.fixture
async def bench() -> Bench:
    bench = Bench()
    await bench.call(bench.signed())
    return bench


async def test_a_known_caller_is_what_it_was_at_its_first_call(bench: Bench) -> None:
    first, second = await Bench().call(bench.signed()), await bench.call(bench.signed())
    for fact in ("principal", "subject", "tenant", "criticality", "subject_token", "forwarded"):
        assert getattr(first, fact) == getattr(second, fact)
    assert second.tenant == "acme"


async def test_a_token_is_checked_at_the_first_call_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unexpected(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(TokenVerifier, "verify", unexpected)
    monkeypatch.setattr(TokenVerifier, "known", unexpected)
    await bench.call(bench.signed())


@pytest.mark.parametrize(
    ("said", "body", "reason"),
    [
        ({}, b"pay more", "PROOF_MISMATCH"),
        ({"tenant": "beta", "sent": {"x-cu-tenant": "acme"}}, b"pay", "PROOF_MISMATCH"),
        ({"to": "brain-2", "sent": {"x-cu-to": "brain-1"}}, b"pay", "PROOF_MISMATCH"),
        ({"sent": {"x-cu-criticality": "critical"}}, b"pay", "PROOF_MISMATCH"),
        ({"sent": {"x-cu-proof": ABSENT}}, b"pay", "PROOF_MISSING"),
        ({"sent": {"x-cu-proof": "none"}}, b"pay", "PROOF_MALFORMED"),
        ({"sent": {"x-cu-to": ABSENT}}, b"pay", "TO_MISSING"),
        ({"sent": {"authorization": ABSENT}}, b"pay", "TOKEN_MISSING"),
        ({"to": "brain-2"}, b"pay", "PROOF_MISDIRECTED"),
        ({"ts": 1}, b"pay", "CLOCK_SKEW"),
    ],
)
async def test_a_known_caller_is_held_to_its_proof(
    bench: Bench, said: dict[str, Any], body: bytes, reason: str
) -> None:
    assert await bench.refusal(bench.signed(**said), body) == reason


async def test_a_known_callers_request_passes_once(bench: Bench) -> None:
    headers = bench.signed()
    await bench.call(headers)
    assert await bench.refusal(headers) == "PROOF_REPLAYED"


async def test_a_known_caller_whose_token_is_revoked_is_refused_from_then_on(bench: Bench) -> None:
    bench.revocations.revoke_before("local", bench.clock.now + 1)
    assert await bench.refusal(bench.signed()) == "TOKEN_REVOKED"


async def test_a_known_caller_is_refused_once_its_token_has_ended(bench: Bench) -> None:
    bench.clock.now += 331
    assert await bench.refusal(bench.signed()) == "TOKEN_EXPIRED"


def test_as_many_callers_are_remembered_as_fit_and_none_whose_time_is_over() -> None:
    bench = Bench()
    known = Standings(bench.verifier, clock=bench.clock, capacity=3)

    def exchange(number: int) -> Exchange:
        headers = {"authorization": f"Bearer {number}"}
        return Exchange(Method(PATH), Call(service="brain"), _nothing, _nothing, headers=headers)

    def standing(ends: float) -> Standing:
        return Standing("local", {}, (), bench.clock.now + ends, bench.verifier.generation, None)

    for number in range(4):
        known.keep(exchange(number), standing(10.0 + number))
    assert [known.find(exchange(number)) is not None for number in range(4)] == [False, True, True, True]
    bench.clock.now += 12.5
    known.keep(exchange(9), standing(10.0))
    assert len(known) == 2


async def _nothing(*_: Any) -> Any:
    return None
