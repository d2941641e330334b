"""Calls at a steady rate while keys are rotated; what of them failed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient

from meshkit import SharedConfig
from meshkit.discovery.memory import MemoryRegistry
from meshkit.errors import MeshError
from meshkit.mesh import Mesh
from meshkit.redis.database import Database
from meshkit.redis.sealing import Sealer
from meshkit.replica import Replica
from meshkit.security.keys import Grants, KeyRow, KeyStatus
from meshkit.security.projects import ProjectTable
from tests.security.services import Echo

RATE = 200
UNDER_WAY = 40
"""Calls at once at most: a machine too busy for the rate must not be buried in calls that wait for it."""

OLD, NEW = "an-old-secret-of-the-shop-that-was-good", "a-new-secret-of-the-shop-that-is-better"
EVERYTHING = Grants(frozenset({"*"}), frozenset({"*"}), frozenset({"*"}))
SEALING = "a:" + "A" * 43


class Callers:
    """Makes calls at a rate, with whichever mesh is the present one."""

    def __init__(self, mesh: Mesh, *, service: str = "echo") -> None:
        self.mesh = mesh
        self._service = service
        self.made = 0
        self.failed: Counter[str] = Counter()
        self._under_way: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[None]:
        ticking = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            ticking.cancel()
            await asyncio.gather(*self._under_way)

    async def calls(self, count: int) -> None:
        """Waits until so many more calls were made, and those that were under way have ended."""
        until = self.made + count
        while self.made < until:
            await asyncio.sleep(0.005)
        await asyncio.gather(*tuple(self._under_way))

    async def _tick(self) -> None:
        began, begun = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - began) * RATE)
            for _ in range(min(due - begun, UNDER_WAY - len(self._under_way))):
                task = asyncio.create_task(self._call())
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            begun = due
            await asyncio.sleep(1 / RATE)

    async def _call(self) -> None:
        client = self.mesh.client(GreeterClient, service=self._service)
        try:
            await client.greet(pb.GreetRequest(name="Ada"), tenant="acme", timeout=20)
        except MeshError as error:
            self.failed[error.reason] += 1
        self.made += 1


def config_of(folder: Path, secrets: str, **settings: Any) -> SharedConfig:
    return SharedConfig(
        grpc_port=0, state_dir=folder, project_secret=secrets, drain_propagation_s=0.05, **settings
    )


async def rotate_own_secret(folder: Path, calls: int) -> Callers:
    """Rolls two replicas and their callers through `new`, `rotate` and `retire`, one after the other."""
    registry = MemoryRegistry()
    replicas: list[Replica] = []

    async def roll(secrets: str) -> Mesh:
        config = config_of(folder, secrets)
        for _ in range(2):
            fresh = Replica(Echo, config, registry)
            await fresh.start()
            replicas.append(fresh)
        while len(replicas) > 2:
            await replicas.pop(0).drain()
        return Mesh(config, registry)

    meshes = [await roll(f"old:{OLD}")]
    callers = Callers(meshes[0])
    try:
        async with callers.calling():
            for secrets in (f"old:{OLD},new:{NEW}", f"new:{NEW},old:{OLD}", f"new:{NEW}"):
                await callers.calls(calls)
                meshes.append(await roll(secrets))
                callers.mesh = meshes[-1]  # callers are restarted after the services
                await callers.calls(calls)
    finally:
        for mesh in meshes:
            await mesh.close()
        for replica in replicas:
            await replica.drain()
    return callers


Write = Callable[[Sequence[KeyRow]], Awaitable[None]]


def row(kid: str, secret: str | None, status: KeyStatus = KeyStatus.ACTIVE) -> KeyRow:
    return KeyRow("shop", kid, status, EVERYTHING, secret=secret.encode() if secret else None)


async def rotate_other_project(
    folder: Path,
    settings: dict[str, Any],
    write: Write,
    known: Callable[[Replica, str], Awaitable[bool]],
    calls: int,
) -> Callers:
    """Rotates the key of a calling project, while the service runs on."""
    registry = MemoryRegistry()
    await write([row("old", OLD)])
    replica = Replica(Echo, config_of(folder, "k1:" + "x" * 40, **settings), registry)
    await replica.start()
    meshes = [
        Mesh(config_of(folder, f"{kid}:{secret}", project_id="shop"), registry)
        for kid, secret in (("old", OLD), ("new", NEW))
    ]
    callers = Callers(meshes[0])
    try:
        async with callers.calling():
            await callers.calls(calls)
            await write([row("old", OLD), row("new", NEW)])
            while not await known(replica, "new"):
                await asyncio.sleep(0.01)
            callers.mesh = meshes[1]
            await callers.calls(calls)
            await write([row("new", NEW), row("old", None, KeyStatus.RETIRED)])
            await callers.calls(calls)
    finally:
        for mesh in meshes:
            await mesh.close()
        await replica.drain()
    return callers


def into_file(path: Path) -> Write:
    """Writes rows as a keys file."""

    async def write(rows: Sequence[KeyRow]) -> None:
        beside = path.with_suffix(".new")
        beside.touch(0o600)
        beside.write_text("\n".join(map(_toml, rows)))
        beside.replace(path)

    return write


def _toml(row: KeyRow) -> str:
    secret = f'secret = "{row.secret.decode()}"\n' if row.secret else ""
    grants = 'tenants = ["*"], permissions = ["*"], subjects = ["*"]'
    return (
        f'[[key]]\nproject = "{row.project}"\nkid = "{row.kid}"\nstatus = "{row.status.value}"\n{secret}'
        f"grants = {{ {grants} }}\n"
    )


def into_store(database: Database, sealer: Sealer) -> Write:
    """Writes rows into the project store."""
    table = ProjectTable(database, namespace="contextunity", sealer=sealer, author="a test")

    async def write(rows: Sequence[KeyRow]) -> None:
        for each in rows:
            await table.change(each.project, each.kid, lambda _before, each=each: each)  # type: ignore[misc]

    return write


async def known_to(replica: Replica, kid: str) -> bool:
    """Whether a replica knows the shop's key of that name."""
    return await replica._guard.verifier._ring.find("shop", kid) is not None
