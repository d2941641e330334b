"""What an instance says of its health decides whether it gets calls: a long stream over each connection."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer as StockHealth
from structlog.testing import capture_logs

from meshkit import State
from meshkit.testing import LocalMesh
from meshkit.transport import health_watch
from meshkit.transport.health import Health
from meshkit.transport.health_watch import HealthWatch
from tests.serving.probe import Probe, ProbeClient, Text
from tests.transport.peer import HOLD, NOT_SERVING, SERVICE_UNKNOWN, SERVING, Peer, Scripted, call_over

Eventually = Callable[..., Awaitable[None]]

# --- who gets calls ---------------------------------------------------------------------------------------------------


async def test_a_link_is_ready_while_the_instance_says_that_it_serves(
    serve: Any, dial: Any, eventually: Eventually
) -> None:
    health = Health(("probe.v1.ProbeService",))
    changes: list[bool] = []
    link = dial(await serve(health), lambda: changes.append(link.ready))
    await eventually(lambda: link._channel.get_state() is grpc.ChannelConnectivity.READY)
    assert not link.ready
    health.set(State.SERVING)
    await eventually(lambda: link.ready)
    health.set(State.DRAINING)
    await eventually(lambda: not link.ready)
    assert link._channel.get_state() is grpc.ChannelConnectivity.READY
    health.set(State.SERVING)
    await eventually(lambda: link.ready)
    assert changes[-3:] == [True, False, True]


@pytest.mark.parametrize(
    "health",
    [
        None,
        Scripted((grpc.StatusCode.UNAUTHENTICATED,)),
        Scripted((grpc.StatusCode.PERMISSION_DENIED,)),
    ],
    ids=["without", "asks for a token", "refuses"],
)
async def test_an_instance_that_does_not_tell_is_taken_to_serve(
    serve: Any, dial: Any, eventually: Eventually, health: Any
) -> None:
    link = dial(await serve(health))
    await eventually(lambda: link.ready)
    assert health is None or health.opened == 1


async def test_a_server_that_does_not_know_itself_gets_no_calls_and_the_log_says_the_mend(
    serve: Any, dial: Any, eventually: Eventually
) -> None:
    health = Scripted((SERVICE_UNKNOWN, SERVING, HOLD))
    with capture_logs() as logs:
        link = dial(await serve(health))
        await eventually(lambda: link.ready)
    (entry,) = logs
    assert entry["instance"] == "probe-1"
    assert "set the status of the empty name" in entry["event"]


async def test_calls_under_way_are_not_cut_when_the_instance_stops_serving(
    serve: Any, dial: Any, eventually: Eventually
) -> None:
    health = Health(())
    health.set(State.SERVING)
    peer = await serve(health)
    link = dial(peer)
    await eventually(lambda: link.ready)
    calling, replies = call_over(link)
    await peer.begun.wait()
    health.set(State.DRAINING)
    await eventually(lambda: not link.ready)
    peer.release.set()
    await asyncio.wait_for(calling, 10)
    assert replies == [b"asked"]


async def test_in_a_mesh_an_instance_that_reports_trouble_gets_no_calls_whatever_the_registry_says() -> None:
    local = LocalMesh(Probe, replicas=2)
    async with local as mesh:
        pool, client = mesh.pool("probe"), mesh.client(ProbeClient)
        await until(pool, 2)
        sick: Any = local._running[local.instances[0]]
        sick.health.set(State.DRAINING)
        await until(pool, 1)
        for _ in range(10):
            await client.read(Text(value="a"))
        assert sick.service.begun["Read"] == 0
        sick.health.set(State.SERVING)
        await until(pool, 2)


async def until(pool: Any, usable: int) -> None:
    async with asyncio.timeout(10):
        while sum(endpoint.usable for endpoint in pool.endpoints.values()) != usable:
            await pool.changed()


# --- streams that break -----------------------------------------------------------------------------------------------


class Naps:
    """A sleep that ends at once, and remembers how long it was to be; after the last one it does not end."""

    def __init__(self, count: int) -> None:
        self.lengths: list[float] = []
        self._count = count
        self.over = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.lengths.append(seconds)
        if len(self.lengths) == self._count:
            self.over.set()
            await asyncio.Event().wait()


async def followed(peer: Peer, naps: Naps, check: Callable[[HealthWatch], Any]) -> Any:
    """What a check says of a watch that was followed until its last nap."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{peer.port}") as channel:
        await channel.channel_ready()
        watch = HealthWatch(
            channel, lambda: None, name="probe-1", sleep=naps, uniform=lambda low, high: (low, high)[1]
        )
        following = asyncio.create_task(watch.follow())
        try:
            await asyncio.wait_for(naps.over.wait(), 10)
            outcome = check(watch)
            return await outcome if inspect.isawaitable(outcome) else outcome
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            assert not watch.serving


@pytest.mark.parametrize("status", [SERVING, NOT_SERVING])
async def test_when_a_stream_breaks_its_last_answer_holds(serve: Any, status: int) -> None:
    unavailable = (grpc.StatusCode.UNAVAILABLE,)
    peer = await serve(Scripted((status, *unavailable), unavailable, unavailable))
    serving = await followed(peer, Naps(3), lambda watch: watch.serving)
    assert serving is (status == SERVING)


