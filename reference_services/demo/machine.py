"""The demo's mesh: the reference services as processes, with state and settings that touch nothing else."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from meshkit import Mesh, Program, SharedConfig, State, Supervisor
from meshkit.config import child_environment

if TYPE_CHECKING:
    from meshkit.child import Child

TARGETS = {
    "brain": "reference_services.brain.service:Brain",
    "router": "reference_services.router.service:Router",
    "worker": "reference_services.worker.service:Worker",
    "zero": "reference_services.zero.service:Zero",
    "shield": "reference_services.shield.service:Shield",
}
REPLICAS = {"brain": 3, "router": 2, "worker": 3, "zero": 2}
TENANT = "demo"
BOOT_SECONDS = 60.0

_OWN_SETTINGS = (
    "CU_",
    "GRPC_",
    "SERVICE_",
    "LOG_",
    "BRAIN_",
    "ROUTER_",
    "WORKER_",
    "ZERO_",
    "SHIELD_",
    "HARVEST_",
)


class NotAsWanted(Exception):
    """Something of the demo did not come about in time."""


@dataclass
class Machine:
    """The running mesh.

    Attributes:
        mesh: The way to its services.
        supervisor: Its processes.
        folder: Its state.
        killed: Names of the processes that were killed.
        names: The process's name by its instance id, of all instances that `remember` has met.
    """

    mesh: Mesh
    supervisor: Supervisor
    folder: Path
    killed: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    def child_of(self, service: str, shard_key: str) -> Child:
        """The process with that name."""
        return next(child for child in self.supervisor.children[service] if child.name == shard_key)

    async def remember(self) -> None:
        """Notes which process each instance is: the registry forgets those that die."""
        for service in REPLICAS:
            for one in await self.mesh.instances(service):
                self.names[one.instance_id] = one.shard_key

    def kill(self, child: Child) -> None:
        """Ends a process as a crash does."""
        child.signal(signal.SIGKILL)
        self.killed.append(child.name)

    async def freeze(self, child: Child, seconds: float) -> None:
        """Stops a process for a while."""
        child.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            child.signal(signal.SIGCONT)

    async def serving(self, service: str, replicas: int, seconds: float = BOOT_SECONDS) -> None:
        """Waits until that many replicas of a service serve.

        Raises:
            NotAsWanted: They do not in time.
        """
        try:
            async with asyncio.timeout(seconds), aclosing(self.mesh.watch(service)) as snapshots:
                async for snapshot in snapshots:
                    if sum(one.state is State.SERVING for one in snapshot.instances.values()) >= replicas:
                        return
        except TimeoutError:
            raise NotAsWanted(f"{replicas} replicas of {service} do not serve after {seconds:g} s") from None


@asynccontextmanager
async def machine(folder: Path, feeds: Path, *, shield: bool = False) -> AsyncGenerator[Machine, None]:
    """Starts everything, and ends it.

    Args:
        folder: Where all state and logs go.
        feeds: Folder that the worker may harvest from.
        shield: Whether tokens come from a Shield.

    Raises:
        NotAsWanted: Not everything serves in time.
    """
    port = _free_port() if shield else 0
    config = SharedConfig(
        namespace="demo",
        state_dir=folder / "state",
        tenant=TENANT,
        service_name="demo",
        shield_grpc_url=f"127.0.0.1:{port}" if shield else "",
    )
    config.ensure_state_dir()
    config.ensure_project_secrets()
    environment = child_environment(
        without=_OWN_SETTINGS,
        CU_NAMESPACE=config.namespace,
        CU_STATE_DIR=str(config.state_dir),
        CU_SHIELD_GRPC_URL=config.shield_grpc_url,
        HARVEST_ROOTS=str(feeds),
        HARVEST_BATCH_ROWS="20",
        WORKER_CONCURRENCY="2",
    )
    async with Supervisor(folder / "logs") as supervisor, Mesh(config) as mesh:
        started = Machine(mesh, supervisor, folder)
        wanted = {"shield": 1, **REPLICAS} if shield else REPLICAS
        for service, replicas in wanted.items():
            settings = {**environment, "GRPC_PORT": str(port if service == "shield" else 0)}
            await supervisor.scale(Program.serving(TARGETS[service], service, settings, folder), replicas)
        for service, replicas in wanted.items():
            await started.serving(service, replicas)
        await started.remember()
        yield started


def _free_port() -> int:
    """A port of loopback that nobody has at the moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port
