"""What a client or a call may choose, over real connections: hedges, timeouts of streams, policies."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from meshkit import Call, DeadlineExceeded, Internal, InvalidArgument, Mesh, MeshError, Unavailable
from meshkit.balancing import PeakEwma, RoundRobin
from meshkit.balancing.endpoint import Endpoint
from meshkit.balancing.policy import Candidates
from meshkit.testing import LocalMesh
from tests.resilience.fleet import Fleet
from tests.serving.probe import CONTRACT, Probe, ProbeClient, ProbeStub, Text

LIST = f"/{CONTRACT.full_name}/List"
READ = f"/{CONTRACT.full_name}/Read"

Eventually = Callable[[Callable[[], bool]], Any]


def first_hangs() -> tuple[Any, Any]:
    """A unary and a streaming behaviour of which the first call hangs, on whichever instance it is."""
    hung: list[str] = []

    async def hang_once(name: str) -> None:
        if name not in hung:
            hung.append(name)
            await asyncio.Event().wait()

    async def one(request: Text, call: Call) -> Text:
        await hang_once("one")
        return Text(value=request.value)

    async def many(request: Text, call: Call) -> AsyncIterator[Text]:
        await hang_once("many")
        for number in range(3):
            yield Text(value=f"{request.value}{number}")

    return one, many


async def warm(fleet: Fleet, eventually: Eventually) -> None:
    """Calls until it is known how long calls take, then has one hang."""
    for _ in range(30):
        await fleet.client.read(Text(value="warm"))
        assert [reply async for reply in fleet.client.list(Text(value="warm"))]
    latencies = fleet.mesh.pool("probe").outliers.latencies
    await eventually(lambda: None not in (latencies(READ).quantile(0.95), latencies(LIST).quantile(0.95)))
    one, many = first_hangs()
    fleet.behave(Read=one, List=many)
    for probe in fleet.probes:
        probe.begun.clear()
        probe.ended.clear()


async def only_one_hedge(fleet: Fleet, method: str, eventually: Eventually) -> None:
    assert [probe.begun[method] for probe in fleet.probes] == [1, 1], "another instance was asked, once"
    await eventually(lambda: all(probe.ended[method] == 1 for probe in fleet.probes))
    await eventually(lambda: not [task for task in asyncio.all_tasks() if "hedge" in task.get_name()])
    pool = fleet.mesh.pool("probe")
    assert all(endpoint.failures == 0 for endpoint in pool.endpoints.values()), "a loser has not failed"
    assert all(endpoint.in_flight == 0 for endpoint in pool.endpoints.values())


async def test_a_call_that_hangs_is_answered_by_another_instance(
    fleet: Fleet, eventually: Eventually
) -> None:
    await warm(fleet, eventually)
    client: Any = fleet.mesh.client(ProbeClient, hedge=("read", "List"))
    trailers: dict[str, str] = {}
    assert (await client.read(Text(value="x"), timeout=30, trailers=trailers)).value == "x"
    assert trailers["x-cu-instance"] in fleet.ids
    await only_one_hedge(fleet, "Read", eventually)
    replies = client.list(Text(value="x"), timeout=30)
    assert [reply.value async for reply in replies] == ["x0", "x1", "x2"]
    assert replies.instance in fleet.ids
    await only_one_hedge(fleet, "List", eventually)


async def test_a_stub_is_hedged_too(fleet: Fleet, eventually: Eventually) -> None:
    await warm(fleet, eventually)
    stub: Any = ProbeStub(fleet.mesh.channel("probe", hedge=(READ, LIST)))
    call = stub.Read(Text(value="x"), timeout=30)
    assert (await call).value == "x"
    assert await call.code() is grpc.StatusCode.OK
    assert dict(await call.trailing_metadata())["x-cu-instance"] in fleet.ids
    await only_one_hedge(fleet, "Read", eventually)
    assert [reply.value async for reply in stub.List(Text(value="x"), timeout=30)] == ["x0", "x1", "x2"]
    await only_one_hedge(fleet, "List", eventually)


async def test_a_hedged_call_given_up_is_given_up_everywhere(fleet: Fleet, eventually: Eventually) -> None:
    await warm(fleet, eventually)

    async def hang(request: Text, call: Call) -> Text:
        await asyncio.Event().wait()
        raise AssertionError

    fleet.behave(Read=hang)
    stub: Any = ProbeStub(fleet.mesh.channel("probe", hedge=(READ,)))
    call = stub.Read(Text(value="x"), timeout=30)
    await eventually(lambda: fleet.begun("Read") == 2)
    call.cancel()
    await only_one_hedge(fleet, "Read", eventually)


async def test_a_hedged_call_that_nobody_holds_ends_everywhere(fleet: Fleet, eventually: Eventually) -> None:
    await warm(fleet, eventually)
    client: Any = fleet.mesh.client(ProbeClient, hedge=("list",))
    async with client.list(Text(value="x")) as replies:
        async for reply in replies:
            assert reply.value == "x0"
            break
    del replies
    await only_one_hedge(fleet, "List", eventually)


@pytest.mark.parametrize(
    ("hedge", "why"),
    [
        (("write",), "/probe.v1.ProbeService/Write is not idempotent"),
        (("Follow",), "/probe.v1.ProbeService/Follow is not idempotent"),
        (("merge",), "/probe.v1.ProbeService/Merge takes a stream of requests"),
        (("reed",), "'reed' is no method that is known: there are read"),
    ],
)
async def test_methods_that_cannot_be_hedged_are_refused_at_once(
    fleet: Fleet, hedge: tuple[str, ...], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        fleet.mesh.client(ProbeClient, hedge=hedge)


async def test_a_channel_hedges_what_a_contract_describes(fleet: Fleet) -> None:
    for path, why in (
        ("/probe.v1.ProbeService/Write", "Write is not idempotent"),
        ("/probe.v1.ProbeService/Reed", "no contract that is loaded in this process has it"),
        ("/nobody.v1.Unknown/Get", "no contract that is loaded in this process has it"),
    ):
        with pytest.raises(ValueError, match=why):
            fleet.mesh.channel("probe", hedge=(path,))
    for make in (
        lambda: fleet.mesh.channel("probe", hedge=READ),
        lambda: fleet.mesh.client(ProbeClient, hedge="read"),
    ):
        with pytest.raises(TypeError, match="give a list of methods"):
            make()


async def silent(request: Text, call: Call) -> AsyncIterator[Text]:
    await asyncio.Event().wait()
    yield Text()


async def pausing(request: Text, call: Call) -> AsyncIterator[Text]:
    yield Text(value="one")
    await asyncio.Event().wait()


async def taken(replies: Any) -> list[str]:
    """What a stream brings until it fails, and then why it did."""
    got: list[str] = []
    try:
        async for reply in replies:
            got.append(reply.value)
    except MeshError as error:
        got.append(error.reason)
    return got


async def test_a_stream_that_stays_silent_is_given_up(fleet: Fleet, eventually: Eventually) -> None:
    fleet.behave(Follow=silent, List=silent)
    client: Any = fleet.mesh.client(ProbeClient, first_message_timeout=0.05)
    assert await taken(client.follow(Text())) == ["FIRST_MESSAGE_TIMEOUT"]
    assert fleet.begun("Follow") == 1, "what is not idempotent is not tried again"
    assert await taken(fleet.client.list(Text(), first_message_timeout=0.05)) == ["FIRST_MESSAGE_TIMEOUT"]
    assert sorted(probe.begun["List"] for probe in fleet.probes) == [1, 2], "another instance first"
    await eventually(lambda: sum(probe.ended["Follow"] + probe.ended["List"] for probe in fleet.probes) == 4)


async def test_another_instance_may_be_less_silent(fleet: Fleet) -> None:
    fleet.probes[0].behave["List"] = silent
    for _ in range(4):
        assert await taken(fleet.client.list(Text(value="x"), first_message_timeout=0.5)) == [
            "x0",
            "x1",
            "x2",
        ]


async def test_a_stream_that_pauses_is_given_up(fleet: Fleet, eventually: Eventually) -> None:
    fleet.behave(Follow=pausing, List=pausing, Talk=pausing)
    client: Any = fleet.mesh.client(ProbeClient, first_message_timeout=30, idle_timeout=0.05)
    assert await taken(client.list(Text())) == ["one", "IDLE_TIMEOUT"]
    assert await taken(client.talk([Text()])) == ["one", "IDLE_TIMEOUT"]
    assert await taken(fleet.client.follow(Text(), first_message_timeout=30, idle_timeout=0.05)) == [
        "one",
        "IDLE_TIMEOUT",
    ]
    assert fleet.begun("List") == 1, "nothing is tried again after the first reply"
    stub: Any = ProbeStub(fleet.mesh.channel("probe", first_message_timeout=30, idle_timeout=0.05))
    call = stub.List(Text())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        assert [reply async for reply in call]
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: all(probe.begun == probe.ended for probe in fleet.probes))


async def test_timeouts_that_cannot_be_meant_are_refused_without_a_call(fleet: Fleet) -> None:
    for make in (fleet.mesh.client, lambda kind, **how: fleet.mesh.channel("probe", **how)):
        with pytest.raises(ValueError, match="idle_timeout=-1"):
            make(ProbeClient, idle_timeout=-1)
    assert await taken(fleet.client.list(Text(), idle_timeout=0)) == ["TIMEOUT_MALFORMED"]
    with pytest.raises(InvalidArgument, match="Read gives one reply"):
        await fleet.client.read(Text(), first_message_timeout=1)
    assert fleet.begun("List") == fleet.begun("Read") == 0


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
async def test_a_deadline_that_has_passed_is_refused_without_a_call(fleet: Fleet, timeout: float) -> None:
    with pytest.raises(DeadlineExceeded, match=f"timeout={timeout:g}: probe was not called"):
        await fleet.client.read(Text(), timeout=timeout)
    with pytest.raises(DeadlineExceeded, match="was not called"):
        fleet.client.list(Text(), timeout=timeout)
    stub: Any = ProbeStub(fleet.mesh.channel("probe"))
    with pytest.raises(grpc.aio.AioRpcError, match="was not called") as caught:
        stub.Read(Text(), timeout=timeout)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert fleet.begun("Read") == fleet.begun("List") == 0
    assert all(endpoint.picks == 0 for endpoint in fleet.mesh.pool("probe").endpoints.values())


class LeastRecent:
    """A policy of a user's own: whoever was picked the longest ago."""

    def __init__(self) -> None:
        self.picked: dict[str, int] = {}
        self.outcomes: list[MeshError | None] = []

    def pick(self, candidates: Candidates, call: Call) -> Endpoint:
        chosen = min(candidates, key=lambda each: self.picked.get(each.instance.instance_id, 0))
        self.picked[chosen.instance.instance_id] = sum(self.picked.values()) + 1
        return chosen

    def done(self, endpoint: Endpoint, latency: float, error: MeshError | None) -> None:
        self.outcomes.append(error)


