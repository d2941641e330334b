"""The demo's mesh: the reference services as processes, with state and settings that touch nothing else."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from meshkit.cli.output import Failure
from meshkit.cli.up import REFERENCE
from meshkit.config import SharedConfig, child_environment
from meshkit.discovery import Registry, open_registry
from meshkit.instance import Instance, State
from meshkit.mesh import Mesh
from meshkit.supervisor import Child, Restarts, Supervisor, python_program

REPLICAS = {"brain": 3, "router": 2, "worker": 3, "zero": 2}
TENANT = "demo"
BOOT_SECONDS = 60.0

_OWN_SETTINGS = ("CU_", "GRPC_", "SERVICE_", "LOG_", "BRAIN_", "ROUTER_", "WORKER_", "ZERO_", "HARVEST_")


@dataclass
class Machine:
    """The running mesh.

    Attributes:
        mesh: The way to its services.
        supervisor: Its processes.
        folder: Its state.
    """

    mesh: Mesh
    supervisor: Supervisor
    folder: Path

    async def instance_of(self, child: Child) -> Instance:
        """What a process registered, once it did."""
        async with aclosing(self.mesh.registry.watch(child.program.service)) as snapshots:
            async for snapshot in snapshots:
                for instance in snapshot.instances.values():
                    if instance.shard_key == child.name:
                        return instance
        raise Failure(f"{child.name} never registered; its log is {child.log}")

    def child_of(self, service: str, shard_key: str) -> Child:
        """The process with that name."""
        return next(child for child in self.supervisor.children[service] if child.name == shard_key)

    def kill(self, child: Child) -> None:
        """Ends a process as a crash does."""
        child.signal(signal.SIGKILL)

    async def freeze(self, child: Child, seconds: float) -> None:
        """Stops a process for a while."""
        child.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            child.signal(signal.SIGCONT)

    async def until(self, service: str, met: Callable[[list[Instance]], bool], seconds: float) -> list[Instance]:
        """Waits until the serving instances of a service are as wanted.

        Raises:
            Failure: They are not in time.
        """
        try:
            async with asyncio.timeout(seconds):
                return await _watch_until(self.mesh.registry, service, met)
        except TimeoutError:
            raise Failure(f"{service}: not as wanted after {seconds:g} s; logs are in {self.folder / 'logs'}") from None


async def _watch_until(
    registry: Registry, service: str, met: Callable[[list[Instance]], bool]
) -> list[Instance]:
    async with aclosing(registry.watch(service)) as snapshots:
        async for snapshot in snapshots:
            serving = [one for one in snapshot.instances.values() if one.state is State.SERVING]
            if met(serving):
                return serving
    raise Failure("the registry was closed")


@asynccontextmanager
async def machine(feeds: Path, *, keep: bool) -> AsyncGenerator[Machine, None]:
    """Starts everything, and ends it.

    Args:
        feeds: Folder that the worker may harvest from.
        keep: Whether to keep the state folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="meshkit-demo-"))
    done = False
    try:
        config = SharedConfig(namespace="demo", state_dir=folder / "state", tenant=TENANT, service_name="demo")
        config.ensure_state_dir()
        config.ensure_project_secrets()
        registry = open_registry(config.effective_registry_url, lease_ttl=config.lease_ttl_s)
        environment = child_environment(
            without=_OWN_SETTINGS,
            CU_NAMESPACE=config.namespace,
            CU_STATE_DIR=str(config.state_dir),
            GRPC_PORT="0",
            HARVEST_ROOTS=str(feeds),
            HARVEST_BATCH_ROWS="20",
            WORKER_CONCURRENCY="2",
        )
        async with (
            Supervisor(folder / "logs", restarts=Restarts()) as supervisor,
            Mesh(config, registry, owns_registry=True) as mesh,
        ):
            for service, replicas in REPLICAS.items():
                program = python_program(REFERENCE[service], service, environment, folder)
                await supervisor.scale(program, replicas)
            started = Machine(mesh, supervisor, folder)
            for service, replicas in REPLICAS.items():
                await started.until(service, lambda found, wanted=replicas: len(found) >= wanted, BOOT_SECONDS)  # type: ignore[misc]
            yield started
        done = True
    finally:
        if done and not keep:
            shutil.rmtree(folder, ignore_errors=True)
