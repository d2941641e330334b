"""What telemetry costs: the same calls with metrics on and traces sampled at 1 %, beside those with telemetry off.

    python benchmarks/telemetry.py           # about a minute
    python benchmarks/telemetry.py --quick   # ten seconds, to see that it works

Two meshes stand side by side, alike but for `OTEL_ENABLED`: three replicas on one core, a client on the other, both
sides of which record. Spans, and figures every 10 seconds, are sent by OTLP to an endpoint in this process. Bursts
alternate (off, on, off, on, …); each pair of neighbours gives one ratio, and the table shows the median pair. The
aim is a median of 0.95; the exit code is 1 where it is missed. Nothing is kept from one run to the next.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from overhead import Burst, Plan, Target, alternate, lab, loops_here, print_machine, print_table

AIM = 0.95
SAMPLED = "0.01"
AT_ONCE = 64

FULL = Plan(seconds=0.5, rounds=30)
QUICK = Plan(seconds=0.1, rounds=5)


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


def compare(loop: str, plan: Plan, state: Path, url: str) -> tuple[float, list[tuple[str, ...]]]:
    """The lowest median ratio, and a row for each way to call."""
    on = {"otel_enabled": True, "otel_exporter_otlp_endpoint": url}
    rows, least = [], 1.0
    with lab(loop, state, name="off") as without, lab(loop, state, name="on", settings=on) as with_it:
        for kind in ("client", "channel"):
            off, recorded = alternate([(without, Target(kind)), (with_it, Target(kind))], AT_ONCE, plan)
            ratios = [ours.rate / theirs.rate for ours, theirs in zip(recorded, off, strict=True)]
            least = min(least, statistics.median(ratios))
            rows.append(row(loop, kind, ratios, off, recorded))
    return least, rows


def row(loop: str, kind: str, ratios: list[float], off: list[Burst], on: list[Burst]) -> tuple[str, ...]:
    sides = [
        " -> ".join(
            f"{statistics.median(each.microseconds(side) for each in bursts):.0f}" for bursts in (off, on)
        )
        for side in ("client", "servers")
    ]
    quartiles = statistics.quantiles(ratios, n=4)
    return (
        loop,
        f"mesh.{kind}",
        f"{statistics.median(ratios):.3f}",
        f"{quartiles[0]:.3f}",
        f"{quartiles[2]:.3f}",
        f"{statistics.median(each.rate for each in off):.0f}",
        f"{statistics.median(each.rate for each in on):.0f}",
        *sides,
        str(sum(each.calls for each in (*off, *on))),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="What telemetry costs.")
    parser.add_argument("--quick", action="store_true", help="ten seconds, to see that it works")
    parser.add_argument("--rounds", type=int, help="pairs of bursts a row")
    arguments = parser.parse_args()
    usual = QUICK if arguments.quick else FULL
    plan = Plan(usual.seconds, arguments.rounds or usual.rounds)
    os.environ |= {
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": SAMPLED,
        "OTEL_METRIC_EXPORT_INTERVAL": "10000",
    }
    print_machine(plan, loops_here())
    rows, least = [], 1.0
    with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as folder, endpoint() as url:
        for loop in loops_here():
            worst, found = compare(loop, plan, Path(folder), url)
            least, rows = min(least, worst), [*rows, *found]
    print(
        f"\nThroughput with metrics on and {float(SAMPLED):.0%} of traces sampled, as a share of that without\n"
    )
    heads = ("loop", "through", "ratio", "1st quartile", "3rd", "off/s", "on/s")
    print_table((*heads, "client CPU", "server CPU", "calls"), rows)
    print("CPU: microseconds of processor time per call, off -> on.")
    print(f"{Endpoint.taken} bytes of telemetry were taken. Least median: {least:.3f}, aim {AIM}.")
    sys.exit(0 if least >= AIM else 1)


if __name__ == "__main__":
    main()
