"""`meshkit run --processes` and `meshkit restart`: one service in several processes, replaced one by one."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient

from meshkit import Mesh, MeshError, SharedConfig
from meshkit.cli.processes import program_of
from meshkit.cli.restarting import Restarter
from meshkit.config import ConfigError
from meshkit.errors import DeadlineExceeded, InvalidArgument, NotFound
from meshkit.supervisor import Supervisor
from tests.cli.running import SECONDS, Up, meshkit
from tests.resilience.ports import free_ports
from tests.serving.probe import Probe

SECRET = "s" * 40


class Processes(Up):
    """`meshkit run --processes` under way."""

    verb = "run"

    def instances(self) -> dict[str, str]:
        """Instance id -> address of those that serve."""
        told = json.loads(meshkit(self.state, "services", "--json").stdout)["services"]
        return {
            each["instance"]: each["address"]
            for service in told
            for each in service["instances"]
            if each["state"] == "serving"
        }

    def pids(self) -> list[int]:
        """Its children."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]


def until(met: Callable[[], bool]) -> None:
    limit = time.monotonic() + SECONDS
    while not met():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.fixture(scope="module")
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Processes]:
    state = tmp_path_factory.mktemp("two")
    state.chmod(0o700)
    running = Processes(state, "--processes", "2", "main:Greeter", GRPC_PORT=str(port))
    for _ in range(2):
        running.until("serving")
    yield running
    assert running.end() == 0


def test_the_first_listens_on_the_services_port_and_restart_replaces_both(two: Processes, port: int) -> None:
    before = two.instances()
    assert f"127.0.0.1:{port}" in before.values()
    assert len(set(before.values())) == 2
    done = meshkit(two.state, "restart", "greeter", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"greeter": 2}), done.stderr
    after = two.instances()
    assert f"127.0.0.1:{port}" in after.values()
    assert (len(after), set(before) & set(after)) == (2, set())


def test_one_that_dies_is_started_again(two: Processes) -> None:
    before = set(two.instances())
    os.kill(two.pids()[-1], signal.SIGKILL)
    two.until("died")
    until(lambda: len(two.instances()) == 2 and set(two.instances()) != before)


def test_it_runs_once_on_a_state_folder(two: Processes) -> None:
    refused = meshkit(two.state, "run", "--processes", "2", "main:Greeter", GRPC_PORT="0")
    assert refused.returncode == 1
    assert f"process {two.process.pid}" in refused.stderr
    assert "meshkit restart greeter" in refused.stderr


def test_a_service_that_does_not_run_is_told(two: Processes, tmp_path: Path) -> None:
    unknown = meshkit(two.state, "restart", "greter")
    assert unknown.returncode == 2
    assert "did you mean greeter?" in unknown.stderr
    nothing = meshkit(tmp_path, "restart")
    assert nothing.returncode == 1
    assert "nothing to restart runs" in nothing.stderr


async def test_processes_on_one_port_are_replaced_without_a_failed_call(tmp_path: Path, port: int) -> None:
    """As under `dns://`: the registry knows an address and nothing of who listens there."""
    (own,) = free_ports(1)
    registry = f"static://greeter=127.0.0.1:{own}"
    settings = {"CU_REGISTRY_URL": registry, "GRPC_PORT": str(own), "CU_PROJECT_SECRET": SECRET}
    running = await asyncio.to_thread(
        Processes, tmp_path / "state", "--processes", "2", "main:Greeter", **settings
    )
    outcomes: Counter[str] = Counter()
    config = SharedConfig(state_dir=tmp_path, project_secret=SECRET, registry_url=registry)
    async with Mesh(config) as mesh:
        greeter = mesh.client(GreeterClient)
        await greeter.greet(pb.GreetRequest(name="Ada"), timeout=30)

        async def call() -> None:
            try:
                await greeter.greet(pb.GreetRequest(name="Ada"), timeout=10)
            except MeshError as error:
                outcomes[error.reason] += 1
            else:
                outcomes["OK"] += 1

        async with asyncio.TaskGroup() as calls:
            restarting = asyncio.create_task(asyncio.to_thread(meshkit, running.state, "restart", **settings))
            while not restarting.done():
                calls.create_task(call())
                await asyncio.sleep(0.02)
    assert restarting.result().stdout == "greeter: 2 replaced\n", restarting.result().stderr
    assert set(outcomes) == {"OK"}
    assert await asyncio.to_thread(running.end) == 0


def test_settings_of_one_process_are_refused_before_anything_is_started(tmp_path: Path) -> None:
    settings = {"GRPC_ADVERTISE": "greeter:50060", "CU_REGISTRY_URL": "memory://"}
    refused = meshkit(tmp_path, "run", "--processes", "2", "main:Greeter", **settings)
    assert refused.returncode == 78
    assert "GRPC_ADVERTISE" in refused.stderr
    assert "CU_REGISTRY_URL" in refused.stderr
    several = meshkit(tmp_path, "run", "--processes", "2", "main:Greeter", "main:Greeter")
    assert (several.returncode, "name one" in several.stderr) == (2, True)


def test_where_only_the_first_has_what_others_know(tmp_path: Path) -> None:
    config = SharedConfig(state_dir=tmp_path, grpc_port=50060, health_port=8080, shard_key="host-a")
    program = program_of("probe:Probe", Probe, config, 2)
    first, second = program.environment_of(1), program.environment_of(2)
    assert (first["GRPC_PORT"], first["CU_HEALTH_PORT"], first["CU_SHARD_KEY"]) == (
        "50060",
        "8080",
        "host-a-1",
    )
    assert (second["GRPC_PORT"], second["CU_HEALTH_PORT"], second["CU_SHARD_KEY"]) == ("0", "0", "host-a-2")
    shared = SharedConfig(state_dir=tmp_path, registry_url="dns://?probe=probe:50051", grpc_port=50051)
    program = program_of("probe:Probe", Probe, shared, 2)
    assert [program.environment_of(number)["GRPC_PORT"] for number in (1, 2)] == ["50051", "50051"]
    assert "--shares-port" in program.command
    with pytest.raises(ConfigError, match="name the port that the registry names"):
        program_of("probe:Probe", Probe, shared.model_copy(update={"grpc_port": 0}), 2)


async def test_a_request_that_makes_no_sense_is_refused_and_only_one_is_served_at_a_time(
    tmp_path: Path,
) -> None:
    turn = asyncio.Lock()
    async with Supervisor(tmp_path) as supervisor:
        restarter = Restarter(supervisor, ["echo"], turn)
        with pytest.raises(InvalidArgument, match="timeout_s"):
            await restarter.serve({"timeout_s": -1.0})
        with pytest.raises(NotFound, match="did you mean echo"):
            await restarter.serve({"services": ["ecko"]})
        assert await restarter.serve({}) == {"replaced": {"echo": 0}}
        async with turn:
            with pytest.raises(DeadlineExceeded, match="another scaling or restart is under way"):
                await restarter.serve({"timeout_s": 0.01})
