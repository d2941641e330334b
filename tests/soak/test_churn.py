"""Minutes of calls while an instance comes, goes, dies or stands still every few seconds: nothing grows, no call fails.

    make test-soak                                     # ten minutes of it, after the other soaks
    SOAK_SECONDS=120 SOAK_CHURN_S=2 SOAK_SEED=7 …      # shorter, rougher, another order

What is compared are two quiet moments with as many instances as each other, in the middle and at the end: calls rest,
and proofs are forgotten. Calls go to the greeters and, through gates that live as long as the soak, to the greeters
again. A stream may break with an instance that was killed or stood still, for only its caller knows whether to begin it
anew; no other call may fail.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as stubs
from greeter.v1.greeter_client import GreeterClient

from meshkit import MeshError
from tests.redis.servers import ask
from tests.soak.churned import GATES, SKEW_S, Churned, churned
from tests.soak.looks import Figures, grown, of_a_mesh, of_process, of_python

pytestmark = pytest.mark.soak

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
CHURN_S = float(os.environ.get("SOAK_CHURN_S", "5"))
SEED = int(os.environ.get("SOAK_SEED", "1"))

CALLERS = 6
PAUSE_S = 0.05
"""Seconds between two calls of a caller: about a hundred calls a second in all."""

TENANTS = 20
TIMEOUT_S = 20.0
SETTLED_S = 2 * SKEW_S + 1.5
"""Seconds after which no replica remembers the proof of a call made before."""

ENDLESS = 100_000
INSTANCE = re.compile("[a-z]+-[0-9A-Z]{26}")
UNARY = frozenset({"greet", "greet through a gate", "greet by a plain stub"})


class Load:
    """Calls of all kinds, one after the other by each of several callers, until they are told to rest."""

    def __init__(self, mesh: Churned) -> None:
        self._mesh = mesh
        self._greeter = mesh.mesh.client(GreeterClient, hedge=["greet"])
        self._gate = mesh.mesh.client(GreeterClient, service="gate")
        self._stub = stubs.GreeterServiceStub(mesh.mesh.channel("greeter"))
        self._ways: dict[str, Callable[[str], Awaitable[None]]] = {
            "greet": self._greet,
            "greet through a gate": self._greet_through_a_gate,
            "greet by a plain stub": self._greet_by_a_plain_stub,
            "stream": self._stream,
            "stream through a gate": self._stream_through_a_gate,
            "stream given up": self._give_up,
            "conversation": self._converse,
        }
        self.begun = time.monotonic()
        self.made: Counter[str] = Counter()
        self.excused: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    async def for_seconds(self, seconds: float) -> None:
        """Has all callers call for so long."""
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._call_until(end, number) for number in range(CALLERS)))

    async def settle(self) -> None:
        """Calls a little, until the proofs of all calls before are forgotten, which is done as others come."""
        end = time.monotonic() + SETTLED_S
        while time.monotonic() < end:
            await asyncio.gather(*(self._try(way, "tenant-0") for way in sorted(UNARY)))
            await asyncio.sleep(0.1)

    @property
    def told(self) -> str:
        made, excused, failed = (each.total() for each in (self.made, self.excused, self.failed))
        return f"{made} calls, {failed} failed, {excused} streams broke with their instance"

    async def _call_until(self, end: float, number: int) -> None:
        turn = number
        while time.monotonic() < end:
            turn += 1
            way = list(self._ways)[turn % len(self._ways)]
            await self._try(way, f"tenant-{turn % TENANTS}")
            await asyncio.sleep(PAUSE_S)

    async def _try(self, way: str, tenant: str) -> None:
        self.made[way] += 1
        try:
            await self._ways[way](tenant)
        except MeshError as error:
            broke = way not in UNARY and self._mesh.explains(error)
            kind = self.excused if broke else self.failed
            kind[f"{way}: {error!r} of {error.instance}"] += 1

    async def _greet(self, tenant: str) -> None:
        await self._greeter.greet(pb.GreetRequest(name="Ada"), tenant=tenant, timeout=TIMEOUT_S)

    async def _greet_through_a_gate(self, tenant: str) -> None:
        await self._gate.greet(pb.GreetRequest(name="Ada"), tenant=tenant, timeout=TIMEOUT_S)

    async def _greet_by_a_plain_stub(self, tenant: str) -> None:
        metadata = (("x-cu-tenant", tenant),)
        await self._stub.Greet(pb.GreetRequest(name="Ada"), timeout=TIMEOUT_S, metadata=metadata)

    async def _stream(self, tenant: str) -> None:
        request = pb.GreetManyRequest(name="Ada", times=5)
        async with self._greeter.greet_many(request, tenant=tenant) as replies:
            assert len([reply async for reply in replies]) == 5

    async def _stream_through_a_gate(self, tenant: str) -> None:
        request = pb.GreetManyRequest(name="Ada", times=5)
        async with self._gate.greet_many(request, tenant=tenant) as replies:
            assert len([reply async for reply in replies]) == 5

    async def _give_up(self, tenant: str) -> None:
        request = pb.GreetManyRequest(name="Ada", times=ENDLESS)
        async with self._greeter.greet_many(request, tenant=tenant) as replies:
            async for _ in replies:
                break

    async def _converse(self, tenant: str) -> None:
        async with self._greeter.chat(_names(5), tenant=tenant) as replies:
            assert len([reply async for reply in replies]) == 5


async def _names(count: int) -> AsyncIterator[pb.ChatRequest]:
    for _ in range(count):
        yield pb.ChatRequest(name="Ada")
        await asyncio.sleep(0.1)


async def _nobody() -> AsyncIterator[pb.GreetAllRequest]:
    for request in ():
        yield request


async def churn(mesh: Churned) -> None:
    while True:
        await asyncio.sleep(CHURN_S)
        await mesh.churn()


async def report(mesh: Churned, load: Load) -> None:
    """Prints what there is, once a minute."""
    while True:
        await asyncio.sleep(60)
        told = ", ".join(f"{count} {what}" for what, count in sorted(mesh.events.items()))
        print(f"\n{time.monotonic() - load.begun:4.0f} s: {load.told}; {told}")
        show({name: of_process(pid) for name, pid in {"client": os.getpid(), **mesh.staying}.items()})


async def endure(mesh: Churned, load: Load, seconds: float) -> dict[str, Figures]:
    """Calls and churns for so long, and looks once all is quiet."""
    asides = [asyncio.create_task(churn(mesh)), asyncio.create_task(report(mesh, load))]
    await load.for_seconds(seconds)
    for aside in asides:
        aside.cancel()
    outcomes = await asyncio.gather(*asides, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes
    await mesh.calm()
    await load.settle()
    async with asyncio.timeout(120):
        while True:
            found = await look(mesh)
            if all(is_quiet(figures) for figures in found.values() if "endpoints" in figures):
                return found
            await load.settle()


def is_quiet(figures: Figures) -> bool:
    """Whether nobody that has gone is kept, and nobody that is there is mistrusted."""
    return not figures["links leaving"] and not figures["gates not open"]


async def look(mesh: Churned) -> dict[str, Figures]:
    """What everybody has that lives through it all, and Redis."""
    found = {"client": {**of_python(of_a_mesh(mesh.mesh)), **of_process(os.getpid())}}
    found |= {name: of_process(pid) for name, pid in mesh.staying.items()}
    gate = mesh.mesh.client(GreeterClient, service="gate", policy="round_robin")
    asked: set[str] = set()
    while len(asked) < GATES:
        told = json.loads((await gate.greet_all(_nobody(), timeout=TIMEOUT_S)).text)
        asked.add(told["name"])
        found[told["name"]] = told["figures"]
    for name in ("greeter", "gate"):
        page = await read_page(mesh.page_of(name))
        found[f"{name}'s page"] = {"lines": page.count("\n"), "instances": len(set(INSTANCE.findall(page)))}
    clients = await ask(mesh.redis, "CLIENT", "LIST")
    found["redis"] = {"connections": len(clients.splitlines()), "keys": await ask(mesh.redis, "DBSIZE")}
    return found


async def read_page(port: int) -> str:
    """The figures of a process, as Prometheus reads them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    page = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return page


def show(found: dict[str, Figures]) -> None:
    for name, figures in found.items():
        print(f"  {name:<10}", "  ".join(f"{what} {count:.0f}" for what, count in figures.items()))


async def test_nothing_grows_and_no_call_fails_while_instances_come_and_go(tmp_path: Path) -> None:
    print(f"\n{SECONDS:g} s, one event in {CHURN_S:g} s, seed {SEED}, load {os.getloadavg()[0]:.1f}")
    async with churned(tmp_path, SEED) as mesh:
        load = Load(mesh)
        pids = mesh.staying
        middle = await endure(mesh, load, SECONDS / 2)
        print("\nin the middle")
        show(middle)
        end = await endure(mesh, load, SECONDS / 2)
        print(f"\nat the end: {load.told}; {dict(mesh.events)}")
        show(end)
        budget = mesh.mesh.budget
        print(f"{budget.retries} retries, {budget.hedges} hedges; load {os.getloadavg()[0]:.1f}")
        assert mesh.staying == pids, "those that were to live through it did not"
    for failure, count in (*load.excused.items(), *load.failed.items()):
        print(f"{count} times {failure}")
    assert not load.failed
    assert {name: more for name in middle if (more := grown(middle[name], end[name]))} == {}
