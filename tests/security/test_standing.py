"""A caller that is known: what it was let in for counts only while all of it still holds."""

from collections.abc import Callable
from typing import Any

import pytest

from meshkit.call import Call
from meshkit.errors import MeshError
from meshkit.pipeline import END, Exchange, Handler, Method
from meshkit.security.guard import Demand, Guard
from meshkit.security.keys import own_ring
from meshkit.security.proof import NonceCache
from meshkit.security.standing import Standing, Standings
from meshkit.security.tokens import TokenVerifier
from tests.security.handmade import ABSENT, SECRET, Clock, Handmade

PATH = "/a.B/C"
BODY = b"pay"
READ = Demand("brain:read")
OTHER_SECRET = "another-secret-of-tests-that-is-long-02"


class Door:
    """One method behind one guard, which comes to know its callers; how often it had to examine one is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, demand: Demand = READ) -> None:
        self.clock = Clock()
        self.ring = own_ring("local", [("k1", SECRET)])
        self.verifier = TokenVerifier("brain", self.ring, namespace="contextunity", clock=self.clock)
        guard = Guard(
            "brain",
            "brain-1",
            self.verifier,
            NonceCache(60, clock=self.clock),
            clock=self.clock,
            booted_at=self.clock.now - 1000,
        )
        self.examined = 0
        examine = Guard._examine

        async def counted(guard: Guard, *given: Any) -> Any:
            self.examined += 1
            return await examine(guard, *given)

        monkeypatch.setattr(Guard, "_examine", counted)

        async def reached(exchange: Exchange) -> None:
            self.body = await exchange.receive()

        self._handler: Handler = guard.layer(demand)(reached)
        self.caller = Handmade("brain", clock=self.clock)
        self.token = self.caller.token()

    async def enter(self, *, by: Handmade | None = None, body: bytes = BODY, **signed: Any) -> Call:
        """Makes a call, with the same token as all others; what the handler knows of it."""
        signed.setdefault("token", self.token)
        return await self.replay((by or self.caller).headers(PATH, BODY, **signed), body)

    async def replay(self, headers: list[tuple[str, str]], body: bytes = BODY) -> Call:
        messages = [body]

        async def receive() -> Any:
            return messages.pop() if messages else END

        async def send(message: Any) -> None: ...

        exchange = Exchange(Method(PATH), Call(service="brain"), receive, send, headers=dict(headers))
        await self._handler(exchange)
        assert self.body == body
        return exchange.call

    async def refusal(self, **signed: Any) -> str:
        with pytest.raises(MeshError) as error:
            await self.enter(**signed)
        return error.value.reason


@pytest.fixture
async def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    """A door whose caller was let in once."""
    made = Door(monkeypatch)
    await made.enter()
    return made


async def test_a_caller_that_is_known_is_not_examined_again_and_the_call_knows_the_same(door: Door) -> None:
    calls = [await door.enter() for _ in range(3)]
    assert door.examined == 1
    for call in calls:
        assert call.principal is not None
        assert (call.principal.name, call.tenant, call.criticality) == ("script", "acme", "default")
        assert call.subject == call.principal


def revoke_the_token(door: Door) -> None:
    known = door.verifier.known(door.token)
    assert known is not None
    door.verifier.revocations.revoke_token(known.principal.token_id, known.principal.expires_at)


def take_the_key(door: Door) -> None:
    door.ring.replace([])


def let_time_pass(door: Door) -> None:
    door.clock.now += 331


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (revoke_the_token, "TOKEN_REVOKED"),
        (take_the_key, "KEY_UNKNOWN"),
        (let_time_pass, "TOKEN_EXPIRED"),
    ],
)
async def test_what_ends_a_token_ends_what_is_known_of_its_bearer(
    door: Door, change: Callable[[Door], None], reason: str
) -> None:
    await door.enter()
    change(door)
    assert await door.refusal() == reason
    assert await door.refusal() == reason
    assert door.examined == 3


@pytest.mark.parametrize(
    ("signed", "reason"),
    [
        ({"sent": {"x-cu-proof": ABSENT}}, "PROOF_MISSING"),
        ({"sent": {"x-cu-proof": "ts=1;nonce=2;sig=3"}}, "PROOF_MALFORMED"),
        ({"by": "thief"}, "PROOF_MISMATCH"),
        ({"body": b"pay twice"}, "PROOF_MISMATCH"),
        ({"ts": 1_799_999_000_000}, "CLOCK_SKEW"),
        ({"sent": {"x-cu-tenant": "other"}}, "TENANT_FORBIDDEN"),
        ({"tenant": "other"}, "TENANT_FORBIDDEN"),
        ({"sent": {"x-cu-criticality": "critical"}}, "PROOF_MISMATCH"),
        ({"sent": {"x-cu-to": "brain-1"}}, "PROOF_MISMATCH"),
        ({"to": "brain-2"}, "PROOF_MISDIRECTED"),
        ({"subject": "no token"}, "SUBJECT_TOKEN_MALFORMED"),
    ],
)
async def test_who_is_known_must_prove_each_call_all_the_same(
    door: Door, signed: dict[str, Any], reason: str
) -> None:
    if signed.get("by") == "thief":
        signed = {"by": Handmade("brain", secret=OTHER_SECRET, clock=door.clock)}
    assert await door.refusal(**signed) == reason
    await door.enter()


async def test_a_call_of_one_who_is_known_passes_once(door: Door) -> None:
    headers = door.caller.headers(PATH, BODY, token=door.token)
    await door.replay(headers)
    with pytest.raises(MeshError) as error:
        await door.replay(headers)
    assert error.value.reason == "PROOF_REPLAYED"
    assert door.examined == 1


async def test_who_has_lost_its_standing_is_nobody_to_a_public_method(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    door = Door(monkeypatch, Demand(tenant="none"))
    assert (await door.enter(tenant="")).principal is not None
    stale = await door.enter(tenant="", ts=1_799_999_000_000)
    take_the_key(door)
    unknown = await door.enter(tenant="")
    assert stale.principal is None
    assert unknown.principal is None


async def test_no_more_callers_are_remembered_than_there_is_room_for(door: Door) -> None:
    async def receive() -> Any: ...

    async def send(message: Any) -> None: ...

    def call_of(name: str) -> Exchange:
        return Exchange(
            Method(PATH), Call(service="brain"), receive, send, headers={"authorization": f"Bearer {name}"}
        )

    def standing(seconds: float) -> Standing:
        return Standing("local", {}, (), door.clock.now + seconds, door.verifier.generation, None)

    standings = Standings(door.verifier, clock=door.clock, capacity=2)
    for name in ("one", "two", "three"):
        standings.keep(call_of(name), standing(60))
    assert [standings.find(call_of(name)) is not None for name in ("one", "two", "three")] == [
        False,
        True,
        True,
    ]
    door.clock.now += 61
    standings.keep(call_of("four"), standing(60))
    assert len(standings._known) == 1
