"""Scaling: processes are real, the registry is one that the test speaks through."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meshkit.child import Child, Program, Restarts
from meshkit.cli.roster import Roster
from meshkit.cli.scaling import Scaler, ScaleRequest
from meshkit.discovery import Lease
from meshkit.discovery.memory import MemoryRegistry
from meshkit.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound
from meshkit.instance import Instance, State, new_instance_id
from meshkit.supervisor import Supervisor

STAYS = "import sys; sys.stdin.read()"
STUBBORN = (
    "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); "
    "sys.stdin.read()"
)
MISCONFIGURED = "raise SystemExit(78)"


def program(code: str, service: str = "echo") -> Program:
    return Program(service, (sys.executable, "-c", code), {"PATH": os.defpath})


@dataclass
class Mesh:
    """Processes, and a registry that says of them what a test wants it to."""

    supervisor: Supervisor
    registry: MemoryRegistry
    roster: Roster
    programs: dict[str, Program]
    leases: dict[str, Lease] = field(default_factory=dict)

    @property
    def scaler(self) -> Scaler:
        return Scaler(self.supervisor, self.programs, self.roster)

    def child(self, number: int) -> Child:
        return next(each for each in self.supervisor.children["echo"] if each.number == number)

    async def register(
        self, shard_key: str, *, state: State = State.SERVING, started_at: float | None = None
    ) -> None:
        self.leases[shard_key] = await self.registry.register(
            Instance(
                service="echo",
                instance_id=new_instance_id("echo"),
                address="127.0.0.1:5",
                shard_key=shard_key,
                state=state,
                started_at=time.time() if started_at is None else started_at,
            )
        )


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    registry = MemoryRegistry()
    roster = Roster(registry)
    programs = {"echo": program(STAYS), "other": program(STAYS, "other")}
    async with (
        Supervisor(tmp_path, restarts=Restarts(first=0.01), grace=0.3) as supervisor,
        roster.following(programs),
    ):
        yield Mesh(supervisor, registry, roster, programs)
    await registry.close()


def request(timeout_s: float = 30.0, *, wait: bool = True, **replicas: int) -> ScaleRequest:
    return ScaleRequest(replicas=replicas, wait=wait, timeout_s=timeout_s)


async def test_it_waits_until_every_replica_serves(mesh: Mesh, eventually) -> None:
    scaling = asyncio.create_task(mesh.scaler.scale(request(echo=2)))
    await eventually(lambda: len(mesh.supervisor.children.get("echo", ())) == 2)
    await eventually(lambda: all(child.pid for child in mesh.supervisor.children["echo"]))
    await mesh.register("echo-1")
    await mesh.register("echo-2", state=State.STARTING)
    await eventually(lambda: mesh.roster.instance(mesh.child(2)) is not None)
    assert not scaling.done()
    await mesh.leases["echo-2"].update(state=State.SERVING)
    answer = await scaling
    assert answer.model_dump() == {
        "services": [{"service": "echo", "before": 0, "after": 2}],
        "settled": True,
    }


async def test_a_predecessor_or_a_stranger_in_the_registry_is_not_a_replica(mesh: Mesh) -> None:
    await mesh.register("echo-1", started_at=time.time() - 10)
    await mesh.register("stranger-1")
    with pytest.raises(
        DeadlineExceeded, match=r"echo: 0 → 1, but after 0.3 s echo-1 does not serve; it goes on"
    ):
        await mesh.scaler.scale(request(0.3, echo=1))
    assert mesh.roster.instance(mesh.child(1)) is None


async def test_what_is_late_is_named_with_its_log(mesh: Mesh) -> None:
    with pytest.raises(DeadlineExceeded) as late:
        await mesh.scaler.scale(request(0.2, echo=7))
    names = "echo-1, echo-2, echo-3, echo-4, echo-5 and 2 more do not serve"
    assert late.value.message == (
        f"echo: 0 → 7, but after 0.2 s {names}; it goes on\n  its log: {mesh.child(1).log}"
    )
    assert late.value.reason == "NOT_SETTLED"


async def test_a_registry_that_cannot_be_read_is_named(mesh: Mesh, eventually) -> None:
    await mesh.register("echo-9")
    await eventually(lambda: "echo" in mesh.roster.snapshots)
    with mesh.registry.outage():
        await eventually(lambda: mesh.roster.stale_since is not None)
        with pytest.raises(
            DeadlineExceeded, match="memory:// cannot be read since 0 s, so who serves is not"
        ):
            await mesh.scaler.scale(request(0.2, echo=1))


async def test_a_replica_that_ends_for_good_is_not_waited_for(mesh: Mesh) -> None:
    mesh.programs["echo"] = program(MISCONFIGURED)
    with pytest.raises(FailedPrecondition) as ended:
        await mesh.scaler.scale(request(echo=1))
    assert ended.value.message == (
        "echo: 0 → 1, but echo-1 ended with exit code 78, its configuration is wrong, and is not started again\n"
        f"  its log: {mesh.child(1).log}"
    )


async def test_it_waits_until_what_is_too_much_has_left(mesh: Mesh, eventually) -> None:
    mesh.programs["echo"] = program(STUBBORN)
    await mesh.scaler.scale(request(wait=False, echo=1))
    child = mesh.child(1)
    await eventually(lambda: child.log.exists() and child.log.read_text() == "up\n")
    with pytest.raises(
        DeadlineExceeded, match=r"echo: 1 → 0, but after 0.1 s echo-1 has not ended; it goes on"
    ):
        await mesh.scaler.scale(request(0.1, echo=0))
    assert (await mesh.scaler.scale(request(echo=0))).services[0].before == 0
    await mesh.supervisor.gone([child])
    assert child.exit_code == -signal.SIGKILL


async def test_two_at_once_take_turns_and_the_second_one_waits_no_longer_than_it_may(
    mesh: Mesh, eventually
) -> None:
    scaler = mesh.scaler
    first = asyncio.create_task(scaler.scale(request(echo=1)))
    await eventually(lambda: "echo" in mesh.supervisor.children)
    with pytest.raises(
        DeadlineExceeded,
        match=r"another scaling or restart is under way, and has not ended in 0.1 s; nothing",
    ):
        await scaler.scale(request(0.1, wait=False, echo=5))
    assert len(mesh.supervisor.children["echo"]) == 1
    second = asyncio.create_task(scaler.scale(request(wait=False, echo=3)))
    await eventually(lambda: mesh.child(1).pid is not None)
    await mesh.register("echo-1")
    outcomes = [(await each).services[0] for each in (first, second)]
    assert [(each.before, each.after) for each in outcomes] == [(0, 1), (1, 3)]


async def test_who_gives_up_lets_the_next_one_in_and_what_was_begun_goes_on(mesh: Mesh, eventually) -> None:
    scaler = mesh.scaler
    first = asyncio.create_task(scaler.scale(request(echo=2)))
    await eventually(lambda: "echo" in mesh.supervisor.children)
    first.cancel()
    await asyncio.wait([first])
    answer = await scaler.scale(request(wait=False, echo=1, other=1))
    assert [(each.service, each.before, each.after) for each in answer.services] == [
        ("echo", 2, 1),
        ("other", 0, 1),
    ]
    assert not answer.settled


async def test_an_unknown_service_changes_nothing(mesh: Mesh) -> None:
    with pytest.raises(NotFound, match="no service 'ohter'; did you mean other") as unknown:
        await mesh.scaler.scale(request(echo=1, ohter=1))
    assert unknown.value.reason == "SERVICE_UNKNOWN"
    assert mesh.supervisor.children == {}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "replicas: "),
        ({"replicas": {}}, "replicas: "),
        ({"replicas": {"echo": -1}}, "replicas.echo: Input should be greater than or equal to 0"),
        ({"replicas": {"echo": 257}}, "replicas.echo: Input should be less than or equal to 256"),
        ({"replicas": {"echo": "3"}}, "replicas.echo: "),
        ({"replicas": {"echo": True}}, "replicas.echo: "),
        ({"replicas": {f"s{n}": 1 for n in range(65)}}, "replicas: "),
        ({"replicas": {"echo": 1}, "timeout_s": 0}, "timeout_s: "),
        ({"replicas": {"echo": 1}, "timeout_s": 1e9}, "timeout_s: "),
        ({"replicas": {"echo": 1}, "hurry": True}, "hurry: Extra inputs are not permitted"),
    ],
)
async def test_a_request_that_is_out_of_bounds_is_refused(mesh: Mesh, fields: dict, why: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await mesh.scaler.serve(fields)
    assert refused.value.message.startswith(why)
    assert mesh.supervisor.children == {}


async def test_a_request_of_the_socket_is_served(mesh: Mesh) -> None:
    answer = await mesh.scaler.serve({"replicas": {"other": 2}, "wait": False})
    assert answer == {"services": [{"service": "other", "before": 0, "after": 2}], "settled": False}
