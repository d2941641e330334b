"""`dns://`: names into instances, with a resolver and a time that the test holds."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from meshkit.discovery.dns import AT_LEAST_S, MAX_NAMES, DnsRegistry, Name
from meshkit.discovery.registry import Registry
from meshkit.errors import AlreadyExists, FailedPrecondition
from meshkit.instance import Instance, State
from tests.discovery.held_time import Time, turns

Follow = Callable[..., Any]
Eventually = Callable[..., Awaitable[None]]
AWAY = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


class NameServers:
    """Answers what the test says: addresses, a failure, or nothing."""

    def __init__(self, *addresses: str) -> None:
        self.answer: frozenset[str] | Exception | None = frozenset(addresses)
        self.asked: list[str] = []
        self.gate = asyncio.Event()

    def set(self, *addresses: str) -> None:
        self.answer = frozenset(addresses)

    async def __call__(self, host: str) -> frozenset[str]:
        self.asked.append(host)
        if self.answer is None:
            await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        assert self.answer is not None
        return self.answer


@pytest.fixture
async def time() -> Time:
    return Time()


@pytest.fixture
async def servers() -> NameServers:
    return NameServers("10.0.0.1", "10.0.0.2")


@pytest.fixture
async def registry(time: Time, servers: NameServers) -> AsyncIterator[DnsRegistry]:
    made = DnsRegistry(
        {"brain": Name("brain.test", 50051), "router": Name("router.test", 50052)},
        clock=time.clock,
        sleep=time.sleep,
        uniform=lambda low, high: (low + high) / 2,
        resolve=servers,
    )
    yield made
    await made.close()


def ids(follower: Any) -> set[str]:
    return set(follower.last.instances)


ONE, TWO, THREE = "10.0.0.1:50051", "10.0.0.2:50051", "10.0.0.3:50051"


# --- addresses --------------------------------------------------------------------------------------------------------


async def test_each_address_of_a_name_is_an_instance(
    registry: DnsRegistry, servers: NameServers, follow: Follow
) -> None:
    servers.set("10.0.0.1", "fd00::1")
    snapshot = await follow(registry).until(lambda _: True)
    assert snapshot.instances == {
        address: Instance(service="brain", instance_id=address, address=address, shard_key=address)
        for address in ("10.0.0.1:50051", "[fd00::1]:50051")
    }
    assert snapshot.stale_since is None
    assert servers.asked == ["brain.test"]


async def test_a_name_is_looked_up_every_two_seconds_and_a_new_address_taken_at_once(
    registry: DnsRegistry, servers: NameServers, time: Time, follow: Follow
) -> None:
    follower = follow(registry)
    await time.pass_(1.99)
    servers.set("10.0.0.1", "10.0.0.2", "10.0.0.3")
    assert len(servers.asked) == 1
    await time.pass_(0.02)
    assert len(servers.asked) == 2
    assert ids(follower) == {ONE, TWO, THREE}
    await time.pass_(20)
    assert len(servers.asked) == 12
    assert len(follower.seen) == 2


async def test_look_ups_are_jittered(time: Time, servers: NameServers, follow: Follow) -> None:
    draws = iter([0.9, 1.1])
    bounds: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return next(draws)

    registry = DnsRegistry({"brain": Name("b", 1)}, sleep=time.sleep, uniform=uniform, resolve=servers)
    follow(registry)
    await time.pass_(1.81)
    assert len(servers.asked) == 2
    await time.pass_(2.18)
    assert len(servers.asked) == 2
    await registry.close()
    assert bounds == [(0.9, 1.1)] * 2


async def test_an_address_that_is_missing_is_given_up_when_the_next_answer_confirms_it(
    registry: DnsRegistry, servers: NameServers, time: Time, follow: Follow
) -> None:
    follower = follow(registry)
    await time.pass_(0)
    servers.set("10.0.0.1")
    await time.pass_(2)
    assert ids(follower) == {ONE, TWO}
    servers.set("10.0.0.2")
    await time.pass_(2)
    assert ids(follower) == {ONE, TWO}
    await time.pass_(2)
    assert ids(follower) == {TWO}
    servers.set("10.0.0.1", "10.0.0.2")
    await time.pass_(2)
    assert ids(follower) == {ONE, TWO}


async def test_a_name_that_lost_its_addresses_is_empty_once_confirmed(
    registry: DnsRegistry, servers: NameServers, time: Time, follow: Follow
) -> None:
    follower = follow(registry)
    await time.pass_(0)
    servers.set()
    await time.pass_(2)
    assert ids(follower) == {ONE, TWO}
    await time.pass_(2)
    assert follower.last.instances == {}
    assert follower.last.stale_since is None
    servers.set("10.0.0.3")
    await time.pass_(2)
    assert ids(follower) == {THREE}


async def test_a_name_that_never_had_an_address_has_no_instances(
    registry: DnsRegistry, servers: NameServers, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    servers.set()
    snapshot = await follow(registry).until(lambda _: True)
    assert snapshot.instances == {}
    assert "brain.test:50051 of service brain has no addresses: mend it" in caplog.text


# --- name servers that are away ---------------------------------------------------------------------------------------


async def test_a_name_that_cannot_be_resolved_keeps_its_addresses_and_says_since_when(
    registry: DnsRegistry,
    servers: NameServers,
    time: Time,
    follow: Follow,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    follower = follow(registry)
    await time.pass_(0)
    servers.answer = AWAY
    await time.pass_(2)
    assert ids(follower) == {ONE, TWO}
    assert follower.last.stale_since == 1002
    await time.pass_(600)
    assert ids(follower) == {ONE, TWO}
    assert follower.last.stale_since == 1002
    assert len(follower.seen) == 2
    servers.set("10.0.0.1", "10.0.0.2")
    await time.pass_(2)
    assert follower.last.stale_since is None
    (began, ended) = (record.getMessage() for record in caplog.records)
    assert began.startswith("brain.test:50051 of service brain cannot be resolved")
    assert "Temporary failure in name resolution" in began
    assert ended.endswith("has addresses again")


async def test_failures_do_not_confirm_that_an_address_is_gone(
    registry: DnsRegistry, servers: NameServers, time: Time, follow: Follow
) -> None:
    follower = follow(registry)
    await time.pass_(0)
    servers.set()
    await time.pass_(2)
    servers.answer = AWAY
    await time.pass_(60)
    assert ids(follower) == {ONE, TWO}


async def test_a_watch_that_begins_while_nothing_can_be_resolved_waits(
    registry: DnsRegistry, servers: NameServers, time: Time, follow: Follow
) -> None:
    servers.answer = AWAY
    follower = follow(registry)
    await time.pass_(10)
    assert follower.seen == []
    servers.set("10.0.0.1")
    await time.pass_(2)
    assert ids(follower) == {ONE}


async def test_an_answer_that_does_not_come_is_waited_for_so_long(
    registry: DnsRegistry, servers: NameServers, time: Time, follow: Follow
) -> None:
    follower = follow(registry)
    await time.pass_(0)
    servers.answer = None
    await time.pass_(2)
    assert follower.last.stale_since is None
    await time.pass_(5)
    assert ids(follower) == {ONE, TWO}
    assert follower.last.stale_since == 1007


async def test_whatever_the_resolver_raises_the_watch_goes_on(
    registry: DnsRegistry, servers: NameServers, time: Time, follow: Follow
) -> None:
    follower = follow(registry)
    await time.pass_(0)
    for failure in (RuntimeError("can't start new thread"), UnicodeError("label too long")):
        servers.answer = failure
        await time.pass_(2)
    assert follower.last.stale_since is not None
    servers.set("10.0.0.3", "10.0.0.1", "10.0.0.2")
    await time.pass_(2)
    assert ids(follower) == {ONE, TWO, THREE}


# --- at once ----------------------------------------------------------------------------------------------------------


async def test_a_refresh_looks_the_service_up_at_once(
    registry: DnsRegistry, servers: NameServers, time: Time, follow: Follow
) -> None:
    follower = follow(registry)
    await time.pass_(1)
    servers.set("10.0.0.1", "10.0.0.2", "10.0.0.3")
    registry.refresh("brain")
    await time.pass_(0)
    assert ids(follower) == {ONE, TWO, THREE}
    await time.pass_(1.99)
    assert len(servers.asked) == 2


async def test_refreshes_are_limited_and_the_last_one_is_not_lost(
    registry: DnsRegistry, servers: NameServers, time: Time, follow: Follow
) -> None:
    follow(registry)
    await time.pass_(1)
    for _ in range(100):
        registry.refresh("brain")
        await time.pass_(0.01)
    assert len(servers.asked) in (6, 7)
    await time.pass_(AT_LEAST_S)
    asked = len(servers.asked)
    await time.pass_(1.7)
    assert len(servers.asked) == asked


async def test_a_refresh_during_a_look_up_is_followed_by_another(
    registry: DnsRegistry, servers: NameServers, time: Time, follow: Follow
) -> None:
    servers.answer = None
    follow(registry)
    await time.pass_(1)
    registry.refresh("brain")
    servers.set("10.0.0.1")
    servers.gate.set()
    await time.pass_(AT_LEAST_S)
    assert len(servers.asked) == 2


async def test_a_refresh_of_what_nobody_watches_does_nothing(
    registry: DnsRegistry, servers: NameServers, time: Time
) -> None:
    registry.refresh("brain")
    registry.refresh("nobody")
    await time.pass_(10)
    assert servers.asked == []


# --- watches and leases -----------------------------------------------------------------------------------------------


async def test_watches_share_look_ups_which_end_with_the_last_of_them(
    registry: DnsRegistry, servers: NameServers, time: Time, follow: Follow
) -> None:
    before = asyncio.all_tasks()
    followers = [follow(registry) for _ in range(10)]
    await time.pass_(2)
    assert len(servers.asked) == 2
    for follower in followers:
        await follower.stop()
    await turns()
    assert asyncio.all_tasks() == before
    await time.pass_(10)
    assert len(servers.asked) == 2


async def test_a_registry_that_is_closed_during_a_look_up_leaves_nothing(
    registry: DnsRegistry, servers: NameServers, time: Time, follow: Follow
) -> None:
    before = asyncio.all_tasks()
    servers.answer = None
    follower = follow(registry)
    await time.pass_(0)
    await registry.close()
    await registry.close()
    await follower.until_ended()
    await turns()
    assert asyncio.all_tasks() == before


async def test_a_service_that_the_url_does_not_name_has_no_instances(
    registry: DnsRegistry, follow: Follow
) -> None:
    follower = follow(registry, "worker")
    assert (await follower.until(lambda _: True)).instances == {}
    assert not follower.ended
    assert await registry.services() == ["brain", "router"]
    await registry.close()
    await follower.until_ended()


async def test_a_lease_changes_nothing(registry: DnsRegistry, time: Time, follow: Follow) -> None:
    kept: Registry = registry
    instance = Instance(service="brain", instance_id="brain-1", address="h:1")
    lease = await kept.register(instance)
    follower = follow(registry)
    await lease.update(state=State.DRAINING, weight=2)
    assert (lease.instance.state, lease.instance.weight) == (State.DRAINING, 2)
    with pytest.raises(AlreadyExists):
        await kept.register(instance)
    await time.pass_(2)
    assert ids(follower) == {ONE, TWO}
    await lease.release()
    await lease.release()
    with pytest.raises(FailedPrecondition):
        await lease.update(weight=3)
    await registry.close()
    with pytest.raises(FailedPrecondition, match="closed"):
        await kept.register(instance)
    with pytest.raises(FailedPrecondition, match="closed"):
        registry.watch("brain")


async def test_a_service_name_is_checked_when_the_watch_is_made(registry: DnsRegistry) -> None:
    with pytest.raises(ValueError, match="service name"):
        registry.watch("../brain")


# --- URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "?brain=brain:50051",
        "?brain=brain.svc.cluster.local.:50051&router=_grpc.router-1:1",
        "?brain=10.0.0.1:65535",
        "?brain=[::1]:50051&router=localhost:2",
    ],
)
async def test_a_url_is_shown_as_it_was_written(text: str) -> None:
    registry = DnsRegistry.parse(text)
    assert str(registry) == "dns://" + text
    await registry.close()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is not service=host:port: write dns://"),
        ("?", "'' is not service=host:port"),
        ("brain=brain:1", "'brain=brain:1' may not stand before the \\?"),
        ("10.0.0.53?brain=brain:1", "'10.0.0.53' may not stand before the \\?"),
        ("?brain", "'brain' is not service=host:port"),
        ("?Brain=h:1", "'Brain=h:1' is not service=host:port"),
        ("?brain=h:1&", "'' is not service=host:port"),
        ("?brain=h:1&brain=h:2", "brain is listed twice"),
        ("?brain=h", "'h' of brain has no port"),
        ("?brain=h:", "'h:' of brain has no port"),
        ("?brain=h:0", "'h:0' of brain has no port within 1 to 65535"),
        ("?brain=h:65536", "no port"),
        ("?brain=h:٣", "no port"),
        ("?brain=:1", "':1' of brain has neither a name nor an address"),
        ("?brain=::1:50051", "an IPv6 address stands in brackets"),
        ("?brain=[brain]:1", "neither a name nor an address"),
        ("?brain=[fe80::1%eth0]:1", "neither a name nor an address"),
        ("?brain=10.0.0.300:1", "neither a name nor an address"),
        ("?brain=a..b:1", "neither a name nor an address"),
        ("?brain=-a:1", "neither a name nor an address"),
        ("?brain=bräin:1", "neither a name nor an address"),
        (f"?brain={'a' * 64}:1", "neither a name nor an address"),
        (f"?brain={'a.' * 127}a:1", "neither a name nor an address"),
        ("?" + "&".join(f"s{n}=h:1" for n in range(MAX_NAMES + 1)), "65 services are more than"),
    ],
)
def test_a_url_that_is_wrong_is_refused_by_its_part(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        DnsRegistry.parse(text)
