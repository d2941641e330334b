"""`LocalMesh`: the mesh in one process, for tests. The network is real; the registry is in memory."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from meshkit.config import SharedConfig
from meshkit.discovery.memory import MemoryRegistry
from meshkit.mesh import Mesh
from meshkit.parts import Overrides
from meshkit.replica import Replica
from meshkit.security.certificates import ANYBODY
from meshkit.testing.faults import Faults
from meshkit.testing.targets import Known

if TYPE_CHECKING:
    from meshkit.service import CUService
    from meshkit.testing.clock import Clock


class LocalMesh:
    """Runs services in this process for the length of an `async with`, whose value is a `Mesh` to call them with.

        async with LocalMesh(Greeter, Brain, overrides={open_phrasebook: fake}) as mesh:
            await mesh.client(GreeterClient).greet(...)

    Each instance listens on a free port of loopback. Settings are the defaults and what is given here; the environment
    is not read. State goes to a folder that is removed at the end.

    Args:
        *services: Classes of the services.
        replicas: How many instances of each; or of single services, by class.
        overrides: Openers of resources, each with the one to use in its stead.
        settings: Settings of all services and of the mesh, by field name.
        configs: Settings of single services, by class, as a mapping by field name.
        tenant: The tenant of calls that name none.
        seed: Of the randomness of its faults.
        clock: What the delays of its faults are measured by, so that no test waits for them; see `Clock`.
        tls: Whether all connections are mTLS, with certificates of an authority that is made for it. Whoever calls
            from the test is the peer `client`.
    """

    def __init__(
        self,
        *services: type[CUService],
        replicas: int | Mapping[type[Any], int] = 1,
        overrides: Overrides | None = None,
        settings: Mapping[str, Any] | None = None,
        configs: Mapping[type[Any], Mapping[str, Any]] | None = None,
        tenant: str = "local",
        seed: int = 0,
        clock: Clock | None = None,
        tls: bool = False,
    ) -> None:
        self._services = services
        self._replicas = replicas
        self._overrides = overrides
        self._settings = {"tenant": tenant, "drain_propagation_s": 0.05, **(settings or {})}
        self._configs = configs or {}
        self._secret = secrets.token_urlsafe(32)
        self._state: tempfile.TemporaryDirectory[str] | None = None
        self._mesh: Mesh | None = None
        self._running: dict[str, Replica] = {}
        self._seed = seed
        self._clock = clock
        self._faults: Faults | None = None
        self._tls = tls
        self.registry = MemoryRegistry()

    async def __aenter__(self) -> Mesh:
        self._state = tempfile.TemporaryDirectory(prefix="meshkit-")
        try:
            await asyncio.gather(
                *(self.start(kind) for kind in self._services for _ in range(self._count(kind)))
            )
            self._mesh = Mesh(self._config(SharedConfig, {}), self.registry)
            if self._faults is not None:
                self._faults.attach(self._mesh)
        except BaseException:
            await self._stop()
            raise
        return self._mesh

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    @property
    def instances(self) -> Sequence[str]:
        """Ids of the instances that run."""
        return list(self._running)

    @property
    def faults(self) -> Faults:
        """Makes faults for all calls within this mesh: those of the test, and those of the services to each other."""
        if self._faults is None:
            meshes = [replica.mesh for replica in self._running.values()]
            if self._mesh is not None:
                meshes.append(self._mesh)
            self._faults = Faults(*meshes, seed=self._seed, clock=self._clock, known=self._known)
        return self._faults

    def service(self, instance_id: str) -> CUService:
        """The service object of an instance, to look inside."""
        return self._running[instance_id].service

    async def start(self, kind: type[CUService]) -> str:
        """Starts one more instance.

        Returns:
            Its id.
        """
        own = {"service_name": self._name(kind)} if self._tls else {}
        config = self._config(kind.config_class(), {"grpc_port": 0, **own, **self._configs.get(kind, {})})
        replica = Replica(kind, config, self.registry, overrides=self._overrides)
        if self._faults is not None:
            self._faults.attach(replica.mesh)
        await replica.start()
        self._running[replica.instance_id] = replica
        return replica.instance_id

    async def drain(self, instance_id: str) -> None:
        """Ends an instance as a deployment does: it leaves the mesh, and finishes what it began."""
        await self._running.pop(instance_id).drain()

    async def kill(self, instance_id: str) -> None:
        """Ends an instance as a crash does: its connections are cut, and the registry finds out afterwards."""
        replica = self._running.pop(instance_id)
        await replica.kill()
        self.registry.expire(replica.name, instance_id)

    def _count(self, kind: type[CUService]) -> int:
        return self._replicas if isinstance(self._replicas, int) else self._replicas.get(kind, 1)

    def _known(self) -> dict[str, Known]:
        """The services that run, or will once the mesh is entered."""
        kinds: dict[str, type[CUService]] = {self._name(kind): kind for kind in self._services}
        instances: dict[str, list[str]] = {name: [] for name in kinds}
        for instance_id, replica in self._running.items():
            kinds[replica.name] = replica.kind
            instances.setdefault(replica.name, []).append(instance_id)
        return {
            name: Known((kind.definition.contract.full_name,), instances[name])
            for name, kind in kinds.items()
        }

    def _name(self, kind: type[CUService]) -> str:
        settings = {**self._settings, **self._configs.get(kind, {})}
        return settings.get("service_name") or kind.definition.name

    def _config(self, kind: type[SharedConfig], values: Mapping[str, Any]) -> SharedConfig:
        assert self._state is not None
        given = {"project_secret": self._secret, "state_dir": self._state.name, **self._settings, **values}
        return kind(**(self._certified(given.get("service_name", "")) if self._tls else {}) | given)

    def _certified(self, name: str) -> dict[str, Any]:
        """The settings of mTLS, with certificates for all who may be named."""
        from meshkit.security.certificates.folder import CertificateFolder, settings_of

        assert self._state is not None
        namespace = self._settings.get("namespace", SharedConfig.model_fields["namespace"].default)
        folder = CertificateFolder(Path(self._state.name) / "tls", namespace)
        folder.ensure({*map(self._name, self._services), *filter(None, (name,)), ANYBODY})
        return settings_of(folder)

    async def _stop(self) -> None:
        if self._mesh is not None:
            await self._mesh.close()
        await asyncio.gather(*(replica.drain() for replica in self._running.values()))
        self._running.clear()
        await self.registry.close()
        if self._faults is not None:
            self._faults.close()
            self._faults = None
        if self._state is not None:
            self._state.cleanup()
