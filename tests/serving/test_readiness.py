"""What makes an instance ready: its resources, and the services that it depends on."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from meshkit import State, resource
from meshkit.lifecycle import Lifecycle
from meshkit.protocol import MeshClient, mesh
from meshkit.readiness import depend, look_after
from meshkit.testing import LocalMesh
from meshkit.transport.probing import probe
from tests.serving.probe import CONTRACT, Probe, ProbeClient, Text

Eventually = Callable[..., Awaitable[None]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a service that may be replaced, nor for the next look at a resource."""
    monkeypatch.setattr("meshkit.replica.depend", partial(depend, away=0.05))
    monkeypatch.setattr("meshkit.readiness.LOOK_S", 0.01)
    monkeypatch.setattr("meshkit.readiness.LOOK_AGAIN_S", 0.01)


class Needy(Probe, contract=CONTRACT, name="needy", depends_on=("probe",)):
    """Is not ready without the probe."""


class Egg(Probe, contract=CONTRACT, name="egg", depends_on=("hen",)):
    """Comes first."""


class Hen(Probe, contract=CONTRACT, name="hen", depends_on=("egg",)):
    """Comes first, too."""


class Store:
    """A database that may be away."""

    trouble: BaseException | None = None

    async def check(self) -> None:
        if self.trouble is not None:
            raise self.trouble


@asynccontextmanager
async def open_store(service: Any) -> AsyncGenerator[Store, None]:
    yield Store()


class Storing(Probe, contract=CONTRACT, name="storing"):
    """Has a database."""

    store = resource(open_store, check=Store.check)


def replica(local: LocalMesh, number: int = 0) -> Any:
    return local._running[local.instances[number]]


def is_ready(local: LocalMesh, number: int = 0) -> bool:
    ready: bool = replica(local, number).lifecycle.ready
    return ready


# --- other services ---------------------------------------------------------------------------------------------------


async def test_a_service_is_ready_once_what_it_depends_on_is_there_and_again_when_it_is_back(
    eventually: Eventually,
) -> None:
    local = LocalMesh(Needy)
    async with local:
        needy = replica(local)
        address = needy.instance.address
        found = await probe(address, timeout=5)
        assert (found.status, found.state, found.lacking) == ("NOT_SERVING", "serving", ("probe",))
        first = await local.start(Probe)
        await eventually(lambda: needy.lifecycle.ready)
        assert (await probe(address, timeout=5)).serves
        await local.kill(first)
        await eventually(lambda: not needy.lifecycle.ready)
        assert needy.lifecycle.state is State.SERVING
        assert "knows none" in needy.lifecycle.lacking["probe"]
        await local.start(Probe)
        await eventually(lambda: needy.lifecycle.ready)


async def test_what_is_lacking_is_logged_once_a_change(eventually: Eventually) -> None:
    local = LocalMesh(Needy)
    with capture_logs() as logs:
        async with local:
            await eventually(lambda: any(line["event"] == "not ready" for line in logs))
            await local.start(Probe)
            await eventually(lambda: is_ready(local))
    assert [line["event"] for line in logs if line["event"] in {"not ready", "there again"}] == [
        "not ready",
        "there again",
    ]


async def test_services_that_depend_on_each_other_come_up_both(eventually: Eventually) -> None:
    local = LocalMesh(Egg, Hen)
    async with local:
        await eventually(lambda: is_ready(local, 0) and is_ready(local, 1))


async def test_what_a_service_lacks_is_not_passed_on(eventually: Eventually) -> None:
    class Further(Probe, contract=CONTRACT, name="further", depends_on=("needy",)):
        """Depends on what is not ready."""

    local = LocalMesh(Needy, Further)
    async with local:
        further = next(each for each in local._running.values() if each.name == "further")
        await eventually(lambda: further.lifecycle.ready)


