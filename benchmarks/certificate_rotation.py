"""Certificates replaced on disk while calls go on: does a call fail, and how soon are the new ones shown.

    python benchmarks/certificate_rotation.py            # 10 swaps at 200 calls/s, about a minute
    python benchmarks/certificate_rotation.py --quick    # 2 swaps

Two replicas of the greeter in processes of their own and one caller here, all with mutual TLS. A swap replaces the
certificates of both sides; the next one begins when both show the new ones. What a server shows is asked of it with a
handshake; what the caller shows is that of the connections that its calls go over. Exit code 1 where a call failed, or
a certificate was shown later than 5 s after it was put in place.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "greeter"))

from cryptography import x509
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient
from overhead import print_table

from meshkit import Instance, Mesh, SharedConfig
from meshkit.security.certificates.folder import CertificateFolder, settings_of
from meshkit.telemetry.logs import configure
from meshkit.transport.rotation import RotatingLink

ROOT = Path(__file__).resolve().parents[1]
RATE = 200.0
REPLICAS = 2
LIMIT_S = 5.0
LOOK_S = 0.05
NAMES = ("greeter", "client")


@dataclass
class Calls:
    """What came of calls, and how long those took that succeeded, in seconds."""

    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    def quantile(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


@asynccontextmanager
async def replicas(environment: dict[str, str], logs: Path) -> AsyncIterator[None]:
    """The greeter, several times; processes that end with the block."""
    command = (sys.executable, "-m", "meshkit", "run", "--with-parent", "main:Greeter")
    with (logs / "replicas.log").open("wb") as log:
        running = [
            await asyncio.create_subprocess_exec(
                *command,
                cwd=ROOT / "examples" / "greeter",
                env={**os.environ, **environment, "GRPC_PORT": "0"},
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
            for _ in range(REPLICAS)
        ]
        try:
            yield
        finally:
            for process in running:
                process.terminate()
            await asyncio.gather(*(process.wait() for process in running))


async def shown_by(address: str) -> str:
    """Serial number of the certificate that a server shows."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return f"{x509.load_der_x509_certificate(shown).serial_number:x}"


def serial_in(folder: CertificateFolder, name: str) -> str:
    return f"{x509.load_pem_x509_certificate(folder.file(name).read_bytes()).serial_number:x}"


def used_by(mesh: Mesh) -> set[str]:
    """Serial numbers of the certificates that the connections show which calls go over."""
    links = [endpoint.link for endpoint in mesh.pool("greeter").endpoints.values()]
    materials: list[Any] = [
        link._current.secured.material for link in links if isinstance(link, RotatingLink)
    ]
    return {material.leaf.serial for material in materials}


async def call_on(mesh: Mesh, calls: Calls, over: asyncio.Event) -> None:
    """Calls at a steady rate, each in a task of its own, whatever became of those before."""
    client = mesh.client(GreeterClient)
    under_way: set[asyncio.Task[None]] = set()

    async def call() -> None:
        begun = time.perf_counter()
        try:
            await client.greet(pb.GreetRequest(name="Ada"), timeout=5)
        except Exception as error:
            calls.failures[f"{type(error).__name__}: {error}"[:100]] += 1
        else:
            calls.seconds.append(time.perf_counter() - begun)

    due = time.perf_counter()
    while not over.is_set():
        task = asyncio.create_task(call())
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        due += 1 / RATE
        await asyncio.sleep(due - time.perf_counter())
    await asyncio.gather(*under_way)


async def swap(folder: CertificateFolder, mesh: Mesh, instances: list[Instance]) -> tuple[float, float]:
    """Replaces the certificates of both sides; seconds until all servers, and the caller, show the new ones."""
    for name in NAMES:
        folder.issue(name)
    begun = time.perf_counter()

    async def served() -> bool:
        new = serial_in(folder, "greeter")
        return all([await shown_by(instance.address) == new for instance in instances])

    async def called() -> bool:
        return used_by(mesh) == {serial_in(folder, "client")}

    async def seconds_until(look: Callable[[], Awaitable[bool]]) -> float:
        await until(look)
        return time.perf_counter() - begun

    for_servers, for_caller = await asyncio.gather(seconds_until(served), seconds_until(called))
    return for_servers, for_caller


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    """Looks until it is so."""
    async with asyncio.timeout(60):
        while not await look():  # noqa: ASYNC110  (nothing announces it)
            await asyncio.sleep(LOOK_S)


async def measure(swaps: int, state: Path) -> int:
    folder = CertificateFolder(state / "tls", "contextunity")
    folder.ensure(NAMES)
    settings: dict[str, Any] = {"state_dir": state, **settings_of(folder)}
    environment = {SharedConfig.env_name(name): str(value) for name, value in settings.items()}
    calls, over = Calls(), asyncio.Event()
    async with replicas(environment, state), Mesh(SharedConfig(**settings)) as mesh:
        pool = mesh.pool("greeter")

        async def all_there() -> bool:
            return sum(endpoint.usable for endpoint in pool.endpoints.values()) == REPLICAS

        await until(all_there)
        instances = await mesh.instances("greeter")
        calling = asyncio.create_task(call_on(mesh, calls, over))
        seconds = [await swap(folder, mesh, instances) for _ in range(swaps)]
        over.set()
        await calling
    served, called = (max(side) for side in zip(*seconds, strict=True))
    failed = sum(calls.failures.values())
    print_table(
        ("swaps", "calls", "failed", "p50 ms", "p99 ms", "server shows new, s", "caller shows new, s"),
        [
            (
                str(swaps),
                str(len(calls.seconds) + failed),
                str(failed),
                f"{calls.quantile(0.5) * 1e3:.1f}",
                f"{calls.quantile(0.99) * 1e3:.1f}",
                f"{served:.1f}",
                f"{called:.1f}",
            )
        ],
    )
    for failure, count in calls.failures.most_common():
        print(f"{count} times {failure}")
    print(f"Load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")
    return int(failed > 0 or max(served, called) > LIMIT_S)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 swaps")
    configure("ERROR", json=False)
    with tempfile.TemporaryDirectory(prefix="meshkit-") as state:
        return asyncio.run(measure(2 if parser.parse_args().quick else 10, Path(state)))


if __name__ == "__main__":
    sys.exit(main())
