"""A mesh of processes in which instances come, go, die and stand still: Redis and mTLS, tokens of Shield, metrics."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshkit import Mesh, MeshError, SharedConfig
from meshkit.balancing.pool import EndpointPool
from meshkit.child import Child, Program, Restarts
from meshkit.redis.server import LocalServer, free_port
from meshkit.security.certificates.folder import CertificateFolder, settings_of
from meshkit.supervisor import Supervisor
from tests.certificates import Certificates
from tests.redis.servers import tls_server

ROOT = Path(__file__).resolve().parents[2]

STAYING = 2
"""Greeters that nothing happens to."""

USUAL, MOST = 4, 6
"""Greeters that there are in quiet moments, and at most."""

GATES = 2
PATIENCE_S = 120.0
SKEW_S = 5
"""Seconds by which a call may be late at a process that stood still."""

STILL_S = (0.5, 3.0)
"""Seconds for which a process stands still, between these."""

SOON_S = 10.0
"""Seconds after an instance was harmed within which a stream through a gate may break."""

SETTINGS: Mapping[str, Any] = {
    "tenant": "soak",
    "lease_ttl_s": 3,
    "clock_skew_s": SKEW_S,
    "token_ttl_s": 60,
    "drain_grace_s": 10,
    "drain_propagation_s": 0.5,
    "log_level": "WARNING",
}


@dataclass
class Churned:
    """The mesh, and what is done to it.

    Attributes:
        redis: Where its registry is.
        supervisor: Runs its processes.
        programs: What they run, by service.
        mesh: The client's.
        dice: Decides what happens.
        events: What has happened, and how often.
        harmed: Instances whose streams could not but break.
        harmed_at: When the last one of them was harmed, by `time.monotonic`.
    """

    redis: LocalServer
    supervisor: Supervisor
    programs: Mapping[str, Program]
    mesh: Mesh
    dice: random.Random
    events: Counter[str] = field(default_factory=Counter)
    harmed: set[str] = field(default_factory=set)
    harmed_at: float = float("-inf")
    _still: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def greeters(self) -> list[Child]:
        return self.supervisor.children["greeter"]

    @property
    def staying(self) -> dict[str, int]:
        """Process ids of those that live through it all, by name."""
        children = [*self.greeters[:STAYING], *self.supervisor.children["gate"]]
        children += self.supervisor.children["shield"]
        return {child.name: child.pid or 0 for child in children}

    def page_of(self, service: str) -> int:
        """Port of the page of metrics that the first process of a service has."""
        return int(self.programs[service].first["METRICS_PORT"])

    async def churn(self) -> None:
        """Has one thing happen to one greeter."""
        victims = [child for child in self.greeters[STAYING:] if child.serving]
        happenings: dict[str, Callable[[], None]] = {}
        if len(self.greeters) < MOST:
            happenings["added"] = lambda: self._scale(len(self.greeters) + 1)
        if len(self.greeters) > STAYING + 1:
            happenings["drained"] = lambda: self._scale(len(self.greeters) - 1)
        if victims:
            happenings["killed"] = lambda: self._kill(self.dice.choice(victims))
            happenings["stopped"] = lambda: self._stop(self.dice.choice(victims))
        happened = self.dice.choice(list(happenings))
        self.events[happened] += 1
        happenings[happened]()

    async def calm(self) -> None:
        """Brings it to its usual size, and waits until everybody sees everybody, and nobody else."""
        await asyncio.gather(*self._still)
        self._scale(USUAL)
        await self.until(lambda: all(child.serving for child in self.greeters), "all greeters serve")
        await self.supervisor.gone(self.supervisor.leaving("greeter"))
        pool = self.mesh.pool("greeter")
        await self.until(lambda: _is_settled(pool, USUAL), "the client is connected to all greeters")

    def explains(self, error: MeshError) -> bool:
        """Whether a stream broke with an instance that was harmed, or behind a gate soon after one was."""
        behind = (error.instance or "").startswith("gate-") and error.code == "UNAVAILABLE"
        return error.instance in self.harmed or (behind and time.monotonic() - self.harmed_at < SOON_S)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Waits until a condition holds that nothing announces."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not within {PATIENCE_S:g} s: {what}") from None

    def _scale(self, greeters: int) -> None:
        self.supervisor.resize(self.programs["greeter"], greeters)

    def _kill(self, child: Child) -> None:
        self._harm(child)
        child.signal(signal.SIGKILL)

    def _stop(self, child: Child) -> None:
        """Has it stand still for a while: its calls hang, and it may lose its lease."""
        self._harm(child)
        child.signal(signal.SIGSTOP)
        going_on = asyncio.create_task(self._go_on(child, self.dice.uniform(*STILL_S)))
        self._still.add(going_on)
        going_on.add_done_callback(self._still.discard)

    async def _go_on(self, child: Child, seconds: float) -> None:
        await asyncio.sleep(seconds)
        child.signal(signal.SIGCONT)

    def _harm(self, child: Child) -> None:
        self.harmed_at = time.monotonic()
        shard = f"greeter-{child.number}"
        known = self.mesh.pool("greeter").endpoints.values()
        self.harmed |= {each.instance.instance_id for each in known if each.instance.shard_key == shard}


@asynccontextmanager
async def churned(folder: Path, seed: int) -> AsyncIterator[Churned]:
    """Starts it all; it ends with the block."""
    certificates = CertificateFolder(folder / "tls", "contextunity")
    certificates.ensure(["greeter", "gate", "shield", "client"])
    shield_port = free_port()
    async with tls_server(
        folder / "redis", Certificates.make(folder / "for-redis"), password="soak"
    ) as redis:
        settings = {
            **SETTINGS,
            "state_dir": folder,
            "redis_url": redis.url,
            "redis_secret_key": f"k1:{base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}",
            "project_secret": secrets.token_hex(32),
            "shield_grpc_url": f"127.0.0.1:{shield_port}",
            **settings_of(certificates),
        }
        programs = _programs(settings, shield_port)
        restarts = Restarts(first=0.2, most=1.0)
        async with Supervisor(folder / "logs", restarts=restarts) as supervisor:
            for name, replicas in {"shield": 1, "greeter": USUAL, "gate": GATES}.items():
                supervisor.resize(programs[name], replicas)
            async with Mesh(SharedConfig(**settings, metrics_port=1)) as mesh:  # its calls are counted
                made = Churned(redis, supervisor, programs, mesh, random.Random(seed))
                greeters, gates = mesh.pool("greeter"), mesh.pool("gate")
                await made.until(lambda: _is_settled(greeters, USUAL), "all greeters serve")
                await made.until(lambda: _is_settled(gates, GATES), "all gates serve")
                yield made


def _programs(settings: Mapping[str, Any], shield_port: int) -> dict[str, Program]:
    """What runs. One process of a service has a page of metrics."""
    environment = {
        **{SharedConfig.env_name(name): str(value) for name, value in settings.items()},
        "GRPC_PORT": "0",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "examples" / "greeter"))),
    }
    targets = {
        "shield": ("reference_services.shield.service:Shield", {"GRPC_PORT": str(shield_port)}),
        "greeter": ("main:Greeter", {"METRICS_PORT": str(free_port())}),
        "gate": ("tests.soak.gate:Gate", {"METRICS_PORT": str(free_port())}),
    }
    return {
        name: Program.serving(target, name, environment, first=first)
        for name, (target, first) in targets.items()
    }


def _is_settled(pool: EndpointPool, instances: int) -> bool:
    endpoints = pool.endpoints.values()
    return len(endpoints) == instances and all(each.usable for each in endpoints) and not pool._leaving
