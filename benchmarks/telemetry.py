"""What telemetry costs: the same calls with metrics on and traces sampled at 1 %, beside those with telemetry off.

    python benchmarks/telemetry.py           # two minutes
    python benchmarks/telemetry.py --quick   # half a minute, to see that it works
    python benchmarks/telemetry.py --same    # both sides with telemetry off: how much of a difference is chance

Two meshes stand side by side, alike but for `OTEL_ENABLED`: three replicas on one core, a client on the other, both
sides of which record. Spans, and figures every 10 seconds, are sent by OTLP to an endpoint in this process. Bursts
alternate (off, on, off, on, …); each pair of neighbours gives one ratio. How fast processes are differs from one start
to the next by some percent, whatever they do, so both meshes are started several times, now one first and now the
other. The table shows the median over the starts of their median pairs, and the lowest and the highest of these. The
aim is 0.95; the exit code is 1 where it is missed. Nothing is kept from one run to the next.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from overhead import Burst, Plan, Target, alternate, lab, loops_here, print_machine, print_table

AIM = 0.95
SAMPLED = "0.01"
AT_ONCE = 64

FULL = Plan(seconds=0.4, rounds=6)
QUICK = Plan(seconds=0.1, rounds=3)
STARTS = {FULL: 4, QUICK: 2}
"""How often both meshes are started."""

KINDS = ("client", "channel")


class Endpoint(BaseHTTPRequestHandler):
    """Takes what it is sent, and counts it."""

    taken = 0

    def do_POST(self) -> None:
        Endpoint.taken += len(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@contextmanager
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@dataclass
class Start:
    """What one start came to, for one way to call: the bursts of either side, in pairs."""

    off: list[Burst]
    on: list[Burst]

    @property
    def ratio(self) -> float:
        """The median pair."""
        pairs = zip(self.on, self.off, strict=True)
        return statistics.median(ours.rate / theirs.rate for ours, theirs in pairs)


def compare(loop: str, plan: Plan, starts: int, state: Path, on: dict[str, object]) -> dict[str, list[Start]]:
    """Starts both meshes so many times; gives what each start came to, by the way to call."""
    found: dict[str, list[Start]] = {kind: [] for kind in KINDS}
    for number in range(starts):
        sides = [("off", {}), ("on", on)]
        with ExitStack() as stack:
            labs = {
                name: stack.enter_context(lab(loop, state, name=f"{name}-{number}", settings=settings))
                for name, settings in (sides if number % 2 else reversed(sides))
            }
            for kind in KINDS:
                both = [(labs[name], Target(kind)) for name in ("off", "on")]
                found[kind].append(Start(*alternate(both, AT_ONCE, plan)))
    return found


def row(loop: str, kind: str, starts: list[Start]) -> tuple[str, ...]:
    ratios = [start.ratio for start in starts]
    off, on = ([burst for start in starts for burst in getattr(start, side)] for side in ("off", "on"))
    sides = [
        " -> ".join(
            f"{statistics.median(each.microseconds(side) for each in bursts):.0f}" for bursts in (off, on)
        )
        for side in ("client", "servers")
    ]
    return (
        loop,
        f"mesh.{kind}",
        f"{statistics.median(ratios):.3f}",
        f"{min(ratios):.3f}",
        f"{max(ratios):.3f}",
        f"{statistics.median(each.rate for each in off):.0f}",
        f"{statistics.median(each.rate for each in on):.0f}",
        *sides,
        str(sum(each.calls for each in (*off, *on))),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="What telemetry costs.")
    parser.add_argument("--quick", action="store_true", help="half a minute, to see that it works")
    parser.add_argument("--same", action="store_true", help="telemetry off on both sides")
    parser.add_argument("--starts", type=int, help="how often both meshes are started")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    starts = arguments.starts or STARTS[plan]
    os.environ |= {
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": SAMPLED,
        "OTEL_METRIC_EXPORT_INTERVAL": "10000",
    }
    print_machine(plan, loops_here())
    rows, least = [], 1.0
    with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as folder, endpoint() as url:
        on = {} if arguments.same else {"otel_enabled": True, "otel_exporter_otlp_endpoint": url}
        for loop in loops_here():
            for kind, found in compare(loop, plan, starts, Path(folder), on).items():
                rows.append(row(loop, kind, found))
                least = min(least, statistics.median(start.ratio for start in found))
    what = "telemetry off" if arguments.same else f"metrics on and {float(SAMPLED):.0%} of traces sampled"
    print(f"\nThroughput with {what}, as a share of that without; {starts} starts\n")
    heads = ("loop", "through", "ratio", "lowest start", "highest", "off/s", "on/s")
    print_table((*heads, "client CPU", "server CPU", "calls"), rows)
    print("CPU: microseconds of processor time per call, off -> on.")
    print(f"{Endpoint.taken} bytes of telemetry were taken. Least ratio: {least:.3f}, aim {AIM}.")
    sys.exit(0 if least >= AIM else 1)


if __name__ == "__main__":
    main()
