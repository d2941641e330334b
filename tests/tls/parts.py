"""A service over TLS whose certificates a test makes and replaces, and a caller with its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshkit import Call, Mesh, Peer, SharedConfig
from meshkit.discovery.memory import MemoryRegistry
from meshkit.replica import Replica
from tests.certificates import Signed, Signer, write_private
from tests.serving.probe import Probe, Text

SECRET = "a secret of tests that is long enough"


@dataclass(frozen=True)
class Files:
    """The files of one program."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "own.crt"

    @property
    def key(self) -> Path:
        return self.folder / "own.key"

    def write(self, trusted: Signer, own: Signed | None) -> Files:
        self.folder.mkdir(exist_ok=True)
        self.ca.write_bytes(trusted.pem)
        if own is not None:
            self.replace(own)
        return self

    def replace(self, own: Signed) -> None:
        write_private(self.certificate, own.certificate)
        write_private(self.key, own.key)


def settings(files: Files, **others: Any) -> dict[str, Any]:
    """Settings of a program that serves and calls with one certificate, where it has one."""
    own = {}
    if files.certificate.exists():
        own = {
            f"grpc_tls_{side}_{kind}": path
            for side in ("server", "client")
            for kind, path in (("cert", files.certificate), ("key", files.key))
        }
    return {
        "project_secret": SECRET,
        "state_dir": files.folder,
        "tenant": "acme",
        "grpc_tls_enabled": True,
        "grpc_tls_ca_cert": files.ca,
        "grpc_port": 0,
        "drain_propagation_s": 0,
        **own,
        **others,
    }


@asynccontextmanager
async def serving(
    registry: MemoryRegistry, config: SharedConfig, kind: type[Probe] = Probe
) -> AsyncIterator[Replica]:
    """A replica that serves for as long as the block lasts."""
    replica = Replica(kind, config, registry)
    try:
        await replica.start()
        yield replica
    finally:
        await replica.leave()


@asynccontextmanager
async def calling(registry: MemoryRegistry, config: SharedConfig) -> AsyncIterator[Mesh]:
    """A program that calls."""
    async with Mesh(config, registry) as mesh:
        yield mesh


def noting(service: Any) -> list[Peer]:
    """Who calls `read` from now on, as the service sees them."""
    peers: list[Peer] = []

    async def note(request: Text, call: Call) -> Text:
        assert call.peer.address
        peers.append(call.peer)
        return request

    service.behave["Read"] = note
    return peers