async def answering(client: Any, count: int, **how: Any) -> Counter[str]:
    answered: Counter[str] = Counter()
    for _ in range(count):
        trailers: dict[str, str] = {}
        await client.read(Text(), trailers=trailers, **how)
        answered[trailers["x-cu-instance"]] += 1
    return answered


async def test_a_policy_of_ones_own_is_a_class_with_two_methods(fleet: Fleet) -> None:
    mine = LeastRecent()
    client: Any = fleet.mesh.client(ProbeClient, policy=mine)
    assert await answering(client, 10) == Counter(dict.fromkeys(fleet.ids, 5))
    assert mine.outcomes == [None] * 10
    stub: Any = ProbeStub(fleet.mesh.channel("probe", policy=mine))
    await stub.Read(Text())
    assert len(mine.outcomes) == 11


async def test_a_policy_is_chosen_by_client_and_by_call(fleet: Fleet) -> None:
    sharded: Any = fleet.mesh.client(ProbeClient, policy="tenant_shard")
    assert len(await answering(sharded, 10, tenant="acme")) == 1
    assert await answering(sharded, 10, tenant="acme", policy="round_robin") == Counter(
        dict.fromkeys(fleet.ids, 5)
    )
    assert len(await answering(fleet.client, 10, tenant="acme", policy="tenant_shard")) == 1


