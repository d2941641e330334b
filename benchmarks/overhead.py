"""What the mesh costs: unary echo through meshkit beside bare grpc.aio, and what each layer costs of that.

    python benchmarks/overhead.py            # under 3 minutes
    python benchmarks/overhead.py --quick    # 30 seconds, to see that it works

Three replicas as processes share one core, the client has the other. Bare is a list of three stubs used in turn,
without deadlines. meshkit has everything on: file registry, tokens, proofs, all layers. Bursts alternate (bare, mesh,
bare, mesh, …); each pair of neighbours gives one ratio, and the table shows the median pair, the worst and the best.
Nothing is kept from one run to the next.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPLICAS = 3
CONCURRENCIES = (1, 64)


@dataclass(frozen=True)
class Plan:
    """How long it takes.

    Attributes:
        seconds: Seconds of a burst.
        rounds: Bursts of each kind that are compared.
    """

    seconds: float
    rounds: int


FULL = Plan(seconds=0.4, rounds=7)
QUICK = Plan(seconds=0.08, rounds=3)


@dataclass(frozen=True)
class Burst:
    """What one burst of calls came to.

    Attributes:
        calls: How many there were.
        seconds: How long they took.
        client: Seconds of processor time in the client.
        servers: Seconds of processor time in the three replicas together.
        layers: Names of the layers of the newest channel.
    """

    calls: int
    seconds: float
    client: float
    servers: float
    layers: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds

    def microseconds(self, side: str) -> float:
        """Processor time per call on one side, in microseconds."""
        return float(getattr(self, side)) / self.calls * 1e6


@dataclass(frozen=True)
class Target:
    """A way to the greeter: `bare`, `channel` (plain stub) or `client` (typed), to a service, without a layer."""

    kind: str
    service: str = "greeter"
    left_out: str = ""


class Process:
    """A process of the benchmark, which talks in lines of JSON and ends when its standard input does."""

    def __init__(self, script: str, options: dict[str, Any]) -> None:
        paths = os.pathsep.join(
            str(path) for path in (HERE.parent, HERE.parent / "examples" / "greeter", HERE)
        )
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("CU_", "GRPC_"))}
        self.child = subprocess.Popen(
            [sys.executable, str(HERE / script), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**inherited, "PYTHONPATH": paths},
        )

    def read(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if not line:
            raise SystemExit(f"a process of the benchmark ended: exit code {self.child.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps(order) + "\n")
        self.child.stdin.flush()
        return self.read()

    def processor_seconds(self) -> float:
        """Processor time of all its threads so far."""
        total = 0
        for task in Path(f"/proc/{self.child.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def close(self) -> None:
        assert self.child.stdin is not None
        with suppress(BrokenPipeError):
            self.child.stdin.close()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class Lab:
    """Replicas and a client, all on one kind of event loop."""

    def __init__(
        self,
        loop: str,
        state: Path,
        *,
        with_bare: bool,
        each_layer: bool,
        name: str = "whole",
        settings: dict[str, Any] | None = None,
    ) -> None:
        server_core, client_core = cores()
        registry = f"file://{state}/registry-{loop}-{'layers' if each_layer else name}"
        common = {"loop": loop, "core": server_core, "state": str(state), "registry": registry}
        common["settings"] = settings or {}
        mesh = {**common, "kind": "mesh", "each_layer": each_layer}
        self._mesh = [Process("echo_server.py", mesh) for _ in range(REPLICAS)]
        self._bare = [
            Process("echo_server.py", {**common, "kind": "bare"}) for _ in range(REPLICAS if with_bare else 0)
        ]
        addresses = [process.read()["address"] for process in self._bare]
        ready = [process.read() for process in self._mesh]
        self.layers: list[str] = ready[0]["layers"]
        client = {**common, "core": client_core, "bare": addresses, "replicas": REPLICAS}
        self._client = Process("echo_client.py", client)

    def burst(self, target: Target, concurrency: int, seconds: float) -> Burst:
        order = {**vars(target), "concurrency": concurrency, "seconds": seconds}
        servers = self._bare if target.kind == "bare" else self._mesh
        before = sum(server.processor_seconds() for server in servers)
        answer = self._client.ask(order)
        used = sum(server.processor_seconds() for server in servers) - before
        return Burst(answer["calls"], answer["seconds"], answer["cpu"], used, tuple(answer["layers"]))

    def close(self) -> None:
        for process in [self._client, *self._bare, *self._mesh]:
            process.close()


def cores() -> tuple[int | None, int | None]:
    """The core for the servers and the one for the client; None where there is only one."""
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (available[0], available[1]) if len(available) > 1 else (None, None)


@contextmanager
def lab(
    loop: str,
    state: Path,
    *,
    with_bare: bool = False,
    each_layer: bool = False,
    name: str = "whole",
    settings: dict[str, Any] | None = None,
) -> Iterator[Lab]:
    made = Lab(loop, state, with_bare=with_bare, each_layer=each_layer, name=name, settings=settings)
    try:
        yield made
    finally:
        made.close()


# What is measured.

Side = tuple[Lab, Target]


def alternate(sides: Sequence[Side], concurrency: int, plan: Plan) -> list[list[Burst]]:
    """Bursts of each side in turn, after one of each to warm up; a list for each side."""
    bursts: list[list[Burst]] = [[] for _ in sides]
    for where, target in sides:
        where.burst(target, concurrency, min(plan.seconds, 0.2))
    for _ in range(plan.rounds):
        for found, (where, target) in zip(bursts, sides, strict=True):
            found.append(where.burst(target, concurrency, plan.seconds))
    return bursts


def compare_whole(labs: dict[str, Lab], plan: Plan) -> None:
    """Mesh beside bare on each pairing of loops."""
    pairings = [("default", "default")]
    if "uvloop" in labs:
        pairings += [("uvloop", "uvloop"), ("default", "uvloop")]
    rows = []
    for bare_loop, mesh_loop in pairings:
        for concurrency in CONCURRENCIES:
            bare, channel, client = alternate(
                [
                    (labs[bare_loop], Target("bare")),
                    (labs[mesh_loop], Target("channel")),
                    (labs[mesh_loop], Target("client")),
                ],
                concurrency,
                plan,
            )
            rows += [
                _whole_row(bare_loop, mesh_loop, concurrency, "mesh.channel, plain stub", bare, channel),
                _whole_row(bare_loop, mesh_loop, concurrency, "mesh.client, typed", bare, client),
            ]
    print("\nThroughput of the mesh as a share of bare grpc.aio (1.00 = as fast)\n")
    heads = (
        "bare on",
        "mesh on",
        "calls at once",
        "through",
        "ratio",
        "min",
        "max",
        "bare/s",
        "mesh/s",
        "calls",
    )
    print_table((*heads, "client CPU", "server CPU"), rows)
    print("CPU: microseconds of processor time per call, bare -> mesh.")


def _whole_row(
    bare_loop: str, mesh_loop: str, concurrency: int, through: str, bare: list[Burst], mesh: list[Burst]
) -> tuple[str, ...]:
    ratios = [ours.rate / theirs.rate for ours, theirs in zip(mesh, bare, strict=True)]
    return (
        bare_loop,
        mesh_loop,
        str(concurrency),
        through,
        f"{statistics.median(ratios):.2f}",
        f"{min(ratios):.2f}",
        f"{max(ratios):.2f}",
        f"{statistics.median(burst.rate for burst in bare):.0f}",
        f"{statistics.median(burst.rate for burst in mesh):.0f}",
        str(sum(burst.calls for burst in (*bare, *mesh))),
        *(
            f"{_median_cpu(bare, side):.0f} -> {_median_cpu(mesh, side):.0f}"
            for side in ("client", "servers")
        ),
    )


def _median_cpu(bursts: list[Burst], side: str) -> float:
    return statistics.median(burst.microseconds(side) for burst in bursts)


def compare_layers(where: Lab, plan: Plan) -> None:
    """Everything on beside everything but one layer, layer by layer."""
    from onion import ALL, PERMISSIVE, TRACING, WITHOUT

    whole = Target("channel")
    client_layers = where.burst(whole, 1, 0.05).layers
    unguarded = Target("channel", WITHOUT + "guard")
    rows = []
    for name in (*client_layers, TRACING, ALL):
        # A call without a signature is let in only where nobody guards.
        base = unguarded if name in ("signing", ALL) else whole
        rows.append(_layer_row(where, "client", name, base, Target("channel", base.service, name), plan))
    for name in (*where.layers, ALL):
        rows.append(_layer_row(where, "servers", name, whole, Target("channel", WITHOUT + name), plan))
    rows.append(_layer_row(where, "servers", "proof, of guard", whole, Target("channel", PERMISSIVE), plan))
    print(
        f"\nWhat each layer costs: everything on beside everything but that layer, {CONCURRENCIES[-1]} at once\n"
    )
    heads = ("side", "without", "us per call saved", "min", "max", "of", "throughput", "calls")
    print_table(heads, rows)
    print(
        "us: microseconds of processor time on that side. Throughput: with the layer, as a share of without it."
    )


def _layer_row(
    where: Lab, side: str, name: str, base: Target, without: Target, plan: Plan
) -> tuple[str, ...]:
    whole, peeled = alternate([(where, base), (where, without)], CONCURRENCIES[-1], plan)
    saved = [a.microseconds(side) - b.microseconds(side) for a, b in zip(whole, peeled, strict=True)]
    ratios = [a.rate / b.rate for a, b in zip(whole, peeled, strict=True)]
    return (
        side.removesuffix("s"),
        name,
        f"{statistics.median(saved):.1f}",
        f"{min(saved):.1f}",
        f"{max(saved):.1f}",
        f"{_median_cpu(whole, side):.0f}",
        f"{statistics.median(ratios):.2f}",
        str(sum(burst.calls for burst in (*whole, *peeled))),
    )


# What is printed.


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    for row in (heads, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def print_machine(plan: Plan, loops: Sequence[str]) -> None:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("grpcio", "protobuf"))
    print(
        f"{platform.python_implementation()} {platform.python_version()}, {versions}, {platform.platform()}"
    )
    print(f"processor: {_processor()}; load before: {os.getloadavg()[0]:.2f}")
    server_core, client_core = cores()
    if server_core is None:
        print("one core only: servers and client share it, so ratios are of both sides' cost together")
    else:
        print(f"{REPLICAS} replicas on core {server_core}, client on core {client_core}")
    print(f"event loops: {', '.join(loops)}; {plan.rounds} pairs of bursts of {plan.seconds:g} s a row")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} x {models[0]}" if models else platform.machine()


def loops_here() -> list[str]:
    try:
        importlib.metadata.version("uvloop")
    except importlib.metadata.PackageNotFoundError:
        return ["default"]
    return ["default", "uvloop"]


def main() -> None:
    parser = argparse.ArgumentParser(description="What the mesh costs beside bare grpc.aio.")
    parser.add_argument("--quick", action="store_true", help="half a minute, to see that it works")
    parser.add_argument("--rounds", type=int, help="pairs of bursts a row")
    parser.add_argument("--seconds", type=float, help="seconds of a burst")
    parser.add_argument("--only", choices=("whole", "layers"), help="one of the two tables")
    arguments = parser.parse_args()
    usual = QUICK if arguments.quick else FULL
    plan = Plan(arguments.seconds or usual.seconds, arguments.rounds or usual.rounds)
    start = time.monotonic()
    print_machine(plan, loops_here())
    with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as folder:
        if arguments.only != "layers":
            with ExitStack() as stack:
                labs = {
                    loop: stack.enter_context(lab(loop, Path(folder), with_bare=True))
                    for loop in loops_here()
                }
                compare_whole(labs, plan)
        if arguments.only != "whole":
            with lab("default", Path(folder), each_layer=True) as where:
                compare_layers(where, plan)
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
