from __future__ import annotations

import random
from pathlib import Path

import pytest

from meshkit import DataLoss, InvalidArgument, NotFound
from reference_services.worker.harvester.commerce import Commerce, Run
from reference_services.worker.harvester.planning import outline
from reference_services.worker.harvester.publishing import cell_id, upsert
from reference_services.worker.harvester.workflows import Errand, excerpt, read_batch
from reference_services.worker.storage import Storage
from tests.worker.stores import opened, shop

ROWS = [
    ("A", "1.00"),
    ("B", "5.00"),
    ("A", "2.00"),
    ("A", "2.00"),
    ("A", "1.00"),
    ("B", "none"),
    ("B", "5.00"),
]


@pytest.fixture
def commerce(storage: Storage) -> Commerce:
    return storage.commerce


async def begun(
    commerce: Commerce, folder: Path, name: str, rows: list[tuple[str, str]], tenant: str = "acme"
) -> Run:
    path = folder / f"{name}.csv"
    path.write_text(
        "sku,name,price,currency\n" + "".join(f"{sku},thing,{price},EUR\n" for sku, price in rows)
    )
    plan = outline(path, [str(folder)], "auto", 1)
    run = await commerce.runs.begin(tenant, name, "shop", path, plan)
    assert await commerce.runs.begin(tenant, name, "shop", path, plan) == run
    return run


async def work(commerce: Commerce, run: Run, order: list[int]) -> list[bool]:
    """Commits batches; whether each was new."""
    done = []
    for number in order:
        (batch,) = await commerce.batches.span(run, number, number + 1)
        data = run.feed.read_bytes()[batch.start : batch.end]
        stored = await commerce.batches.commit(run, number, *read_batch(data, batch, run))
        done.append(stored is not None)
    return done


def history(url: str, tenant: str = "acme") -> list[tuple[str, int]]:
    return shop(
        url,
        f"SELECT sku, price_minor FROM price_history WHERE tenant = '{tenant}' ORDER BY sku, run, line",
    )


@pytest.mark.parametrize("seed", range(4))
async def test_the_outcome_does_not_depend_on_the_order_of_work(
    commerce: Commerce, url: str, tmp_path: Path, seed: int
) -> None:
    run = await begun(commerce, tmp_path, "one", ROWS)
    order = list(range(len(ROWS)))
    random.Random(seed).shuffle(order)
    assert all(await work(commerce, run, order))
    assert not any(await work(commerce, run, order))  # twice is once
    ended = await commerce.runs.finish(run)
    assert await commerce.runs.finish(run) == ended
    assert (ended.rows, ended.accepted, ended.duplicates, ended.rejected) == (7, 2, 4, 1)
    assert ended.reasons == {"PRICE_NOT_A_NUMBER": 1}
    assert history(url) == [("A", 100), ("A", 200), ("A", 100), ("B", 500)]
    assert [item.price.minor for item, _ in await commerce.items.standing("acme", "shop", ["A", "B"])] == [
        100,
        500,
    ]
    assert await commerce.items.repeated(run, "", 10) == ["A", "B"]
    (reject,) = await commerce.items.rejects("acme", run.id)
    assert (reject.line, reject.reason, reject.excerpt) == (7, "PRICE_NOT_A_NUMBER", "B,thing,none,EUR")


async def test_a_later_run_adds_only_what_changed(commerce: Commerce, url: str, tmp_path: Path) -> None:
    for name, price in (("one", "1.00"), ("two", "1.00"), ("three", "3.00")):
        run = await begun(commerce, tmp_path, name, [("A", price)])
        await work(commerce, run, [0])
        await commerce.runs.finish(run)
    assert history(url) == [("A", 100), ("A", 300)]


async def test_another_tenant_sees_nothing(commerce: Commerce, url: str, tmp_path: Path) -> None:
    run = await begun(commerce, tmp_path, "one", ROWS)
    await work(commerce, run, list(range(7)))
    await commerce.runs.finish(run)
    assert await commerce.items.standing("rival", "shop", ["A"]) == []
    assert await commerce.items.rejects("rival", run.id) == []
    with pytest.raises(NotFound):
        await commerce.runs.run("rival", run.id)
    assert history(url, "rival") == []