async def test_clients_of_one_mesh_share_the_policy_of_a_name_and_two_meshes_do_not(fleet: Fleet) -> None:
    clients: list[Any] = [fleet.mesh.client(ProbeClient, policy="round_robin") for _ in range(2)]
    answered = Counter[str]()
    for turn in range(10):
        answered += await answering(clients[turn % 2], 1)
    assert answered == Counter(dict.fromkeys(fleet.ids, 5)), "they take turns as one"
    async with Mesh(fleet.mesh.config, fleet.local.registry) as other:
        other.pool("probe")
        mine, others = (each._policies["probe"] for each in (fleet.mesh, other))
        assert mine.named("peak_ewma") is mine.named("peak_ewma")
        assert mine.named("peak_ewma") is not others.named("peak_ewma")
        assert isinstance(mine.named("peak_ewma"), PeakEwma)
        assert mine.named(fleet.mesh.config.lb_policy_for("probe").value) is fleet.mesh.pool("probe").policy


async def test_an_unknown_policy_is_refused_and_those_that_there_are_are_named(fleet: Fleet) -> None:
    known = "least_request, peak_ewma, round_robin, tenant_shard"
    with pytest.raises(ValueError, match=f"no balancing policy is called 'random'; there are {known}"):
        fleet.mesh.client(ProbeClient, policy="random")
    with pytest.raises(ValueError, match=known):
        fleet.mesh.channel("probe", policy="random")
    with pytest.raises(InvalidArgument, match=known) as caught:
        await fleet.client.read(Text(), policy="random")
    assert caught.value.reason == "POLICY_UNKNOWN"
    with pytest.raises(InvalidArgument, match="by its name"):
        await fleet.client.read(Text(), policy=RoundRobin())
    for wrong in (RoundRobin, object(), None):
        with pytest.raises(TypeError, match="an object with the methods pick and done"):
            fleet.mesh.client(ProbeClient, policy=wrong)  # type: ignore[arg-type]
    assert fleet.begun("Read") == 0


