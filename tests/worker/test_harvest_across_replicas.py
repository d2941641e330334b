from __future__ import annotations

import shutil
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from reference_services.worker.workflow import State
from tests.worker.stores import shop

Until = Callable[..., Awaitable[Any]]


async def test_a_harvest_loses_and_repeats_nothing_while_replicas_die_and_freeze(
    replicas: Any, feed: Path, wait_until: Until, tmp_path: Path
) -> None:
    shutil.copy(feed, tmp_path / "feed.csv")
    first, *_ = await replicas.launch(3, delay=0.25, takeover_s=1.0)
    started = await first.start("harvest", {"feed": str(tmp_path / "feed.csv"), "source": "shop-a"}, "once")

    async def standing() -> Any:
        return await replicas.ledger.get("acme", started["id"])

    async def begun() -> bool:
        return bool((await standing()).done >= 200)

    await wait_until(begun)
    victim = replicas.all[(await standing()).executor]
    frozen = next(replica for replica in replicas.all.values() if replica is not victim)
    victim.signal(signal.SIGKILL)
    frozen.signal(signal.SIGSTOP)

    async def taken_over() -> bool:
        now = await standing()
        return bool(now.attempts >= 2 and now.executor not in (victim.executor, frozen.executor))

    async def frozen_is_given_up() -> bool:
        return frozen.executor not in {executor.id for executor in await replicas.ledger.executors()}

    with suppress(
        TimeoutError
    ):  # a process that froze inside a transaction keeps its lock, and all wait for it
        await wait_until(taken_over, 5)
        await wait_until(frozen_is_given_up, 5)
    frozen.signal(signal.SIGCONT)

    async def ended() -> bool:
        return bool((await standing()).state.final)

    await wait_until(ended)
    found = await standing()
    assert found.state is State.SUCCEEDED, found.failure
    result = found.result
    assert result is not None
    assert (result["read"], result["accepted"], result["duplicates"], result["rejected"]) == (
        2616,
        2400,
        96,
        120,
    )
    assert sum(result["reasons"].values()) == 120
    assert shop(replicas.url, "SELECT count(*) FROM products") == [(2400,)]
    assert shop(replicas.url, "SELECT count(*) FROM rejects") == [(120,)]
    assert shop(replicas.url, "SELECT count(*) FROM price_history") == [
        (2448,)
    ]  # 48 repeats have a new price
    offers = dict(shop(replicas.url, "SELECT sku, price_minor FROM offers"))
    assert offers == dict(shop(replicas.url, "SELECT sku, price_minor FROM price_history ORDER BY run, line"))
    with closing(sqlite3.connect(tmp_path / "brain.sqlite")) as brain:
        assert offers == dict(brain.execute("SELECT sku, price FROM cells"))
    assert shop(replicas.url, "SELECT count(DISTINCT done_by) FROM batches")[0][0] >= 2


async def test_work_that_a_paused_replica_takes_up_though_it_was_taken_over_goes_on(
    replicas: Any, feed: Path, wait_until: Until, tmp_path: Path
) -> None:
    shutil.copy(feed, tmp_path / "feed.csv")
    (replica,) = await replicas.launch(1, delay=0.25)
    started = await replica.start("harvest", {"feed": str(tmp_path / "feed.csv"), "source": "shop-a"}, "once")

    async def standing(workflow_id: str = started["id"]) -> Any:
        return await replicas.ledger.get("acme", workflow_id)

    async def begun() -> bool:
        return bool((await standing()).done >= 100)

    async def running(parent_id: str) -> list[Any]:
        return list(
            await replicas.ledger.page(
                "acme",
                states=[State.RUNNING],
                name="",
                parent_id=parent_id,
                before=(float("inf"), ""),
                limit=50,
            )
        )

    async def ended() -> bool:
        return bool((await standing()).state.final)

    await wait_until(begun)
    taken = [  # as one does that had claimed them, was paused, and wakes when they are another's
        each
        for each in (*await running(""), *await running(started["id"]))
        if await replicas.ledger.take_up("acme", each.id, "paused")  # unless it has just ended
    ]
    await wait_until(ended)
    found = await standing()
    assert found.state is State.SUCCEEDED, found.failure
    assert shop(replicas.url, "SELECT count(*) FROM products") == [(2400,)]
    again = [await standing(each.id) for each in taken]
    assert len(again) >= 2
    assert all(now.executor == replica.executor for now in again)


async def test_a_feed_that_changes_meanwhile_fails_the_harvest(
    replicas: Any, feed: Path, wait_until: Until, tmp_path: Path
) -> None:
    path = tmp_path / "feed.csv"
    shutil.copy(feed, path)
    (replica,) = await replicas.launch(delay=0.2)
    started = await replica.start("harvest", {"feed": path.as_uri(), "source": "shop-a"}, "once")

    async def standing() -> Any:
        return await replicas.ledger.get("acme", started["id"])

    async def begun() -> bool:
        return bool((await standing()).done)

    async def ended() -> bool:
        return bool((await standing()).state.final)

    await wait_until(begun)
    with path.open("ab") as handle:
        handle.write(b"late,row\n")
    await wait_until(ended)
    assert (await standing()).failure.reason == "FEED_CHANGED"
    outside = await replica.start("harvest", {"feed": "/etc/passwd", "source": "shop-a"}, "twice")
    assert outside == {"error": "InvalidArgument", "reason": "FEED_OUTSIDE_ROOTS"}
