from __future__ import annotations

import pytest
import structlog

from reference_services.worker.ledger import Ledger
from reference_services.worker.liveness import Liveness
from reference_services.worker.storage import Storage
from reference_services.worker.workflow import State, Workflow


class World:
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.now = 0.0
        self.given_back: list[tuple[str, str]] = []

    def replica(self, name: str) -> Liveness:
        async def give_back(executor: str) -> None:
            self.given_back.append((name, executor))

        return Liveness(self.ledger, name, 5.0, give_back, structlog.get_logger(), lambda: self.now)


@pytest.fixture
def world(storage: Storage) -> World:
    return World(storage.ledger)


async def test_a_silent_replica_is_taken_over_once_and_not_before_its_time(world: World) -> None:
    a, b, silent = world.replica("a"), world.replica("b"), world.replica("silent")
    await silent.round()
    for second in range(5):
        world.now = float(second)
        assert await a.round() == await b.round() == []
    world.now = 5.0
    assert await a.round() + await b.round() == ["silent"]
    assert len(world.given_back) == 1
    world.now = 6.0
    assert await a.round() + await b.round() == []


async def test_a_replica_that_was_paused_itself_takes_over_nobody(world: World) -> None:
    paused, other = world.replica("paused"), world.replica("other")
    await other.round()
    await paused.round()
    world.now = 60.0
    assert await paused.round() == []
    await other.round()
    world.now = 61.0
    assert await paused.round() == []


async def test_one_that_said_goodbye_is_followed_at_once(world: World) -> None:
    a, leaving = world.replica("a"), world.replica("leaving")
    await leaving.round()
    await world.ledger.leave("leaving")
    assert await a.round() == ["leaving"]


async def test_a_claimant_that_dies_over_it_is_replaced(world: World) -> None:
    survivor = world.replica("survivor")
    await world.ledger.beat("dead")
    (dead,) = await world.ledger.executors()
    assert await world.ledger.claim(dead, "claimant")
    assert not await world.ledger.claim(dead, "survivor")  # that beat has been claimed
    for second in range(6):
        world.now = float(second)
        found = await survivor.round()
    assert found == ["dead"]


async def test_one_that_was_taken_for_dead_learns_it(world: World) -> None:
    assert await world.ledger.beat("zombie")
    (zombie,) = await world.ledger.executors()
    assert await world.ledger.claim(zombie, "other")
    assert not await world.ledger.beat("zombie")
    assert await world.ledger.beat("zombie")


async def test_an_old_execution_can_change_nothing(world: World) -> None:
    ledger = world.ledger
    new = Workflow(id="f" * 32, tenant="acme", principal="p/n", name="x", state=State.QUEUED)
    assert await ledger.add(new)
    old = await ledger.take_up("acme", new.id, "old")
    young = await ledger.take_up("acme", new.id, "young")
    assert old is not None
    assert young is not None
    await ledger.progress("acme", new.id, old.attempts, 7, 9, "old")
    assert not await ledger.finish("acme", new.id, old.attempts, result={"by": "old"})
    assert await ledger.finish("acme", new.id, young.attempts, result={"by": "young"})
    assert await ledger.take_up("acme", new.id, "old") is None
    found = await ledger.get("acme", new.id)
    assert found is not None
    assert (found.result, found.done) == ({"by": "young"}, 0)
