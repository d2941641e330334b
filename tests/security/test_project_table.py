"""Writing to the project store: by several at once, into one that is full, and never in plain."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from meshkit.config import RedisUrl
from meshkit.errors import Aborted, NotFound, ResourceExhausted
from meshkit.redis.sealing import Sealer
from meshkit.security.keys import Grants, KeyRow
from meshkit.security.projects import ProjectStore, ProjectTable
from meshkit.security.projects.rows import RowCodec, RowRefused
from tests.security.handmade import Clock
from tests.security.shop import HASH, NAMESPACE, Stores, Table, held, key, put


async def test_writers_of_one_key_do_not_undo_each_other(tables: Table, stores: Stores) -> None:
    writers = [tables() for _ in range(4)]
    await put(writers[0], key(grants=Grants()))

    def granting(tenant: str) -> Callable[[KeyRow | None], KeyRow]:
        def revise(before: KeyRow | None) -> KeyRow:
            assert before is not None
            return key(grants=Grants(before.grants.tenants | {tenant}))

        return revise

    names = [f"t{number}" for number in range(len(writers))]
    changes = (each.change("shop", "s1", granting(name)) for each, name in zip(writers, names, strict=True))
    await asyncio.gather(*changes)
    found = held(await stores())
    assert found is not None
    assert found.grants.tenants == set(names)


async def test_a_key_that_others_write_again_and_again_is_given_up(
    tables: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, other = tables(), tables()
    await put(table, key())
    write = table._put

    async def write_late(*given: Any) -> bool:
        await put(other, key())
        return await write(*given)

    monkeypatch.setattr(table, "_put", write_late)
    with pytest.raises(Aborted, match="others write the key shop:s1 at the same time"):
        await put(table, key(grants=Grants()))
    (stored,) = await table.rows()
    assert stored.row is not None
    assert stored.row.key == key()


async def test_each_writing_is_later_than_the_one_before_whatever_the_clock_says(
    tables: Table, stores: Stores
) -> None:
    clock = Clock()
    table = tables(clock=clock)
    await put(table, key())
    clock.now -= 3600
    await table.remove("shop", "s1")
    await put(table, key(grants=Grants()))
    (stored,) = await table.rows()
    assert stored.row is not None
    assert (stored.row.written_at, stored.row.written_by) == (1_800_000_000_002, "a test")
    assert held(await stores()) == key(grants=Grants())


async def test_a_store_that_is_full_takes_no_new_key_but_changes_and_removals(tables: Table) -> None:
    table = tables(limit=1)
    await put(table, key())
    with pytest.raises(ResourceExhausted, match="has no room: remove keys that nobody uses"):
        await put(table, key("s2"))
    await put(table, key(grants=Grants()))
    await table.remove("shop", "s1")
    with pytest.raises(NotFound):
        await table.remove("shop", "s1")
    with pytest.raises(NotFound):
        await table.remove("shop", "s9")
    await put(table, key())


async def test_removals_are_forgotten_when_they_are_old(
    client: Redis, tables: Table, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    table = tables(clock=clock)
    for kid in ("s1", "s2"):
        await put(table, key(kid))
    await table.remove("shop", "s1")
    made = await stores()
    clock.now += 10 * 86_400
    assert await table.forget(11) == 0
    with capture_logs() as logs:
        assert await table.forget(9) == 1
        await made._read()
    assert await client.hkeys(HASH) == ["shop:s2"]
    assert not logs


async def test_a_row_that_cannot_be_used_is_not_changed_but_removed(
    client: Redis, table: ProjectTable
) -> None:
    await client.hset(HASH, "shop:s1", "spoilt")
    with pytest.raises(RowRefused, match="the row shop:s1 cannot be used: it is not sealed"):
        await put(table, key())
    await table.remove("shop", "s1")
    await put(table, key())
    assert [stored.refusal for stored in await table.rows()] == [""]


@pytest.mark.parametrize("make", [RowCodec, lambda sealer, namespace: _store(sealer, namespace)])
def test_nothing_is_stored_in_plain(make: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="REDIS_SECRET_KEY is false: set it"):
        make(Sealer(()), NAMESPACE)


def _store(sealer: Sealer, namespace: str) -> ProjectStore:
    return ProjectStore(RedisUrl.parse("redis://localhost/0"), namespace=namespace, sealer=sealer)
