"""What the balancing benchmarks stand on: servers of the target as processes, and clients of each kind.

The sides of a comparison are the mesh by its policies (`mesh round_robin`, …), `C-core` (round robin of grpc.aio with
its own retries over fixed addresses), `Envoy` and `nginx`.
"""

from __future__ import annotations

import json
import platform
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outcome import Outcome, Record
from overhead import Process
from peers import PEERS, Peer

from tests.resilience.ports import free_ports

START_S = 1.0
"""Seconds ahead of which all clients are told when to begin."""

SLACK_S = 30.0
"""Seconds that a server has to drain."""

PATIENCE_S = 120.0
"""Seconds within which a process must answer an order, the longest of which is to call for a while."""


class Part(Process):
    """A process of a fleet. It is ready when `read` returns for the first time."""

    def tell(self, order: dict[str, Any]) -> None:
        """Gives an order without waiting for the answer; `read` gets it."""
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps(order) + "\n")
        self.child.stdin.flush()

    def read(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        if not select.select([self.child.stdout], [], [], PATIENCE_S)[0]:
            self.child.kill()
            raise SystemExit(f"a process of the benchmark said nothing for {PATIENCE_S:g} s")
        return super().read()

    def signal(self, number: int) -> None:
        self.child.send_signal(number)

    def ended(self, seconds: float = SLACK_S) -> None:
        """Waits until it has ended; kills it when that takes too long."""
        try:
            self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            print("a server did not drain in time, and is killed")
            self.child.kill()
            self.child.wait()

    def leave(self) -> None:
        """Lets it end; `close` waits for that."""
        assert self.child.stdin is not None
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGCONT)
        with suppress(BrokenPipeError):
            self.child.stdin.close()


def close(parts: Sequence[Part]) -> None:
    """Ends processes together."""
    for part in parts:
        part.leave()
    for part in parts:
        part.close()


