"""Retries over real connections: refusals, replicas that drain, die and come back, under load."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from meshkit import ResourceExhausted, Unavailable
from meshkit.replica import Replica
from meshkit.testing import LocalMesh
from tests.resilience.fleet import Fleet
from tests.serving.probe import Probe, ProbeClient, Text, gather_values


def refusing(kind: type, *, times: int, pushback: float | None = None) -> Any:
    left = times

    async def refuse(request: Text, call: Any) -> Text:
        nonlocal left
        left -= 1
        if left >= 0:
            error = kind("refused")
            error.pushback = pushback
            raise error
        return request

    return refuse


async def test_an_unavailable_of_a_handler_is_tried_again_for_an_idempotent_method_only(fleet: Fleet) -> None:
    fleet.behave(Read=refusing(Unavailable, times=1), Write=refusing(Unavailable, times=1))
    assert (await fleet.client.read(Text(value="x"))).value == "x"
    assert [probe.begun["Read"] for probe in fleet.probes] == [1, 1], "another instance comes first"
    with pytest.raises(Unavailable):
        await fleet.client.write(Text(value="x"))
    assert fleet.begun("Write") == 1


async def test_a_full_instance_is_tried_again_where_it_says_when(fleet: Fleet) -> None:
    fleet.behave(Read=refusing(ResourceExhausted, times=1, pushback=0.01))
    assert (await fleet.client.read(Text(value="x"))).value == "x"
    fleet.behave(Read=refusing(ResourceExhausted, times=1))
    with pytest.raises(ResourceExhausted):
        await fleet.client.read(Text(value="x"))
    fleet.behave(Read=refusing(ResourceExhausted, times=1, pushback=-1.0))
    with pytest.raises(ResourceExhausted):
        await fleet.client.read(Text(value="x"))


async def test_an_instance_that_is_overloaded_is_left_for_another_by_any_method(fleet: Fleet) -> None:
    fleet.replicas[0].admission.change(max_calls=0)
    for number in range(6):
        assert (await fleet.client.write(Text(value=str(number)))).value == str(number)
    assert [probe.begun["Write"] for probe in fleet.probes] == [0, 6]


@pytest.mark.parametrize("reason", ["STARTING", "DRAINING"])
async def test_a_refusal_before_the_handler_is_tried_elsewhere_for_every_method(
    fleet: Fleet, reason: str
) -> None:
    fleet.replicas[0].admission.refusing = reason
    for number in range(4):
        assert (await fleet.client.write(Text(value=str(number)))).value == str(number)
        assert (await fleet.client.collect([Text(value="a"), Text(value="b")])).value == "a,b"
        assert [r.value async for r in fleet.client.talk([Text(value="a")])] == ["a"]
        assert [r.value async for r in fleet.client.follow(Text(value="f"))] == ["f0", "f1", "f2"]
    assert fleet.probes[0].begun.total() == 0
    assert fleet.probes[1].begun.total() == 16


async def test_an_only_instance_that_starts_is_waited_for() -> None:
    local = LocalMesh(Probe)
    async with local as mesh:
        fleet = Fleet(local, mesh)
        fleet.replicas[0].admission.refusing = "STARTING"
        call = asyncio.ensure_future(fleet.client.write(Text(value="x")))
        pool = mesh.pool("probe")
        async with asyncio.timeout(5):
            while not any(endpoint.resting for endpoint in pool.endpoints.values()):
                await asyncio.sleep(0.005)
        fleet.replicas[0].admission.refusing = None
        assert (await call).value == "x"


async def test_nothing_is_tried_again_after_the_first_reply(fleet: Fleet) -> None:
    async def break_off(request: Text, call: Any) -> AsyncIterator[Text]:
        yield Text(value="one")
        raise Unavailable("broken off")

    fleet.behave(List=break_off)
    got: list[str] = []
    with pytest.raises(Unavailable):
        await gather_values(fleet.client.list(Text()), got)
    assert got == ["one"]
    assert fleet.begun("List") == 1


async def test_a_stream_that_fails_before_its_first_reply_is_tried_again(fleet: Fleet) -> None:
    left = [1]

    async def fail_first(request: Text, call: Any) -> AsyncIterator[Text]:
        if left:
            left.pop()
            raise Unavailable("not yet")
        yield Text(value="one")

    fleet.behave(List=fail_first)
    assert [reply.value async for reply in fleet.client.list(Text())] == ["one"]


async def test_requests_are_sent_again_where_few_were_taken_and_not_where_many_were(fleet: Fleet) -> None:
    left = [1, 1]

    async def fail_after_all(requests: AsyncIterator[Text], call: Any) -> Text:
        count = 0
        async for _ in requests:
            count += 1
        if left:
            left.pop()
            raise Unavailable("lost")
        return Text(value=str(count))

    fleet.behave(Merge=fail_after_all)
    assert (await fleet.client.merge([Text(value="x" * 1000)] * 100)).value == "100"
    assert fleet.begun("Merge") == 3
    left.append(1)
    with pytest.raises(Unavailable):
        await fleet.client.merge([Text(value="x" * 1000)] * 400)
    assert fleet.begun("Merge") == 4


async def test_requests_that_the_caller_failed_to_give_are_not_sent_again(fleet: Fleet) -> None:
    async def broken() -> AsyncIterator[Text]:
        yield Text(value="a")
        raise Unavailable("the source is away")

    with pytest.raises(Unavailable, match="the source is away"):
        await fleet.client.merge(broken())
    assert fleet.begun("Merge") <= 1


async def test_the_budget_is_shared_and_when_it_is_spent_failures_are_the_callers(fleet: Fleet) -> None:
    while fleet.mesh.budget.withdraw():
        pass
    fleet.behave(Read=refusing(Unavailable, times=1))
    with pytest.raises(Unavailable):
        await fleet.client.read(Text())
    assert fleet.begun("Read") == 1


async def test_a_service_nobody_serves_is_waited_for_and_then_named() -> None:
    async with LocalMesh() as mesh:
        with pytest.raises(Unavailable) as caught:
            await mesh.client(ProbeClient).read(Text(), timeout=0.05)
        assert caught.value.reason == "NO_INSTANCE"
        assert "probe" in caught.value.message
        assert "memory://" in caught.value.message


async def test_an_instance_that_appears_takes_the_call_that_waits_for_it() -> None:
    local = LocalMesh()
    async with local as mesh:
        call = asyncio.ensure_future(mesh.client(ProbeClient).write(Text(value="x"), timeout=10))
        await asyncio.sleep(0)
        await local.start(Probe)
        assert (await call).value == "x"


class Load:
    """Calls without pause until it is told to stop."""

    def __init__(self, fleet: Fleet, method: str, workers: int = 8) -> None:
        self.call = getattr(fleet.client, method)
        self.sent: list[str] = []
        self.failures: list[BaseException] = []
        self.done = 0
        self._stop = False
        self._changed = asyncio.Event()
        self._tasks = [asyncio.create_task(self._work(number)) for number in range(workers)]

    async def _work(self, worker: int) -> None:
        number = 0
        while not self._stop:
            value = f"{worker}-{number}"
            number += 1
            self.sent.append(value)
            try:
                await self.call(Text(value=value), timeout=10)
            except Exception as failure:
                self.failures.append(failure)
            self.done += 1
            self._changed.set()

    async def more(self, calls: int) -> None:
        target = self.done + calls
        async with asyncio.timeout(20):
            while self.done < target:
                self._changed.clear()
                await self._changed.wait()

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)


async def test_draining_replicas_one_after_the_other_under_load_loses_no_call(fleet: Fleet) -> None:
    load = Load(fleet, "write")
    for _ in range(3):
        await load.more(200)
        fresh = await fleet.local.start(Probe)
        fleet.probes.append(fleet.local.service(fresh))
        await fleet.local.drain(fleet.local.instances[0])
    await load.more(200)
    await load.stop()
    assert load.failures == []
    assert fleet.executions() == Counter(load.sent), "each call was executed exactly once"


async def test_a_drain_that_no_caller_heard_of_in_time_loses_no_call_either() -> None:
    local = LocalMesh(Probe, replicas=2, settings={"drain_propagation_s": 0.0})
    async with local as mesh:
        fleet = Fleet(local, mesh)
        await fleet.connected()
        for _ in range(5):
            load = Load(fleet, "write", workers=16)
            await load.more(100)
            fresh = await fleet.local.start(Probe)
            fleet.probes.append(local.service(fresh))
            replica = local._running[local.instances[0]]
            replica._lease, lease = None, replica._lease
            await local.drain(local.instances[0])
            assert lease is not None
            await lease.release()
            await load.stop()
            assert load.failures == []
            assert fleet.executions() == Counter(load.sent), "each call was executed exactly once"
            for probe in fleet.probes:
                probe.values.clear()


async def test_a_call_cut_off_by_its_server_is_unavailable_and_only_idempotent_ones_are_tried_again(
    fleet: Fleet, eventually: Any
) -> None:
    async def wait_once(request: Text, call: Any) -> Text:
        if fleet.begun("Read") + fleet.begun("Write") <= 2:
            await asyncio.Event().wait()
        return request

    fleet.behave(Read=wait_once, Write=wait_once)
    read = asyncio.ensure_future(fleet.client.read(Text(value="r"), timeout=30))
    write = asyncio.ensure_future(fleet.client.write(Text(value="w"), timeout=30))
    await eventually(lambda: fleet.begun("Read") + fleet.begun("Write") == 2)
    for each in fleet.ids:
        await fleet.local.start(Probe)
        await fleet.local.kill(each)
    assert (await read).value == "r"
    with pytest.raises(Unavailable):
        await write


async def test_killing_a_replica_under_load_fails_no_idempotent_call(fleet: Fleet) -> None:
    load = Load(fleet, "read")
    await load.more(200)
    await fleet.local.kill(fleet.ids[0])
    await load.more(200)
    await load.stop()
    assert load.failures == []


async def test_an_instance_started_anew_on_the_address_of_another_gets_its_calls() -> None:
    local = LocalMesh(Probe)
    async with local as mesh:
        client = mesh.client(ProbeClient)
        await client.write(Text(value="warm"))
        old = local._running.pop(local.instances[0])
        assert old.instance is not None
        port = int(old.instance.address.rpartition(":")[2])
        await old.kill()

        fresh = Replica(Probe, local._config(Probe.config_class(), {"grpc_port": port}), local.registry)
        fresh.bind()
        registering = asyncio.Event()
        register = local.registry.register

        async def register_when_told(instance: Any) -> Any:
            await registering.wait()
            return await register(instance)

        local.registry.register = register_when_told  # type: ignore[method-assign]
        starting = asyncio.create_task(fresh.start())
        call = asyncio.ensure_future(client.write(Text(value="x"), timeout=10))
        await until_connected(mesh, old.instance_id)
        assert not call.done(), "an instance that starts is given no calls"
        registering.set()
        await starting
        local._running[fresh.instance_id] = fresh
        assert (await call).value == "x"
        pool, written = mesh.pool("probe"), 1
        async with asyncio.timeout(10):
            while not any(endpoint.resting for endpoint in pool.endpoints.values()):
                await client.write(Text(value="x"), timeout=10)
                written += 1
        local.registry.expire("probe", old.instance_id)
        probe: Any = fresh.service
        assert probe.values == Counter(x=written), (
            "calls for the old one were refused and went to the new one"
        )


async def until_connected(mesh: Any, instance_id: str) -> None:
    link = mesh.pool("probe").endpoints[instance_id].link
    async with asyncio.timeout(10):
        while link._channel.get_state() is not grpc.ChannelConnectivity.READY:
            await asyncio.sleep(0.005)