async def test_who_is_not_ready_is_called_only_while_nobody_is(eventually: Eventually) -> None:
    local = LocalMesh(Storing, replicas=2)
    async with local as mesh:
        client = mesh.client(ProbeClient, service="storing")
        stores = [replica(local, number).service.store for number in range(2)]
        services = [replica(local, number).service for number in range(2)]
        pool = mesh.pool("storing")
        await eventually(lambda: len(pool.selection().everywhere) == 2)
        stores[0].trouble = ConnectionError("the database is away")
        await eventually(lambda: len(pool.selection().everywhere) == 1)
        for _ in range(10):
            await client.read(Text(value="x"))
        assert [each.begun["Read"] for each in services] == [0, 10]
        stores[1].trouble = ConnectionError("the database is away")
        await eventually(lambda: pool.selection().degraded)
        assert len(pool.selection().everywhere) == 2
        assert (await client.read(Text(value="y"))).value == "y"
        stores[0].trouble = None
        await eventually(lambda: not pool.selection().degraded)
        assert len(pool.selection().everywhere) == 1


# --- resources --------------------------------------------------------------------------------------------------------


async def test_a_resource_that_cannot_be_used_is_told_to_all_who_ask(eventually: Eventually) -> None:
    local = LocalMesh(Storing)
    async with local as caller:
        storing = replica(local)
        assert is_ready(local)
        storing.service.store.trouble = ConnectionError("10.0.0.7 does not answer")
        await eventually(lambda: not is_ready(local))
        async with grpc.aio.insecure_channel(storing.instance.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            told = (await stub.Check(health_pb2.HealthCheckRequest())).SerializeToString()
            listed = await stub.List(health_pb2.HealthListRequest())
        assert b"store" in told
        assert b"10.0.0.7" not in told, "anybody may ask after the health"
        assert {each.status for each in listed.statuses.values()} == {
            health_pb2.HealthCheckResponse.NOT_SERVING
        }
        inspecting = caller.client(MeshClient, service="storing", permissions=["mesh:inspect"])
        described = await inspecting.describe(mesh.DescribeRequest())
        assert described.state == "serving"
        assert dict(described.lacking) == {"store": "ConnectionError: 10.0.0.7 does not answer"}
        storing.service.store.trouble = None
        await eventually(lambda: is_ready(local))


async def test_an_override_is_not_checked() -> None:
    @asynccontextmanager
    async def fake(service: Any) -> AsyncGenerator[str, None]:
        yield "no store at all"

    local = LocalMesh(Storing, overrides={open_store: fake})
    async with local:
        assert not replica(local)._tasks


async def test_one_look_that_fails_says_nothing_and_those_after_it_come_sooner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("meshkit.readiness.LOOK_S", 2.0)
    monkeypatch.setattr("meshkit.readiness.LOOK_AGAIN_S", 0.5)
    outcomes = iter([None, OSError("closed"), None, OSError("closed"), OSError("away"), None])
    lifecycle = Lifecycle("probe", "probe-1")
    pauses: list[float] = []
    seen: list[dict[str, str]] = []

    async def check() -> None:
        if failure := next(outcomes):
            raise failure

    async def sleep(seconds: float) -> None:
        seen.append(dict(lifecycle.lacking))
        if len(seen) == 7:
            raise asyncio.CancelledError
        pauses.append(seconds)

    with pytest.raises(asyncio.CancelledError):
        await look_after(lifecycle, "store", check, sleep=sleep, uniform=lambda low, high: high / 1.2)
    assert seen == [{}, {}, {}, {}, {}, {"store": "OSError: away"}, {}]
    assert pauses == [pytest.approx(pause) for pause in (2.0, 2.0, 0.5, 2.0, 0.5, 0.5)]


# --- the states -------------------------------------------------------------------------------------------------------


async def test_an_instance_goes_through_its_states_and_all_who_show_them_agree(
    eventually: Eventually,
) -> None:
    local = LocalMesh(Probe)
    async with local:
        one = replica(local)
        seen: list[tuple[State, int]] = []
        registered: set[State] = set()

        async def follow() -> None:
            async for snapshot in local.registry.watch("probe"):
                registered.update(each.state for each in snapshot.instances.values())

        def note() -> None:
            seen.append((one.lifecycle.state, one.health._answer.status))

        note()
        one.lifecycle.follow(note)
        following = asyncio.create_task(follow())
        await eventually(lambda: registered == {State.SERVING})
        await local.drain(local.instances[0])
        following.cancel()
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert seen == [
        (State.SERVING, serving),
        (State.DRAINING, not_serving),
        (State.STOPPED, not_serving),
    ]
    assert registered == {State.SERVING, State.DRAINING}