@dataclass
class Fleet:
    """Servers of one kind on ports that stay the same when one is started again.

    Attributes:
        kind: `mesh` or `bare`.
        count: How many.
        folder: For their state.
        seconds: How long a call takes.
        relayed: Which one stands behind a relay; none at -1.
        together: How many share a process.
    """

    kind: str
    count: int
    folder: Path
    seconds: float = 0.0
    relayed: int = -1
    together: int = 1
    servers: list[Part] = field(default_factory=list)
    relay: Part | None = None

    def __post_init__(self) -> None:
        self.ports = free_ports(self.count + 1)
        self.shown = [*self.ports[:-1]]
        if self.relayed >= 0:
            self.shown[self.relayed] = self.ports[-1]
        self.journals.mkdir(parents=True, exist_ok=True)

    @property
    def journals(self) -> Path:
        return self.folder / "journals"

    @property
    def registry(self) -> str:
        return f"file://{self.folder}/registry"

    @property
    def addresses(self) -> list[str]:
        """Where callers find them."""
        return [f"127.0.0.1:{port}" for port in self.shown]

    @property
    def options(self) -> dict[str, Any]:
        """What servers and clients of the fleet need to know of it."""
        return {"state": str(self.folder / "state"), "registry": self.registry, "count": self.count}

    def start(self) -> None:
        """Begins to start all; `ready` waits for them. The first one makes what all share, and is waited for."""
        if self.relayed >= 0:
            self.relay = Part(
                "relay.py", {"listen": self.shown[self.relayed], "to": self.ports[self.relayed]}
            )
            self.relay.read()
        self.servers = [self.made(0)]
        if self.kind == "mesh":
            self.servers[0].read()
        self.servers += [self.made(number) for number in range(self.together, self.count, self.together)]

    def ready(self) -> None:
        for server in self.servers[1 if self.kind == "mesh" else 0 :]:
            server.read()

    def made(self, first: int) -> Part:
        """A process for the server of that number, and for those that share it."""
        servers = [
            {"name": f"server-{number}", "port": self.ports[number], "advertise": self.addresses[number]}
            for number in range(first, min(first + self.together, self.count))
        ]
        own = {"kind": self.kind, "journals": str(self.journals), "seconds": self.seconds}
        return Part("target_server.py", {**self.options, **own, "servers": servers})

    def tell(self, number: int, **order: Any) -> None:
        """Has one take so many `seconds` for a call, or fail (`failing`)."""
        self.servers[number // self.together].ask({"name": f"server-{number}", **order})

    def restart(self, number: int) -> None:
        """Drains one that has a process of its own, and starts it anew; returns when it serves."""
        self.servers[number].signal(signal.SIGTERM)
        self.servers[number].ended()
        self.servers[number].close()
        self.servers[number] = self.made(number)
        self.servers[number].read()

    def close(self) -> None:
        close([*self.servers, *([self.relay] if self.relay else [])])


@contextmanager
def fleets(*wanted: Fleet) -> Iterator[None]:
    """Starts fleets together, and ends them."""
    with ExitStack() as stack:
        for fleet in wanted:
            stack.callback(fleet.close)
            fleet.start()
        for fleet in wanted:
            fleet.ready()
        yield


@contextmanager
def client(
    side: str, mesh: Fleet | None, bare: Fleet | None, folder: Path, *, retries: bool = True
) -> Iterator[Part]:
    """A client process of one side, and its proxy; `read` waits until it can call.

    A policy of the mesh calls the mesh's own servers, or, where there are none, the bare ones by a static registry.
    """
    with ExitStack() as stack:
        if side.startswith("mesh "):
            options: dict[str, Any] = {"kind": "mesh", "policy": side.removeprefix("mesh ")}
            if mesh is not None:
                options |= mesh.options
            elif bare is not None:
                options |= {**bare.options, "registry": f"static://target={','.join(bare.addresses)}"}
        else:
            assert bare is not None
            options = {"kind": "core", "addresses": bare.addresses, "retries": retries, "count": bare.count}
            if side in PEERS:
                peer = PEERS[side](folder / f"{side}-{time.monotonic_ns()}")
                options |= {"kind": "proxy", "addresses": [in_front(stack, peer, bare, retries)]}
        part = Part("target_client.py", options)
        stack.callback(part.close)
        yield part


def in_front(stack: ExitStack, peer: Peer, bare: Fleet, retries: bool) -> str:
    (port,) = free_ports(1)
    stack.callback(peer.close)
    peer.start(port, bare.addresses, retries=retries)
    return f"127.0.0.1:{port}"


@dataclass(frozen=True)
class Pace:
    """How calls come.

    Attributes:
        rate: Calls a second of each side.
        seconds: For how long.
        methods: Methods in turn.
        tenants: Tenants in turn.
        timeout: Seconds that a call may take.
    """

    rate: float
    seconds: float
    methods: Sequence[str] = ("Read", "Write")
    tenants: Sequence[str] = ("bench",)
    timeout: float = 2.0


def call_with(
    parts: dict[str, Part], pace: Pace, folder: Path, happen: Callable[[float], None]
) -> dict[str, Outcome]:
    """Lets all clients begin at one moment, and something happen meanwhile; what came of their calls.

    Args:
        parts: The client of each side.
        pace: How calls come.
        folder: For what they say.
        happen: Called with the moment at which they begin.
    """
    at = time.monotonic() + START_S
    files = {side: folder / f"records-{number}-{at:.3f}" for number, side in enumerate(parts)}
    order = {**vars(pace), "at": at}
    for side, part in parts.items():
        part.tell({**order, "order": "run", "label": side, "records": str(files[side])})
    happen(at)
    for part in parts.values():
        part.read()
    return {
        side: Outcome(side, [Record(*each) for each in json.loads(file.read_text())])
        for side, file in files.items()
    }


def wait_until(at: float) -> None:
    time.sleep(max(0.0, at - time.monotonic()))


def print_setting(text: str) -> None:
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}\n{text}\n")
