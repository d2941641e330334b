"""How fast feeds are harvested, by one worker and by several, beside a plain loader of the same feed.

    python benchmarks/harvest.py            # 200,000 rows, some minutes
    python benchmarks/harvest.py --quick    # 10,000 rows, half a minute

PostgreSQL is a real one that syncs its log to the disk at each commit. A worker plans, queues, records each step,
checks that it still is the one to do it, tells how far it is, and makes the requests to brain, which is a stand-in. The
plain loader is one process that cleans and stores the same batches by the same statements, one after the other, and
does none of that. At the end a harvest loses three of its workers at random, and what is in the tables is counted.
With `--strict` the exit code is 1 where an aim is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psycopg
from aims import Aim, take_strict, tell_aims
from fleet import Part, close
from overhead import print_table

from reference_services.worker.harvester.generate import feed as generated
from reference_services.worker.workflow import State
from tests.postgres import Server

PATIENCE_S = 900.0
KILLED = 3


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rows: Items of the feed; repeats and bad rows come on top.
        workers: How many, in turn.
        among: Workers of which some are killed.
    """

    rows: int
    workers: tuple[int, ...]
    among: int


FULL = Plan(200_000, (1, 2, 4, 10), 10)
QUICK = Plan(10_000, (1, 2), 4)


@dataclass(frozen=True)
class Harvested:
    """What came of a harvest.

    Attributes:
        seconds: How long it took.
        read: Rows that are not blank.
        products: Rows of the table.
        history: Rows of the price history.
        result: What the workflow says of itself.
    """

    seconds: float
    read: int
    products: int
    history: int
    result: dict[str, Any]

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.read / self.seconds


class Lab:
    """A server of PostgreSQL and a feed.

    Args:
        folder: For the feed.
        rows: Its items.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        self.server = Server({"max_connections": "200"})
        self.feed = folder / "feed.csv"
        self.feed.write_bytes(generated(rows, seed=7))
        self._made = 0

    def database(self) -> str:
        """A new database's URL."""
        self._made += 1
        with self.server.superuser() as connection:
            connection.execute(f"CREATE DATABASE bench_{self._made}".encode())
        return self.server.url(f"bench_{self._made}")

    @contextmanager
    def workers(self, url: str, count: int) -> Iterator[list[Part]]:
        """Replicas; the first makes the tables."""
        parts: list[Part] = []
        try:
            for number in range(count):
                options = {
                    "kind": "worker",
                    "url": url,
                    "feed": str(self.feed),
                    "executor": f"worker-{number}",
                }
                parts.append(Part("harvest_worker.py", options))
                if number == 0:
                    parts[0].read()
            for part in parts[1:]:
                part.read()
            yield parts
        finally:
            close(parts)


def plain(lab: Lab) -> float:
    """Rows a second of the plain loader."""
    part = Part("harvest_worker.py", {"kind": "plain", "url": (url := lab.database()), "feed": str(lab.feed)})
    part.read()
    part.tell({})
    seconds = waited(part)["seconds"]
    close([part])
    (rows,) = asked(url, "SELECT rows FROM commerce.runs")
    return float(rows / seconds)


def waited(part: Part) -> dict[str, Any]:
    """An answer that may take long."""
    assert part.child.stdout is not None
    found: dict[str, Any] = json.loads(part.child.stdout.readline())
    return found


def harvest(lab: Lab, count: int, killed: int = 0) -> Harvested:
    """A harvest by so many workers, of which some are killed at random moments of its first half."""
    url = lab.database()
    with lab.workers(url, count) as parts:
        begun = time.perf_counter()
        arguments = {"feed": str(lab.feed), "source": "shop"}
        parts[0].ask({"arguments": arguments, "idempotency_key": "bench"})
        chance = random.Random(7)
        victims = chance.sample(parts, killed)
        moments = sorted(chance.uniform(0.1, 0.5) for _ in victims)
        while (
            standing := asked(url, "SELECT state, done, total FROM worker.workflows WHERE parent_id = ''")
        )[0] < State.SUCCEEDED:
            if victims and standing[2] and standing[1] / standing[2] >= moments[0]:
                moments.pop(0)
                victims.pop().signal(signal.SIGKILL)
            if time.perf_counter() - begun > PATIENCE_S:
                raise SystemExit(f"a harvest took longer than {PATIENCE_S:g} s")
            time.sleep(0.1)
        seconds = time.perf_counter() - begun
    result, failure = asked(url, "SELECT result, failure FROM worker.workflows WHERE parent_id = ''")
    if failure:
        raise SystemExit(f"a harvest failed: {failure}")
    found = json.loads(result)
    (products,) = asked(url, "SELECT count(*) FROM commerce.products")
    (history,) = asked(url, "SELECT count(*) FROM commerce.price_history")
    return Harvested(seconds, found["read"], products, history, found)


def asked(url: str, query: str) -> tuple[Any, ...]:
    """The row of a query."""
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast feeds are harvested.")
    parser.add_argument("--quick", action="store_true", help="10,000 rows, to see that it works")
    take_strict(parser)
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    print(f"{plan.rows} items, {os.cpu_count()} processors; load before: {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as folder:
        lab = Lab(Path(folder), plan.rows)
        Path(folder).chmod(0o755)
        bare = plain(lab)
        found = {count: harvest(lab, count) for count in plan.workers}
        torn = harvest(lab, plan.among, KILLED)
    print_table(
        ("who", "rows/s", "of the plain loader", "seconds"),
        [
            ("plain loader", f"{bare:.0f}", "1.00", ""),
            *(
                (f"{count} workers", f"{each.rate:.0f}", f"{each.rate / bare:.2f}", f"{each.seconds:.1f}")
                for count, each in found.items()
            ),
            (
                f"{plan.among} workers, {KILLED} killed",
                *(f"{torn.rate:.0f}", f"{torn.rate / bare:.2f}", f"{torn.seconds:.1f}"),
            ),
        ],
    )
    one = found[1]
    aims = [
        Aim("one worker has 0.5 of the plain loader's speed", f"{one.rate / bare:.2f}", one.rate >= bare / 2),
        Aim(
            f"one row for each valid item, though {KILLED} workers were killed",
            f"{torn.products} of {plan.rows}",
            (torn.products, torn.history) == (plan.rows, one.history),
        ),
        Aim(
            "each harvest comes to the same",
            f"{len({counts(each) for each in found.values()} | {counts(torn)})} outcomes",
            all(counts(each) == counts(torn) for each in found.values()),
        ),
    ]
    raise SystemExit(tell_aims(aims, strict=arguments.strict))


def counts(each: Harvested) -> tuple[int, ...]:
    """What a harvest came to."""
    found = each.result
    return (each.read, each.products, each.history, *(found[key] for key in ("accepted", "rejected")))


if __name__ == "__main__":
    main()
