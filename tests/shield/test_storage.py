"""What Shield keeps, the same in each of its storages."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from reference_services.shield.audit import Chain, Event
from reference_services.shield.config import ShieldConfig
from reference_services.shield.model import Project, ProjectKey, SigningKey
from reference_services.shield.opening import open_audit, open_storage
from reference_services.shield.sealing import Master, Unreadable
from reference_services.shield.storage import Storage
from tests.shield.conftest import MASTER_KEY

EVENT = Event(1_700_000_000.25, "shop/till", "test", {"what": "a change"})

Opening = Callable[[], AbstractAsyncContextManager[Storage]]


@pytest.fixture(params=["sqlite", "postgresql"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> ShieldConfig:
    """Settings that name a new storage of each kind."""
    url = "" if request.param == "sqlite" else request.getfixturevalue("database_url")
    return ShieldConfig(state_dir=tmp_path, shield_database_url=url, shield_master_key=MASTER_KEY)


@pytest.fixture
def master(config: ShieldConfig) -> Master:
    return Master(config.master_key())


@pytest.fixture
def opening(config: ShieldConfig, master: Master) -> Opening:
    return lambda: open_storage(config, master)


@pytest.fixture
async def storage(opening: Opening) -> AsyncIterator[Storage]:
    async with opening() as opened:
        yield opened


def audited(config: ShieldConfig) -> list[tuple[int, str, str]]:
    """What the log says, which holds."""
    with open_audit(config) as log:
        entries = list(log.entries)
        assert Chain(Master(config.master_key())).fault(log.base, log.head, entries) is None
    return [(entry.number, entry.actor, entry.action) for entry in entries]


def key(kid: str, signs_from: float = 1.5, until: float | None = None) -> SigningKey:
    return SigningKey(kid, b"public", b"sealed", signs_from, until)


def with_key(name: str, kid: str = "s1", byte: bytes = b"1", **facts: object) -> Project:
    return Project(name, (ProjectKey(kid, byte * 32, byte * 32),), **facts)  # type: ignore[arg-type]


async def test_a_project_is_found_as_it_was_written(storage: Storage) -> None:
    shop = with_key("shop", tenants=frozenset({"acme", "beta"}), max_lifetime=2.5, updated_by="local/ada")
    told = await storage.put_project(shop, keep_keys=False, event=EVENT)
    assert told.keys == (ProjectKey("s1"),)
    assert await storage.find_project("shop") == shop
    assert await storage.find_project("other") is None
    assert list(await storage.known_projects()) == [shop]


async def test_keys_that_are_not_named_stay_or_go_as_is_wished(storage: Storage) -> None:
    await storage.put_project(with_key("shop"), keep_keys=False, event=EVENT)
    both = await storage.put_project(with_key("shop", "s2", b"2"), keep_keys=True, event=EVENT)
    assert [each.kid for each in both.keys] == ["s1", "s2"]
    retired = Project("shop", (ProjectKey("s1", retired=True),))
    await storage.put_project(retired, keep_keys=True, event=EVENT)
    found = await storage.find_project("shop")
    assert found is not None
    assert [(each.kid, each.retired) for each in found.keys] == [("s1", True), ("s2", False)]
    assert found.keys[1].token == b"2" * 32
    last = await storage.put_project(with_key("shop", "s3"), keep_keys=False, event=EVENT)
    assert [each.kid for each in last.keys] == ["s3"]


async def test_projects_are_listed_in_order_of_their_names(storage: Storage) -> None:
    for name in ("shop-b", "shop", "bank"):
        await storage.put_project(with_key(name), keep_keys=False, event=EVENT)
    assert [each.project_id for each in await storage.list_projects("", 2)] == ["bank", "shop"]
    (last,) = await storage.list_projects("shop", 2)
    assert (last.project_id, last.keys) == ("shop-b", (ProjectKey("s1"),))


async def test_a_projects_keys_open_under_their_master_key_only(
    storage: Storage, config: ShieldConfig
) -> None:
    await storage.put_project(with_key("shop"), keep_keys=False, event=EVENT)
    async with open_storage(config, Master(b"2" * 32)) as other:
        with pytest.raises(Unreadable):
            await other.find_project("shop")
        assert list(await other.known_projects()) == []


async def test_signing_keys_are_changed_in_one_step_and_counted_when_they_change(storage: Storage) -> None:
    def second(keys: Sequence[SigningKey]) -> list[SigningKey]:
        assert keys == [key("a")]
        return [key("b", 0.5), key("a", until=9.25)]

    await storage.change_keys(lambda _: [key("a")], EVENT)
    changed = await storage.change_keys(second, EVENT)
    assert changed == await storage.signing_keys() == [key("b", 0.5), key("a", until=9.25)]
    before = await storage.revisions()
    assert await storage.change_keys(lambda keys: keys, EVENT) == changed
    assert await storage.revisions() == before
    assert before.keys == 2


async def test_what_fails_in_the_middle_leaves_nothing(storage: Storage, config: ShieldConfig) -> None:
    with pytest.raises(TypeError):
        await storage.put_project(
            with_key("shop"), keep_keys=False, event=Event(1.0, "shop/till", "test", {"what": object()})
        )
    assert await storage.find_project("shop") is None
    assert (await storage.revisions()).projects == 0
    assert audited(config) == []


async def test_revocations_are_told_in_order_and_the_later_one_of_the_same_counts(storage: Storage) -> None:
    assert await storage.revoke("j1", "", 100.5, EVENT) == 1
    assert await storage.revoke("", "shop", 50.0, EVENT) == 2
    assert await storage.revoke("j1", "", 100.5, EVENT) == 1
    assert await storage.revoke("", "shop", 60.0, EVENT) == 3
    told = await storage.revoked_after(0, 10)
    assert [(each.revision, each.token_id, each.project_id, each.moment) for each in told] == [
        (1, "j1", "", 100.5),
        (3, "", "shop", 60.0),
    ]
    assert [each.revision for each in await storage.revoked_after(1, 10)] == [3]
    assert len(await storage.revoked_after(0, 1)) == 1
    assert (await storage.revisions()).revocations == 3


async def test_a_token_is_revoked_by_its_id_and_a_project_before_a_moment(storage: Storage) -> None:
    await storage.revoke("j1", "", 100.0, EVENT)
    await storage.revoke("", "shop", 50.0, EVENT)
    assert await storage.is_revoked(["j0", "j1"], [], 999.0)
    assert await storage.is_revoked([], ["bank", "shop"], 49.0)
    assert not await storage.is_revoked(["j0", "shop"], ["bank", "j1"], 0.0)
    assert not await storage.is_revoked([], ["shop"], 50.0)
    assert not await storage.is_revoked([], [], 0.0)


async def test_each_change_is_in_the_log_and_what_changed_nothing_is_not(
    storage: Storage, config: ShieldConfig
) -> None:
    await storage.record(EVENT)
    await storage.revoke("j1", "", 5.0, Event(2.0, "shop/till", "revoke"))
    await storage.revoke("j1", "", 5.0, Event(3.0, "shop/till", "again"))
    await storage.change_keys(lambda _: [key("a")], Event(4.0, "shield", "first-key"))
    assert audited(config) == [
        (1, "shop/till", "test"),
        (2, "shop/till", "revoke"),
        (3, "shield", "first-key"),
    ]


async def test_what_is_over_is_swept_in_bounded_steps(storage: Storage, config: ShieldConfig) -> None:
    for number in range(5):
        await storage.revoke(f"j{number}", "", float(number), Event(float(number), "shop/till", "revoke"))
    await storage.change_keys(
        lambda _: [key("old", until=1.0), key("new", 2.0)], Event(9.0, "shield", "keys")
    )
    assert await storage.sweep(ended_before=3.0, audited_before=4.0, limit=2) == 2 + 1 + 2
    assert [number for number, _, _ in audited(config)] == [3, 4, 5, 6]
    assert await storage.sweep(ended_before=3.0, audited_before=4.0, limit=10) == 1 + 0 + 2
    assert [each.revision for each in await storage.revoked_after(0, 10)] == [4, 5]
    assert [each.kid for each in await storage.signing_keys()] == ["new"]
    assert await storage.sweep(ended_before=3.0, audited_before=99.0, limit=10) == 2
    assert audited(config) == []
    await storage.record(EVENT)
    assert [number for number, _, _ in audited(config)] == [7]
    assert (await storage.revisions()).revocations == 5


async def test_many_writers_at_once_make_one_chain_and_lose_no_revision(
    storage: Storage, opening: Opening, config: ShieldConfig
) -> None:
    seen: list[int] = []

    async def watch() -> None:
        while len(seen) < 60:
            seen.extend(each.revision for each in await storage.revoked_after(max(seen, default=0), 100))

    async def write(replica: Storage, name: str) -> None:
        for number in range(20):
            await replica.revoke(f"{name}{number}", "", 9e9, Event(1.0, name, "revoke"))
            await replica.record(Event(2.0, name, "issue"))

    async with opening() as second, opening() as third, asyncio.timeout(30), asyncio.TaskGroup() as together:
        together.create_task(watch())
        for name, replica in (("a", storage), ("b", second), ("c", third)):
            together.create_task(write(replica, name))
    assert seen == list(range(1, 61)), "a watcher passed by a revision"
    entries = audited(config)
    assert [number for number, _, _ in entries] == list(range(1, 121))
    assert {actor for _, actor, _ in entries} == {"a", "b", "c"}
