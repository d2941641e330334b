"""The guard by itself, on a clock that the tests set."""

import dataclasses
from typing import Any

import pytest

from meshkit.call import Call
from meshkit.errors import Unauthenticated
from meshkit.pipeline import END, Exchange, Method
from meshkit.security.guard import Demand, Guard
from meshkit.security.keys import own_ring
from meshkit.security.proof import NonceCache
from meshkit.security.tokens import TokenVerifier
from tests.security.handmade import SECRET, Clock, Handmade, Headers

PATH = "/a.B/C"


class Bench:
    """A guard, and calls that it lets in or refuses."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.caller = Handmade("brain", clock=self.clock)
        ring = own_ring("local", [("k1", SECRET)])
        self.guard = Guard(
            "brain",
            "brain-1",
            TokenVerifier("brain", ring, namespace="contextunity", clock=self.clock),
            NonceCache(60, clock=self.clock),
            clock=self.clock,
            booted_at=self.clock.now - 1000,
        )

    async def begin(self, headers: Headers, messages: list[Any]) -> Exchange:
        """The call as it is when its headers were let in; `receive` then gives its messages."""

        async def receive() -> Any:
            return messages.pop(0) if messages else END

        async def send(message: Any) -> None: ...

        async def reached(exchange: Exchange) -> None: ...

        exchange = Exchange(Method(PATH), Call(service="brain"), receive, send, headers=dict(headers))
        await self.guard.layer(Demand("brain:read"))(reached)(exchange)
        return exchange


async def refusal(exchange: Exchange) -> str:
    with pytest.raises(Unauthenticated) as error:
        await exchange.receive()
    return error.value.reason


async def test_a_message_held_back_until_its_nonce_is_forgotten_is_no_replay() -> None:
    bench = Bench()
    headers = bench.caller.headers(PATH, b"pay")
    at_once, held_back = await bench.begin(headers, [b"pay"]), await bench.begin(headers, [b"pay"])
    assert await at_once.receive() == b"pay"
    bench.clock.now += 3600
    assert await refusal(held_back) == "PROOF_STALE"


@pytest.mark.parametrize("offset", [-30, -1, 0, 1, 30])
async def test_however_it_is_timed_a_call_passes_once(offset: int) -> None:
    bench = Bench()
    headers = Handmade("brain", clock=bench.clock, offset=offset).headers(PATH, b"pay")
    held = [await bench.begin(headers, [b"pay"]) for _ in range(70)]
    passed = 0
    for each in held:
        try:
            passed += await each.receive() == b"pay"
        except Unauthenticated as error:
            reason = error.reason
        bench.clock.now += 1
    assert (passed, reason) == (1, "PROOF_STALE")


async def test_a_message_is_read_once_even_if_it_is_asked_for_twice() -> None:
    bench = Bench()
    exchange = await bench.begin(bench.caller.headers(PATH, b"pay"), [b"pay", b"pay"])
    assert await exchange.receive() == b"pay"
    assert await refusal(exchange) == "PROOF_REPLAYED"
    assert await exchange.receive() is END


async def test_the_cache_of_tokens_does_not_let_an_expired_one_in() -> None:
    bench = Bench()
    token = bench.caller.token()
    await bench.begin(bench.caller.headers(PATH, b"", token=token), [])
    bench.clock.now += 331
    with pytest.raises(Unauthenticated) as error:
        await bench.begin(bench.caller.headers(PATH, b"", token=token), [])
    assert error.value.reason == "TOKEN_EXPIRED"


async def test_callers_of_one_project_share_one_half_of_the_cache() -> None:
    bench = Bench()
    for name in ("one", "two"):
        caller = Handmade("brain", name=name, clock=bench.clock)
        exchange = await bench.begin(caller.headers(PATH, b""), [b""])
        await exchange.receive()
    held = {project: len(seen.nonces) for project, seen in bench.guard.nonces._seen.items()}
    assert held == {"local": 2}


async def test_a_proof_for_any_instance_of_the_millisecond_of_the_boot_is_taken() -> None:
    bench = Bench()
    caller = Handmade("brain", clock=bench.clock)
    guard = dataclasses.replace(bench.guard, booted_at=bench.clock.now + 0.0004)
    bench.guard = guard
    exchange = await bench.begin(caller.headers(PATH, b"", to="-"), [b""])
    assert await exchange.receive() == b""