class Whole(LeastRecent):
    whole_pool = True


async def test_who_needs_all_instances_is_refused_beside_a_subset_and_nobody_else() -> None:
    why = "chooses among all instances, and CU_LB_SUBSET_SIZE=1"
    async with LocalMesh(Probe, settings={"lb_subset_size": 1}) as mesh:
        with pytest.raises(ValueError, match=f"tenant_shard {why}"):
            mesh.client(ProbeClient, policy="tenant_shard")
        with pytest.raises(ValueError, match=f"Whole {why}"):
            mesh.channel("probe", policy=Whole())
        client: Any = mesh.client(ProbeClient, policy=LeastRecent())
        with pytest.raises(InvalidArgument, match=f"tenant_shard {why}") as caught:
            await client.read(Text(), tenant="acme", policy="tenant_shard")
        assert caught.value.reason == "POLICY_UNFIT"
        assert (await client.read(Text(value="x"), policy="round_robin")).value == "x"


class Broken(LeastRecent):
    """Fails as it is told."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def pick(self, candidates: Candidates, call: Call) -> Endpoint:
        if self.how == "raises":
            raise KeyError("a fault of the user's")
        if self.how == "none":
            return None  # type: ignore[return-value]
        chosen = super().pick(candidates, call)
        return Endpoint(chosen.instance, chosen.link) if self.how == "foreign" else chosen

    def done(self, endpoint: Endpoint, latency: float, error: MeshError | None) -> None:
        if self.how == "done raises":
            raise KeyError("a fault of the user's")


@pytest.mark.parametrize("how", ["raises", "none", "foreign"])
async def test_a_policy_that_fails_fails_the_call_and_nothing_else(fleet: Fleet, how: str) -> None:
    client: Any = fleet.mesh.client(ProbeClient, policy=Broken(how))
    with pytest.raises(Internal, match="the balancing policy Broken") as caught:
        await asyncio.wait_for(client.read(Text()), 10)
    assert caught.value.reason == "POLICY_FAILED"
    assert await taken(client.list(Text())) == ["POLICY_FAILED"]
    assert fleet.begun("Read") == 0
    assert all(endpoint.in_flight == 0 for endpoint in fleet.mesh.pool("probe").endpoints.values())
    assert (await fleet.client.read(Text(value="x"))).value == "x"


async def test_a_policy_that_fails_to_learn_does_not_fail_the_call(fleet: Fleet) -> None:
    client: Any = fleet.mesh.client(ProbeClient, policy=Broken("done raises"))
    assert (await client.read(Text(value="x"))).value == "x"


@pytest.mark.parametrize("options", [{}, {"hedge": ("read", "list")}, {"first_message_timeout": 5.0}])
async def test_options_change_nothing_of_what_works(options: dict[str, Any], eventually: Eventually) -> None:
    rng = random.Random(7)
    local = LocalMesh(Probe, replicas=3)
    async with local as mesh:
        fleet = Fleet(local, mesh)
        await fleet.connected()
        client: Any = mesh.client(ProbeClient, **options)

        seen: set[str] = set()

        async def slowly(request: Text, call: Call) -> Text:
            await asyncio.sleep(rng.choice((0.0, 0.0, 0.0, 0.01)))
            if request.value not in seen and rng.random() < 0.05:
                seen.add(request.value)
                raise Unavailable("the first time")
            return request

        fleet.behave(Read=slowly)

        async def some(worker: int) -> None:
            for number in range(60):
                value = f"{worker}-{number}"
                assert (await client.read(Text(value=value))).value == value
                assert [each.value async for each in client.list(Text(value=value))] == [
                    f"{value}{n}" for n in range(3)
                ]
                assert (await client.write(Text(value=value))).value == value

        await asyncio.gather(*(some(worker) for worker in range(4)))
        assert all(probe.begun["Write"] == probe.ended["Write"] for probe in fleet.probes)
        assert fleet.begun("Write") == 240
        await eventually(lambda: not [task for task in asyncio.all_tasks() if "hedge" in task.get_name()])
