"""Resources that must be closed by the task that opened them, and resources that fail."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from meshkit import Runtime, SharedConfig, resource
from meshkit.discovery.memory import MemoryRegistry
from meshkit.replica import LAST_MOMENT_S, Replica
from meshkit.testing import LocalMesh
from tests.serving.probe import CONTRACT, Probe, ProbeClient, Text

CURRENT: ContextVar[str] = ContextVar("current", default="outside")

events: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    events.clear()


@asynccontextmanager
async def a_task_group(_service: object) -> AsyncGenerator[asyncio.TaskGroup, None]:
    try:
        async with asyncio.TaskGroup() as group:
            polling = group.create_task(asyncio.Event().wait())
            try:
                yield group
            finally:
                polling.cancel()
    finally:
        events.append("group closed")


@asynccontextmanager
async def a_variable(_service: object) -> AsyncGenerator[str, None]:
    token = CURRENT.set("inside")
    try:
        yield CURRENT.get()
    finally:
        CURRENT.reset(token)
        events.append(f"variable reset to {CURRENT.get()}")


@asynccontextmanager
async def failing(_service: object) -> AsyncGenerator[None, None]:
    raise OSError("no such disk")
    yield


@asynccontextmanager
async def hiding(_service: object) -> AsyncGenerator[None, None]:
    try:
        yield
    except OSError:
        events.append("hidden")


class Never:
    """A resource that does not open, nor close, by itself."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def wait(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    @asynccontextmanager
    async def opening(self, _service: object) -> AsyncGenerator[None, None]:
        await self.wait()
        yield

    @asynccontextmanager
    async def closing(self, _service: object) -> AsyncGenerator[None, None]:
        yield
        await self.wait()


class Holding(Probe, contract=CONTRACT):
    group = resource(a_task_group)
    variable = resource(a_variable)


BOTH = ["variable reset to outside", "group closed"]


def config(path: Path, **values: Any) -> SharedConfig:
    given = {"project_secret": "s" * 40, "state_dir": path, "grpc_port": 0, "drain_propagation_s": 0.0}
    return SharedConfig(**{**given, **values})


async def test_a_task_group_and_a_context_variable_are_left_where_they_were_entered() -> None:
    local = LocalMesh(Holding)
    async with local as mesh:
        assert (await mesh.client(ProbeClient).read(Text(value="a"))).value == "a"
        holding: Any = local.service(local.instances[0])
        assert holding.variable == "inside"
        assert events == []
    assert events == BOTH


async def test_a_kill_closes_them_too() -> None:
    local = LocalMesh(Holding)
    async with local:
        await local.kill(local.instances[0])
        assert events == BOTH


async def test_they_are_closed_when_a_later_one_does_not_open() -> None:
    class Broken(Holding, contract=CONTRACT):
        disk = resource(failing)

    with pytest.raises(OSError, match="no such disk"):
        async with LocalMesh(Broken):
            raise AssertionError
    assert events == BOTH


async def test_what_does_not_open_is_named() -> None:
    class Broken(Probe, contract=CONTRACT):
        disk = resource(failing)

    with pytest.raises(OSError, match="no such disk") as caught:
        async with LocalMesh(Broken):
            raise AssertionError
    assert caught.value.__notes__ == ["That was while the resource Broken.disk was opened."]


async def test_an_opener_that_gives_no_context_manager_is_named() -> None:
    class Broken(Probe, contract=CONTRACT):
        disk = resource(lambda service: 3)  # type: ignore[arg-type,return-value]

    with pytest.raises(TypeError, match=r"the opener of Broken\.disk gives a int: let it give"):
        async with LocalMesh(Broken):
            raise AssertionError


async def test_a_resource_cannot_hide_that_a_later_one_did_not_open() -> None:
    class Broken(Probe, contract=CONTRACT):
        curtain = resource(hiding)
        disk = resource(failing)

    with pytest.raises(OSError, match="no such disk"):
        async with LocalMesh(Broken):
            raise AssertionError
    assert events == ["hidden"]


async def test_a_start_that_is_cancelled_cancels_what_is_opening_and_closes_what_is_open() -> None:
    never = Never()

    class Slow(Holding, contract=CONTRACT):
        late = resource(never.opening)

    local = LocalMesh()
    async with local:
        starting = asyncio.create_task(local.start(Slow))
        await asyncio.wait_for(never.begun.wait(), 10)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(starting, 10)
        assert never.cancelled.is_set()
        assert events == BOTH
        assert local.instances == []


async def test_somebody_in_a_hurry_does_not_wait_for_a_resource_for_ever(tmp_path: Path) -> None:
    never, hurry = Never(), asyncio.Event()

    class Slow(Probe, contract=CONTRACT):
        slow = resource(never.closing)

    registry = MemoryRegistry()
    replica = Replica(Slow, config(tmp_path), registry)
    await replica.start()
    draining = asyncio.create_task(replica.drain(hurry))
    await asyncio.wait_for(never.begun.wait(), 10)
    assert not draining.done()
    hurry.set()
    await asyncio.wait_for(draining, LAST_MOMENT_S + 10)
    await asyncio.wait_for(never.cancelled.wait(), 10)
    await registry.close()


def failure_of(stop: asyncio.Event) -> Callable[[Any], Any]:
    @asynccontextmanager
    async def opened(_service: object) -> AsyncGenerator[None, None]:
        async def poll() -> None:
            await stop.wait()
            raise OSError("the disk went away")

        async with asyncio.TaskGroup() as group:
            group.create_task(poll())
            yield

    return opened


async def test_a_resource_that_fails_while_the_service_runs_ends_the_process_and_is_told(
    tmp_path: Path, eventually: Any
) -> None:
    unplug = asyncio.Event()

    class Frail(Probe, contract=CONTRACT, name="frail"):
        disk = resource(failure_of(unplug))

    class Other(Holding, contract=CONTRACT, name="other"):
        """Runs beside it."""

    registry = MemoryRegistry()
    configs: Any = {Frail: config(tmp_path), Other: config(tmp_path)}
    runtime = Runtime(Frail, Other, configs=configs, registry=registry)
    serving = asyncio.create_task(runtime.serve(asyncio.Event()))
    await eventually(lambda: set(registry._instances) == {"frail", "other"})
    with capture_logs() as logs:
        unplug.set()
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(serving, 20)
    assert "the disk went away" in str(caught.value.exceptions[0])
    assert [each["service"] for each in logs if each["event"] == "the resources are lost"] == ["frail"]
    assert events == BOTH, "the other service was drained"
    await registry.close()
