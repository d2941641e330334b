"""A replica's life: resources, background jobs, health, reflection, drain."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from meshkit import END, CUService, Exchange, Handler, Unavailable, every, resource
from meshkit.declaration import Job
from meshkit.jobs import repeat
from meshkit.testing import LocalMesh
from tests.serving.conftest import Running
from tests.serving.probe import CONTRACT, Probe, ProbeClient, Text

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

# --- resources --------------------------------------------------------------------------------------------------------

events: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    events.clear()


def opener(name: str, *, fails: bool = False, close_fails: bool = False) -> Any:
    @asynccontextmanager
    async def opened(service: Any) -> AsyncGenerator[str, None]:
        if fails:
            raise RuntimeError(f"{name} does not open")
        events.append(f"+{name}")
        try:
            yield name
        finally:
            events.append(f"-{name}")
            if close_fails:
                raise RuntimeError(f"{name} does not close")

    return opened


first, second, third, broken = (
    opener("first"),
    opener("second"),
    opener("third"),
    opener("broken", fails=True),
)


class Holding(Probe, contract=CONTRACT):
    one = resource(first)
    two = resource(second)
    three = resource(third)


async def test_resources_open_in_order_and_close_in_reverse() -> None:
    local = LocalMesh(Holding)
    async with local:
        assert events == ["+first", "+second", "+third"]
        holding: Any = local.service(local.instances[0])
        assert (holding.one, holding.two, holding.three) == ("first", "second", "third")
    assert events == ["+first", "+second", "+third", "-third", "-second", "-first"]


async def test_what_was_opened_is_closed_when_the_start_fails_in_the_middle() -> None:
    local = LocalMesh(Holding, overrides={third: broken})
    with pytest.raises(RuntimeError, match="broken does not open"):
        async with local:
            raise AssertionError
    assert events == ["+first", "+second", "-second", "-first"]
    assert local.instances == []


async def test_an_override_stands_in_for_an_opener() -> None:
    local = LocalMesh(Holding, overrides={second: opener("fake")})
    async with local:
        holding: Any = local.service(local.instances[0])
        assert holding.two == "fake"


async def test_resources_close_after_the_last_call_has_ended(forever: Any) -> None:
    local = LocalMesh(Holding)
    async with local as mesh:
        holding: Any = local.service(local.instances[0])
        release = asyncio.Event()

        async def slow(request: Text, call: Any) -> Text:
            await release.wait()
            events.append("answered")
            return request

        holding.behave["Write"] = slow
        call = asyncio.ensure_future(mesh.client(ProbeClient).write(Text(value="x"), timeout=30))
        await holding.until(lambda: holding.begun["Write"] == 1)
        draining = asyncio.ensure_future(local.drain(local.instances[0]))
        release.set()
        assert (await call).value == "x"
        await draining
    assert events.index("answered") < events.index("-third")


# --- middleware -------------------------------------------------------------------------------------------------------


async def test_a_users_middleware_sees_call_requests_and_replies_in_all_arities() -> None:
    seen: list[tuple[str, str, list[str], list[str]]] = []

    def watching(next: Handler) -> Handler:
        async def handle(exchange: Exchange) -> None:
            requests, replies = [], []
            receive, send = exchange.receive, exchange.send

            async def received() -> Any:
                message = await receive()
                if message is not END:
                    requests.append(message.value)
                return message

            async def sent(message: Any) -> None:
                replies.append(message.value)
                await send(Text(value=message.value.upper()))

            exchange.receive, exchange.send = received, sent
            if exchange.request is not None:
                requests.append(exchange.request.value)
            await next(exchange)
            seen.append((exchange.method.name, exchange.call.tenant, requests, replies))

        return handle

    class Watched(Probe, contract=CONTRACT, middleware=(watching,)):
        """Is watched."""

    async with LocalMesh(Watched) as mesh:
        client = mesh.client(ProbeClient)
        assert (await client.read(Text(value="a"), tenant="acme")).value == "A"
        assert [r.value async for r in client.list(Text(value="b"))] == ["B0", "B1", "B2"]
        assert (await client.collect([Text(value="c"), Text(value="d")])).value == "C,D"
        assert [r.value async for r in client.talk([Text(value="e")])] == ["E"]
    assert seen == [
        ("Read", "acme", ["a"], ["a"]),
        ("List", "local", ["b"], ["b0", "b1", "b2"]),
        ("Collect", "local", ["c", "d"], ["c,d"]),
        ("Talk", "local", ["e"], ["e"]),
    ]


# --- background jobs --------------------------------------------------------------------------------------------------


class Naps:
    """A sleep that the test ends."""

    def __init__(self) -> None:
        self.lengths: list[float] = []
        self._asleep = asyncio.Event()
        self._wake = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.lengths.append(seconds)
        self._wake.clear()
        self._asleep.set()
        await self._wake.wait()

    async def next(self) -> None:
        """Ends the nap, and waits for the one after it."""
        await self._asleep.wait()
        self._asleep.clear()
        self._wake.set()
        await self._asleep.wait()


async def test_a_job_runs_after_each_interval_with_jitter_and_survives_what_it_raises() -> None:
    naps, draws, runs = Naps(), iter([0.9, 1.1, 1.0, 0.95, 1.0]), []

    def uniform(low: float, high: float) -> float:
        assert (low, high) == (0.9, 1.1)
        return next(draws)

    async def run() -> None:
        runs.append(len(runs))
        if len(runs) == 1:
            raise RuntimeError("the first run fails")
        if len(runs) == 2:
            raise asyncio.CancelledError

    job = asyncio.create_task(
        repeat(run, Job("refresh", 30.0, 0.1), service="probe", sleep=naps, uniform=uniform)
    )
    for _ in range(3):
        await naps.next()
    assert runs == [0, 1, 2]
    assert naps.lengths == [27.0, 33.0, 30.0, 28.5]
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job


async def test_runs_of_a_job_do_not_overlap() -> None:
    naps, running, release = Naps(), asyncio.Event(), asyncio.Event()

    async def run() -> None:
        running.set()
        await release.wait()

    job = asyncio.create_task(repeat(run, Job("refresh", 1.0, 0.0), service="probe", sleep=naps))
    waking = asyncio.create_task(naps.next())
    await running.wait()
    assert naps.lengths == [1.0]
    release.set()
    await waking
    assert naps.lengths == [1.0, 1.0]
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)


async def test_jobs_run_while_the_service_serves_and_stop_at_its_drain() -> None:
    ran = asyncio.Event()
    cancelled = asyncio.Event()

    class Busy(Probe, contract=CONTRACT):
        @every(seconds=0.001)
        async def refresh(self) -> None:
            ran.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

    async with LocalMesh(Busy):
        await asyncio.wait_for(ran.wait(), 5)
        assert not cancelled.is_set()
    assert cancelled.is_set()


# --- health and reflection --------------------------------------------------------------------------------------------


def health(address: str) -> Any:
    return grpc.aio.insecure_channel(address)


async def test_health_is_told_by_check_list_and_watch(running: Running) -> None:
    async with health(running.replica.instance.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", "probe.v1.ProbeService"):
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="nope"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        listed = await stub.List(health_pb2.HealthListRequest())
        assert {name: each.status for name, each in listed.statuses.items()} == {
            "": SERVING,
            "probe.v1.ProbeService": SERVING,
        }
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="nope"))
        assert (await unknown.read()).status == UNKNOWN
        unknown.cancel()


async def test_an_instance_does_not_serve_before_its_start_is_complete() -> None:
    opening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    release = asyncio.Event()

    @asynccontextmanager
    async def slow(service: CUService) -> AsyncGenerator[str, None]:
        opening.set_result(service.instance.address)
        await release.wait()
        yield "open"

    class Slow(Probe, contract=CONTRACT):
        one = resource(slow)

    local = LocalMesh()
    async with local as mesh:
        starting = asyncio.create_task(local.start(Slow))
        async with health(await opening) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == NOT_SERVING
            assert (await stub.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/probe.v1.ProbeService/Write")(b"", timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert dict(caught.value.trailing_metadata())["x-cu-unprocessed"] == "1"
            assert await mesh.services() == []
            release.set()
            await starting
            assert (await watch.read()).status == SERVING
            watch.cancel()


async def test_watches_hear_of_a_drain_and_end_with_it(forever: Any) -> None:
    local = LocalMesh(Probe)
    async with local as mesh:
        instance = local.instances[0]
        replica: Any = local._running[instance]
        probe: Any = local.service(instance)
        probe.behave["Write"] = forever
        async with health(replica.instance.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            call = asyncio.ensure_future(mesh.client(ProbeClient).write(Text(), timeout=30))
            await probe.until(lambda: probe.begun["Write"] == 1)
            draining = asyncio.create_task(local.drain(instance))
            assert (await watch.read()).status == NOT_SERVING
            assert await watch.read() is grpc.aio.EOF
            assert not draining.done()
            call.cancel()
            await asyncio.wait_for(draining, 5)


async def test_a_drain_does_not_wait_for_watches(running: Running) -> None:
    async with health(running.replica.instance.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        await asyncio.wait_for(running.local.drain(running.local.instances[0]), 2)


async def test_reflection_tells_the_contracts_and_their_files(running: Running) -> None:
    async with health(running.replica.instance.address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)

        async def asks() -> AsyncIterator[Any]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            yield reflection_pb2.ServerReflectionRequest(file_containing_symbol="probe.v1.ProbeService")

        listed, file = [answer async for answer in stub.ServerReflectionInfo(asks())]
        names = {service.name for service in listed.list_services_response.service}
        assert {"probe.v1.ProbeService", "grpc.health.v1.Health"} <= names
        assert b"ProbeService" in file.file_descriptor_response.file_descriptor_proto[0]


async def test_calls_that_outlast_the_grace_are_ended_and_the_drain_ends(forever: Any) -> None:
    local = LocalMesh(Probe, settings={"drain_grace_s": 0.1})
    async with local as mesh:
        probe: Any = local.service(local.instances[0])
        probe.behave["Write"] = forever
        call = asyncio.ensure_future(mesh.client(ProbeClient).write(Text(), timeout=30))
        await probe.until(lambda: probe.begun["Write"] == 1)
        await asyncio.wait_for(local.drain(local.instances[0]), 5)
        assert probe.ended["Write"] == 1
        with pytest.raises(Unavailable):
            await call
