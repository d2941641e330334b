"""Three times as many calls as a service can serve: how much it still serves, how fast, and to whom.

    python benchmarks/overload.py            # 4 minutes
    python benchmarks/overload.py --quick    # half a minute, with a tenth of the calls
    python benchmarks/overload.py --strict   # exit code 1 where an aim is missed

A handler holds one of 4 places of its resource for 20 ms, so that places and not processors are what is scarce: both
calls and server are far from busy. Each side in turn: a peak (8 callers, each waits for its answer), then an overload
in an open loop, from processes of their own, with latencies counted from when a call was due. In it one tenant floods
(a tenth of its calls are critical, the others default and sheddable), and another calls at a tenth of what can be
served.
Calm is a second server of the same kind, which at the same time gets a third of what it can serve: what else the
machine does slows both. At the end each aim of the mesh with a limit on the method is told with what was found.

`mesh, limit` says `@rpc(limit=4)`, `with retries` is the same for callers that try again as the mesh does by default,
`mesh` says nothing; the calls of the others are one attempt each. `grpc.aio max` has maximum_concurrent_rpcs=8, as many
as the mesh with its limit serves and lets wait.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aims import Aim, take_strict, tell_aims
from fleet import START_S, Part, print_setting
from outcome import Outcome, Record, print_noise, ratio
from overhead import print_table
from overload_server import PLACES, WORK_S

from tests.resilience.ports import free_ports

CAPACITY = PLACES / WORK_S
"""Calls a second that can be served at most."""

TIMES = 3
"""How many times that is offered."""

FLOOD, QUIET, CALM = "flood", "quiet", "calm"
TIMEOUT_S = 1.0

LIMITED = "mesh, limit"
SIDES = {
    LIMITED: ("mesh limit", "mesh"),
    "with retries": ("mesh limit", "mesh retries"),
    "mesh": ("mesh", "mesh"),
    "grpc.aio": ("grpc.aio", "bare"),
    "grpc.aio max": ("grpc.aio max", "bare"),
}
"""Each side: what serves, and what calls."""


@dataclass(frozen=True)
class Plan:
    """For how long, in seconds.

    Attributes:
        peak: As many calls as can be served.
        overload: Three times as many.
    """

    peak: float
    overload: float


FULL = Plan(peak=4, overload=30)
QUICK = Plan(peak=0.7, overload=2)


@dataclass(frozen=True)
class Found:
    """What came of one side.

    Attributes:
        side: Which.
        calm: The calls to its server that was not overloaded.
        peak: Calls a second that it served at most.
        overload: Its calls in the overload.
        seconds: For how long that was.
    """

    side: str
    calm: Outcome
    peak: float
    overload: Outcome
    seconds: float

    @property
    def goodput(self) -> float:
        """Calls a second that were served, among all that came."""
        return len(self.overload.seconds) / self.seconds

    def served(self, tenant: str = "", criticality: str = "") -> float:
        """Share of the calls of a tenant, or of a criticality of the flood, that were served."""
        calls = [
            each
            for each in self.overload.records
            if tenant in ("", each.tenant) and criticality in ("", each.method)
        ]
        return sum(not each.failure for each in calls) / len(calls)


@contextmanager
def served(name: str, folder: Path, clients: int) -> Iterator[list[Part]]:
    """A server of a side, and clients of it, all ready."""
    serving, calling = SIDES[name]
    (port,) = free_ports(1)
    common = {"state": str(folder), "registry": f"file://{folder}/registry", "address": f"127.0.0.1:{port}"}
    with ExitStack() as stack:
        server = Part("overload_server.py", {**common, "kind": serving, "port": port})
        stack.callback(server.close)
        server.read()
        parts = [Part("overload_client.py", {**common, "kind": calling}) for _ in range(clients)]
        for part in parts:
            stack.callback(part.close)
            part.read()
        yield parts


def streams(tenant: str, rate: float, **shares: float) -> list[dict[str, Any]]:
    """Streams of calls of a tenant, by criticality."""
    return [
        {"tenant": tenant, "criticality": name, "rate": rate * share}
        for name, share in shares.items()
        if share
    ]


def measure(name: str, plan: Plan, folder: Path) -> Found:
    place = folder / str(list(SIDES).index(name))
    with served(name, place / "loaded", 2) as (flooding, quiet), served(name, place / "calm", 1) as (calm,):
        peak = {"order": "peak", "callers": MAX_CALLERS, "seconds": plan.peak, "timeout": TIMEOUT_S}
        done = [each for each in asked(quiet, peak, folder) if not each.failure]
        flood = streams(FLOOD, TIMES * CAPACITY, critical=0.1, default=0.45, sheddable=0.45)
        others = (
            (quiet, streams(QUIET, CAPACITY / 10, default=1)),
            (calm, streams(CALM, CAPACITY / 3, default=1)),
        )
        records = ordered([(flooding, flood), *others], plan.overload, folder)
    overload, beside = (
        Outcome(name, [each for each in records if (each.tenant == CALM) is wanted])
        for wanted in (False, True)
    )
    return Found(name, beside, len(done) / plan.peak, overload, plan.overload)


MAX_CALLERS = 2 * PLACES


def ordered(parts: Sequence[tuple[Part, list[dict[str, Any]]]], seconds: float, folder: Path) -> list[Record]:
    """Lets clients call from one moment on; what came of it."""
    at = time.monotonic() + START_S
    files = []
    for number, (part, streams) in enumerate(parts):
        files.append(folder / f"records-{at:.3f}-{number}")
        order = {"order": "run", "at": at, "seconds": seconds, "timeout": TIMEOUT_S, "streams": streams}
        part.tell({**order, "records": str(files[-1])})
    for part, _ in parts:
        part.read()
    return [record for file in files for record in read(file)]


def asked(part: Part, order: dict[str, Any], folder: Path) -> list[Record]:
    file = folder / f"records-{time.monotonic():.3f}"
    part.ask({**order, "records": str(file)})
    return read(file)


def read(file: Path) -> list[Record]:
    return [Record(*each) for each in json.loads(file.read_text())]


def row(found: Found, best: float) -> tuple[str, ...]:
    return (
        found.side,
        str(len(found.overload.records)),
        f"{found.peak:.0f}",
        f"{found.goodput:.0f}",
        f"{found.goodput / best:.1%}",
        f"{found.calm.quantile(0.99) * 1e3:.0f}",
        f"{found.overload.quantile(0.5) * 1e3:.0f}",
        f"{found.overload.quantile(0.99) * 1e3:.0f}",
        ratio(found.overload.quantile(0.99), found.calm.quantile(0.99)),
        *(f"{found.served(FLOOD, each):.1%}" for each in ("critical", "default", "sheddable")),
        f"{found.served(QUIET):.1%}",
    )


def reasons(found: Found, tenant: str) -> str:
    """Why calls of a tenant were not served."""
    counts = Outcome("", [each for each in found.overload.records if each.tenant == tenant]).reasons()
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common(4)) or "none"


HEADS = (
    "side",
    "calls",
    "peak/s",
    "served/s",
    "of peak",
    "calm p99 ms",
    "p50 ms",
    "p99 ms",
    "of calm",
    "critical",
    "default",
    "sheddable",
    "other tenant",
)


def aims(found: Found, best: float) -> list[Aim]:
    """What the mesh promises, and what came of it."""
    good = found.goodput / best
    slow = found.overload.quantile(0.99) / found.calm.quantile(0.99)
    critical, sheddable = (found.served(FLOOD, each) for each in ("critical", "sheddable"))
    quiet = found.served(QUIET)
    return [
        Aim("served: at least 85 % of the peak", f"{good:.1%}", good >= 0.85),
        Aim("p99 of what is served: at most 3 times the calm one", f"{slow:.2f}", slow <= 3),
        Aim(
            "critical calls: at least 99.5 %, while sheddable ones are shed",
            f"{critical:.2%}, sheddable {sheddable:.1%}",
            critical >= 0.995 and sheddable < 0.5,
        ),
        Aim("a tenant beside the flood: at least 99 %", f"{quiet:.2%}", quiet >= 0.99),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Three times as many calls as can be served.")
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    take_strict(parser)
    parser.add_argument("--seconds", type=float, help="seconds of overload")
    parser.add_argument("--only", action="append", choices=tuple(SIDES), help="this side; may be repeated")
    arguments = parser.parse_args()
    usual = QUICK if arguments.quick else FULL
    plan = Plan(usual.peak, arguments.seconds or usual.overload)
    print_setting(
        f"{PLACES} places, each held for {WORK_S * 1e3:.0f} ms: {CAPACITY:.0f} calls/s can be served, "
        f"{TIMES * CAPACITY:.0f}/s and {CAPACITY / 10:.0f}/s come for {plan.overload:g} s; deadline {TIMEOUT_S:g} s; "
        f"load before: {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as folder:
        sides = [side for side in SIDES if side in (LIMITED, *(arguments.only or SIDES))]
        found = {side: measure(side, plan, Path(folder)) for side in sides}
    best = max(each.peak for each in found.values())
    print_table(HEADS, [row(each, best) for each in found.values()])
    print(
        "Of peak: of the best peak of all sides. Of calm: p99 of the calls that were served, beside the calm p99."
    )
    print_noise([each.overload for each in found.values()])
    for side, each in found.items():
        print(f"Not served by {side}: {reasons(each, FLOOD)}; of the other tenant: {reasons(each, QUIET)}")
    return tell_aims(aims(found[LIMITED], best), strict=arguments.strict)


if __name__ == "__main__":
    sys.exit(main())
