"""The runtime within one process: several services, their failures, their end."""

import asyncio
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from main import Greeter

from meshkit import CUService, Runtime, SharedConfig, State, resource
from meshkit.config import ConfigError
from meshkit.discovery.memory import MemoryRegistry
from meshkit.transport.server import PortTaken
from tests.serving.probe import CONTRACT, Probe

SECRET = "s" * 40


def config(path: Path, **values: Any) -> SharedConfig:
    given: dict[str, Any] = {
        "project_secret": SECRET,
        "state_dir": path,
        "grpc_port": 0,
        "drain_propagation_s": 0.0,
    }
    return SharedConfig(**{**given, **values})


async def instances(registry: MemoryRegistry, service: str) -> list[State]:
    async for snapshot in registry.watch(service):
        return [each.state for each in snapshot.instances.values()]
    return []


async def test_several_services_run_in_one_process_each_on_a_port_of_its_own(
    tmp_path: Path, eventually: Any
) -> None:
    registry, stop = MemoryRegistry(), asyncio.Event()
    runtime = Runtime(
        Greeter, Probe, configs={Greeter: config(tmp_path), Probe: config(tmp_path)}, registry=registry
    )
    running = asyncio.create_task(runtime.serve(stop))
    await eventually(lambda: set(registry._instances) == {"greeter", "probe"})
    assert await instances(registry, "greeter") == [State.SERVING]
    addresses = {replica.instance.address for replica in runtime.replicas if replica.instance}
    assert len(addresses) == 2
    stop.set()
    await asyncio.wait_for(running, 10)
    assert await instances(registry, "greeter") == []


async def test_a_service_that_cannot_start_ends_the_others_in_order(tmp_path: Path) -> None:
    events: list[str] = []

    @asynccontextmanager
    async def held(service: Any) -> AsyncGenerator[str, None]:
        events.append("open")
        yield "held"
        events.append("closed")

    @asynccontextmanager
    async def broken(service: Any) -> AsyncGenerator[str, None]:
        raise OSError("no such disk")
        yield "never"

    class Held(Probe, contract=CONTRACT, name="held"):
        one = resource(held)

    class Broken(Probe, contract=CONTRACT, name="broken"):
        one = resource(broken)

    registry = MemoryRegistry()
    runtime = Runtime(
        Held, Broken, configs={Held: config(tmp_path), Broken: config(tmp_path)}, registry=registry
    )
    with pytest.raises(OSError, match="no such disk"):
        await asyncio.wait_for(runtime.serve(asyncio.Event()), 10)
    assert events == ["open", "closed"]
    assert await instances(registry, "held") == []


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        runtime = Runtime(Probe, configs={Probe: config(tmp_path, grpc_port=port)}, registry=MemoryRegistry())
        with pytest.raises(PortTaken, match=f"127.0.0.1:{port}"):
            await runtime.serve(asyncio.Event())


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
async def test_a_host_that_is_not_this_machine_is_named(tmp_path: Path, host: str) -> None:
    configs: dict[Any, SharedConfig] = {Probe: config(tmp_path, grpc_host=host)}
    with pytest.raises(
        PortTaken, match=rf"^{host} is no address of this machine \(.+\): set GRPC_HOST to one$"
    ):
        await Runtime(Probe, configs=configs, registry=MemoryRegistry()).serve(asyncio.Event())


def test_two_services_of_a_process_cannot_want_one_port(tmp_path: Path) -> None:
    class Other(Greeter, contract=Greeter.definition.contract, name="other"):
        pass

    same = {Greeter: config(tmp_path, grpc_port=50999), Other: config(tmp_path, grpc_port=50999)}
    with pytest.raises(
        ConfigError, match=r"greeter and other both want port 50999; give Other another port="
    ):
        Runtime(Greeter, Other, configs=same).configure()
    free = {Greeter: config(tmp_path, grpc_port=0), Other: config(tmp_path, grpc_port=0)}
    assert Runtime(Greeter, Other, configs=free).configure() == free


def test_the_settings_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[SharedConfig] = []

    class Counted(SharedConfig):
        @classmethod
        def load(cls, environ: Any = None, *, shared_process: bool = False, **overrides: Any) -> Any:
            read.append(config(tmp_path))
            return read[-1]

    class Stopping(Probe, contract=CONTRACT):
        config: Counted

        def __init__(self, **options: Any) -> None:
            assert options["config"] is read[0]
            super().__init__(**options)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("meshkit.telemetry.logs.configure", lambda *_args, **_options: None)
    assert Runtime(Stopping, registry=MemoryRegistry()).run() == 0
    assert len(read) == 1


def test_a_runtime_needs_services_and_each_once() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Runtime()
    with pytest.raises(ValueError, match="probe is there twice"):
        Runtime(Probe, Greeter, Probe)
    for none in ("main:Probe", CUService):
        with pytest.raises(TypeError, match="is no service: give subclasses of CUService"):
            Runtime(none)  # type: ignore[arg-type]


async def test_an_event_loop_that_runs_already_is_told_of() -> None:
    with pytest.raises(RuntimeError, match="an event loop, and here one runs already"):
        Runtime(Probe).run()


async def test_a_stop_while_a_resource_is_opening_ends_the_start(tmp_path: Path) -> None:
    opening, closed = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def never_opens(_service: object) -> AsyncGenerator[str, None]:
        opening.set()
        try:
            await asyncio.Event().wait()
            yield "never"
        finally:
            closed.set()

    class Slow(Greeter, contract=Greeter.definition.contract):
        thing = resource(never_opens)

    stop = asyncio.Event()
    runtime = Runtime(Slow, configs={Slow: config(tmp_path)}, registry=MemoryRegistry())
    serving = asyncio.create_task(runtime.serve(stop))
    await opening.wait()
    stop.set()
    await asyncio.wait_for(serving, 10)
    assert closed.is_set()


async def test_a_port_that_is_taken_frees_the_ports_taken_before(tmp_path: Path) -> None:
    holder = socket.create_server(("127.0.0.1", 0))
    with socket.create_server(("127.0.0.1", 0)) as lent:
        free = lent.getsockname()[1]

    class Other(Greeter, contract=Greeter.definition.contract, name="other"):
        pass

    configs = {
        Greeter: config(tmp_path, grpc_port=free),
        Other: config(tmp_path, grpc_port=holder.getsockname()[1]),
    }
    with pytest.raises(PortTaken):
        await Runtime(Greeter, Other, configs=configs, registry=MemoryRegistry()).serve(asyncio.Event())
    holder.close()
    socket.create_server(("127.0.0.1", free)).close()
