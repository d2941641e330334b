"""Signing keys: published ahead of use, good for as long as what they signed, and sealed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from meshkit import FailedPrecondition
from meshkit.authority import KeyStatus
from reference_services.shield.keybook import KeyBook
from reference_services.shield.model import KeyState
from reference_services.shield.sealing import Master
from reference_services.shield.sqlite import open_sqlite_storage
from tests.security.handmade import Clock

MASTER = Master(bytes(32))


@asynccontextmanager
async def opened(path: Path, clock: Clock, master: Master = MASTER) -> AsyncIterator[KeyBook]:
    async with open_sqlite_storage(path / "shield.sqlite", master) as storage:
        book = KeyBook(storage, master, activation=5, overlap=360, clock=clock)
        await book.load()
        yield book


def states(book: KeyBook) -> list[KeyState]:
    return [state for _, state in book.all()]


async def test_the_first_key_signs_at_once_and_is_the_same_after_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as book:
        kid, key = book.signing()
    async with opened(tmp_path, clock) as again:
        assert again.signing()[0] == kid
        assert again.signing()[1].private_bytes_raw() == key.private_bytes_raw()


async def test_a_new_key_is_published_before_it_signs_and_the_old_one_outlives_its_tokens(
    tmp_path: Path,
) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as book:
        first, _ = book.signing()
        await book.rotate("shop/ada", retire_others=False)
        assert states(book) == [KeyState.ACTIVE, KeyState.UPCOMING]
        clock.now += 4.9
        assert book.signing()[0] == first
        clock.now += 0.2
        assert book.signing()[0] != first
        assert states(book) == [KeyState.RETIRING, KeyState.ACTIVE]
        clock.now += 359.8
        row = await book.find("shield", first)
        assert row is not None
        assert row.status is KeyStatus.ACTIVE
        clock.now += 0.2
        row = await book.find("shield", first)
        assert row is not None
        assert row.status is KeyStatus.RETIRED


async def test_a_key_that_leaked_is_refused_at_once(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as book:
        first, _ = book.signing()
        clock.now += 1
        await book.rotate("shop/ada", retire_others=True)
        assert book.signing()[0] != first
        assert states(book) == [KeyState.RETIRED, KeyState.ACTIVE]


async def test_rotations_in_quick_succession_leave_one_that_signs(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as book:
        for _ in range(3):
            await book.rotate("shop/ada", retire_others=False)
            clock.now += 1
        assert states(book).count(KeyState.ACTIVE) == 1
        clock.now += 5
        assert states(book) == [KeyState.RETIRING] * 3 + [KeyState.ACTIVE]


async def test_where_no_key_signs_an_operator_is_told_the_mend(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as book:
        book._keys = tuple(replace(key, verifies_until=clock.now) for key in book._keys)
        with pytest.raises(FailedPrecondition, match="meshkit shield rotate") as caught:
            book.signing()
        assert caught.value.reason == "NO_KEY"


async def test_another_replica_knows_what_one_has_changed(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as one, opened(tmp_path, clock) as other:
        assert one.signing()[0] == other.signing()[0]
        await one.rotate("shop/ada", retire_others=True)
        await other.refresh()
        assert one.signing()[0] == other.signing()[0]


async def test_another_master_key_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as book:
        kid, _ = book.signing()
    with pytest.raises(FailedPrecondition, match="SHIELD_MASTER_KEY does not open") as caught:
        async with opened(tmp_path, clock, Master(b"1" * 32)):
            pass
    assert caught.value.reason == "MASTER_KEY_WRONG"
    async with opened(tmp_path, clock) as book:
        assert book.signing()[0] == kid


async def test_no_private_key_is_in_the_database_in_plain(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock()) as book:
        private = book.signing()[1].private_bytes_raw()
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert private not in files
    assert private.hex().encode() not in files