async def test_on_a_new_connection_that_brings_no_answer_the_last_one_holds(serve: Any) -> None:
    unavailable = (grpc.StatusCode.UNAVAILABLE,)
    health = Scripted((SERVING, *unavailable), unavailable)
    peer = await serve(health)
    naps = Naps(1)
    async with grpc.aio.insecure_channel(peer.address) as channel:
        await channel.channel_ready()
        watch = HealthWatch(channel, lambda: None, name="probe-1", sleep=naps)
        for opened in (1, 2):
            naps.over.clear()
            naps.lengths.clear()
            following = asyncio.create_task(watch.follow())
            await asyncio.wait_for(naps.over.wait(), 10)
            assert health.opened == opened
            assert watch.serving
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            assert not watch.serving


async def test_an_instance_that_never_answered_is_not_taken_to_serve(serve: Any) -> None:
    peer = await serve(Scripted((grpc.StatusCode.UNAVAILABLE,)))
    with capture_logs() as logs:
        assert not await followed(peer, Naps(4), lambda watch: watch.serving)
    (entry,) = logs
    assert entry["why"] == "UNAVAILABLE: as the script says"
    assert entry["taken_as"] == "not serving"


async def test_streams_are_reopened_ever_more_slowly_and_at_once_slowly_after_an_answer(serve: Any) -> None:
    broken = (grpc.StatusCode.UNAVAILABLE,)
    peer = await serve(Scripted(*(7 * [broken]), (SERVING, *broken), broken))
    naps = Naps(9)
    await followed(peer, naps, lambda _: None)
    assert naps.lengths == [1, 2, 4, 8, 16, 30, 30, 1, 2]


async def test_a_stream_that_brings_no_answer_is_given_up_in_time(
    serve: Any, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(health_watch, "FIRST_ANSWER_S", 0.05)
    health = Scripted((HOLD,))
    with capture_logs() as logs:
        assert not await followed(await serve(health), Naps(2), lambda watch: watch.serving)
    assert logs[0]["why"] == "no answer within 0.05 s"
    await eventually(lambda: health.open == 0)


async def test_what_is_no_answer_is_not_taken_for_one(
    serve: Any, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(health_pb2.HealthCheckResponse, "SerializeToString", lambda _: b"\xff\xff")
    health = Scripted((SERVING, HOLD))
    peer = await serve(health)

    async def is_left(watch: HealthWatch) -> None:
        assert not watch.serving
        await eventually(lambda: health.open == 0)

    await followed(peer, Naps(2), is_left)
    assert health.opened == 2


async def test_over_a_new_connection_the_instance_is_asked_anew(
    serve: Any, dial: Any, eventually: Eventually
) -> None:
    peer = await serve(Scripted((SERVING, HOLD)))
    link = dial(peer)
    await eventually(lambda: link.ready)
    await peer.server.stop(0)
    await eventually(lambda: not link.ready)
    peer.health = Scripted((NOT_SERVING, HOLD))
    await peer.start()
    await eventually(lambda: peer.health.open == 1)
    assert not link.ready
    await peer.server.stop(0)
    peer.health = Scripted((SERVING, HOLD))
    await peer.start()
    await eventually(lambda: link.ready)


# --- leaving nothing behind -------------------------------------------------------------------------------------------


def our_tasks() -> set[asyncio.Task[Any]]:
    """All tasks but those of the server in this process, which it makes as it is called."""
    return {task for task in asyncio.all_tasks() if "AioServer" not in repr(task)}


async def test_a_closed_link_leaves_no_task_and_no_stream(
    serve: Any, dial: Any, eventually: Eventually
) -> None:
    health = Scripted((SERVING, HOLD))
    peer = await serve(health)
    before = our_tasks()
    link = dial(peer)
    await eventually(lambda: link.ready)
    assert health.open == 1
    await link.close(30)
    await eventually(lambda: health.open == 0 and our_tasks() <= before)


async def test_a_link_that_is_closed_while_it_waits_to_ask_again_leaves_no_task(
    serve: Any, dial: Any, eventually: Eventually
) -> None:
    health = Scripted((SERVING,))
    peer = await serve(health)
    before = our_tasks()
    link = dial(peer)
    await eventually(lambda: link.ready and health.opened == 1 and health.open == 0)
    await link.close(0)
    await eventually(lambda: our_tasks() <= before)


async def test_a_server_that_stops_does_not_wait_for_our_watch(
    serve: Any, dial: Any, eventually: Eventually
) -> None:
    """gRPC's own health service ends no watch, so a stop would last its whole grace."""
    health = StockHealth()
    peer = await serve(health)
    link = dial(peer)
    await eventually(lambda: link.ready)
    await health.enter_graceful_shutdown()
    await asyncio.wait_for(peer.server.stop(60), 10)
    assert not link.ready


async def test_the_watch_takes_no_place_of_a_call_and_is_told_of_health_when_calls_are_refused() -> None:
    local = LocalMesh(Probe)
    async with local as mesh:
        pool = mesh.pool("probe")
        await until(pool, 1)
        (replica,) = local._running.values()
        assert replica.server.calls == 0
        replica.admission.refusing = "DRAINING"
        replica.health.set(State.DRAINING)
        await until(pool, 0)
        replica.health.set(State.SERVING)
        await until(pool, 1)
