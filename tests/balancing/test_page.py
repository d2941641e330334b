"""What docs/balancing.md shows, over real connections: a policy of one's own, a test with a fault, hedges, timeouts."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient

from meshkit import Unavailable
from meshkit.testing import LocalMesh
from tests.docs.pages import ROOT, read

PAGE = read(ROOT / "docs" / "balancing.md")


def shown(name: str) -> tuple[Any, str]:
    """What a block of the page defines under a name, and the block."""
    (block,) = [each for each in PAGE.blocks if each.kind == "python" and f" {name}" in each.text]
    found: dict[str, Any] = {}
    exec(compile(block.text, block.place, "exec"), found)
    return found[name], block.text


@pytest.fixture
def greeter(monkeypatch: pytest.MonkeyPatch) -> type:
    """The example that the page speaks of, where its blocks import it."""
    monkeypatch.syspath_prepend(ROOT / "examples" / "greeter")
    monkeypatch.delitem(sys.modules, "main", raising=False)
    from main import Greeter

    assert Path(sys.modules["main"].__file__ or "").parent == ROOT / "examples" / "greeter"
    monkeypatch.setitem(sys.modules, "main", sys.modules["main"])
    return Greeter


async def test_the_policy_of_the_page_keeps_to_an_instance_until_it_fails(greeter: Any) -> None:
    sticky, text = shown("Sticky")
    code = text.partition("class ")[2].splitlines()
    assert len([line for line in code if line.strip()]) <= 20, "a policy is some twenty lines"
    local = LocalMesh(greeter, replicas=3)
    async with local as mesh:
        client = mesh.client(GreeterClient, policy=sticky())
        pool = mesh.pool("greeter")
        while len(pool.selection().everywhere) < 3:
            await pool.changed()

        async def favourite() -> str:
            answered = set()
            for _ in range(10):
                trailers: dict[str, str] = {}
                await client.greet(pb.GreetRequest(), tenant="acme", timeout=30, trailers=trailers)
                answered.add(trailers["x-cu-instance"])
            assert len(answered) == 1
            return answered.pop()

        first = await favourite()
        with local.faults.abort("greeter/greet", Unavailable("on purpose"), instance=first):
            second = await favourite()
        assert first != second == await favourite()


async def test_the_test_of_the_page_passes(greeter: Any) -> None:
    test: Callable[[], Awaitable[None]]
    test, _ = shown("test_a_greeting_that_fails_is_asked_for_elsewhere")
    await test()


async def test_what_the_page_asks_of_a_client_is_taken(greeter: Any) -> None:
    path = "/greeter.v1.GreeterService/Greet"
    words = {word for _, word in PAGE.code}
    assert {
        'mesh.client(GreeterClient, hedge=["greet"])',
        f'mesh.channel("greeter", hedge=["{path}"])',
    } <= words
    async with LocalMesh(greeter) as mesh:
        mesh.channel("greeter", hedge=[path])
        client = mesh.client(GreeterClient, hedge=["greet"], idle_timeout=30)
        replies = client.greet_many(
            pb.GreetManyRequest(), tenant="acme", first_message_timeout=20, idle_timeout=30
        )
        assert len([reply async for reply in replies]) == 3
