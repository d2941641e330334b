"""`dns://` by the system's own resolver, which may stall."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from meshkit.discovery.dns import DnsRegistry, Name
from meshkit.discovery.resolver import SystemResolver
from tests.discovery.held_time import Time

Follow = Callable[..., Any]
Eventually = Callable[..., Awaitable[None]]


@pytest.fixture
async def time() -> Time:
    return Time()


@pytest.mark.parametrize(
    ("host", "addresses"), [("127.0.0.1", {"127.0.0.1"}), ("::1", {"::1"}), ("fd00::1", {"fd00::1"})]
)
async def test_an_address_resolves_to_itself(host: str, addresses: set[str]) -> None:
    assert await SystemResolver()(host) == addresses


async def test_localhost_is_watched_without_name_servers(follow: Follow) -> None:
    registry = DnsRegistry.parse("?brain=localhost:50051")
    snapshot = await follow(registry).until(lambda _: True)
    assert "127.0.0.1:50051" in snapshot.instances
    await registry.close()


def look_ups() -> int:
    return sum(thread.name.startswith("meshkit-dns ") for thread in threading.enumerate())


class Stalled:
    """A getaddrinfo that does not return."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.release = threading.Event()
        self.calls = 0
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: str, *_: Any, **__: Any) -> Any:
        self.calls += 1
        self.release.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.9", 0))]


async def test_a_stalled_look_up_keeps_one_thread_however_often_the_name_is_asked_for(
    time: Time, monkeypatch: pytest.MonkeyPatch, follow: Follow, eventually: Eventually
) -> None:
    stalled = Stalled(monkeypatch)
    registry = DnsRegistry(
        {name: Name("brain.test", 50051) for name in ("brain", "router")}, sleep=time.sleep, clock=time.clock
    )
    for _ in range(5):
        follower = follow(registry)
        await time.pass_(60)
        await follower.stop()
    last, other = follow(registry), follow(registry, "router")
    await time.pass_(60)
    assert last.seen == other.seen == []
    assert stalled.calls == 1
    assert look_ups() == 1
    stalled.release.set()
    await eventually(lambda: look_ups() == 0)
    await time.pass_(5)
    assert set(last.last.instances) == set(other.last.instances) == {"10.0.0.9:50051"}
    await registry.close()


async def test_a_look_up_that_ends_after_its_registry_is_no_trouble(
    monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    stalled = Stalled(monkeypatch)
    asking = asyncio.create_task(SystemResolver()("brain.test"))
    await eventually(lambda: stalled.calls == 1)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    stalled.release.set()
    await eventually(lambda: look_ups() == 0)


def test_a_stalled_look_up_does_not_hold_up_the_end_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    stalled = Stalled(monkeypatch)

    async def begin() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await SystemResolver()("brain.test")

    asyncio.run(begin())
    (thread,) = (each for each in threading.enumerate() if each.name == "meshkit-dns brain.test")
    assert thread.daemon
    stalled.release.set()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("code", "known"),
    [
        ("EAI_NONAME", True),
        ("EAI_NODATA", True),
        ("EAI_AGAIN", False),
        ("EAI_FAIL", False),
        ("EAI_SYSTEM", False),
    ],
)
async def test_only_a_clear_answer_says_that_a_name_has_no_address(
    code: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(getattr(socket, code), code)

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    if known:
        assert await SystemResolver()("brain.test") == frozenset()
    else:
        with pytest.raises(socket.gaierror, match=code):
            await SystemResolver()("brain.test")