async def test_a_run_with_a_missing_row_does_not_end(commerce: Commerce, url: str, tmp_path: Path) -> None:
    run = await begun(commerce, tmp_path, "one", ROWS)
    await work(commerce, run, [0, 1, 2])
    with pytest.raises(DataLoss) as refused:
        await commerce.runs.finish(run)
    assert refused.value.reason == "HARVEST_INCOMPLETE"
    assert history(url) == []


async def test_items_become_the_same_cells_each_time(commerce: Commerce, url: str, tmp_path: Path) -> None:
    run = await begun(commerce, tmp_path, "one", [("A", "1.00")])
    await work(commerce, run, [0])
    request = upsert("shop", await commerce.items.standing("acme", "shop", ["A"]))
    assert request == upsert("shop", await commerce.items.standing("acme", "shop", ["A"]))
    (cell,) = request.cells
    assert list(request.versions) == [cell.id]
    assert cell.id == cell_id("shop", "A") != cell_id("shop2", "A")
    assert (cell.product.price_minor, cell.product.currency, cell.text) == (100, "EUR", "thing. 1.00 EUR")


async def test_a_version_grows_with_line_and_run_whatever_the_clock_says(url: str, tmp_path: Path) -> None:
    now = 1_800_000_000.0
    async with opened(url, clock=lambda: now) as storage:
        commerce = storage.commerce

        async def version() -> int:
            ((_, found),) = await commerce.items.standing("acme", "shop", ["A"])
            return found

        seen = []
        for name in ("one", "two", "three"):
            run = await begun(commerce, tmp_path, name, [("A", "1.00"), ("A", "2.00")])
            for batch in (0, 1):
                await work(commerce, run, [batch])
                seen.append(await version())
            now -= 3600.0  # the next run is begun by a machine whose clock is behind
    assert seen == sorted(set(seen))
    assert seen[-1] < 2**63
    now = 1_800_000_060.0
    async with opened(f"sqlite:///{tmp_path}/anew/worker.sqlite", clock=lambda: now) as storage:
        commerce = storage.commerce
        await work(commerce, await begun(commerce, tmp_path, "four", [("A", "1.00")]), [0])
        assert await version() > seen[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"feed": "/x", "source": ""},
        {"feed": "/x", "source": "a b"},
        {"feed": 1, "source": "s"},
        {"feed": "/x", "source": "s", "format": "xml"},
        {"feed": "/x", "source": "s", "currency": "XXX"},
        {"feed": "/x", "source": "s", "tenant": "rival"},
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Errand.parse(arguments)
    assert refused.value.reason == "HARVEST_ARGUMENTS"


def test_an_excerpt_can_be_shown_on_a_terminal() -> None:
    assert excerpt(b"\x1b[31mred\xff\n") == "\ufffd[31mred\ufffd\ufffd"
    assert len(excerpt(b"x" * 1000)) == 160


async def test_a_commit_tells_which_items_now_stand_as_it_has_them(
    commerce: Commerce, tmp_path: Path
) -> None:
    run = await begun(commerce, tmp_path, "one", [("A", "1.00"), ("A", "2.00"), ("B", "none"), ("C", "3.00")])

    async def commit(number: int) -> list[tuple[str, int]] | None:
        (batch,) = await commerce.batches.span(run, number, number + 1)
        data = run.feed.read_bytes()[batch.start : batch.end]
        stored = await commerce.batches.commit(run, number, *read_batch(data, batch, run))
        if stored is not None:
            skus = [item.sku for item, _ in stored]
            assert stored == await commerce.items.standing("acme", "shop", skus)
        return None if stored is None else [(item.sku, item.price.minor) for item, _ in stored]

    assert await commit(1) == [("A", 200)]
    assert await commit(0) == []  # the later one stands
    assert await commit(2) == []
    assert await commit(3) == [("C", 300)]
    assert await commit(3) is None
    with pytest.raises(NotFound):
        await commerce.batches.span(run, 3, 5)
