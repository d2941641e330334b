"""The project store, on a real Redis: pushed to every verifier, and in force whatever Redis does."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from structlog.testing import capture_logs

from meshkit.config import RedisUrl, SealingKey
from meshkit.errors import Aborted, NotFound, ResourceExhausted, Unauthenticated, Unavailable
from meshkit.redis import following
from meshkit.redis.database import Database
from meshkit.redis.sealing import Sealer
from meshkit.redis.server import LocalServer, free_port
from meshkit.redis.trouble import RedisTrouble
from meshkit.security.keys import Grants, KeyRow, KeyStatus, own_ring
from meshkit.security.projects import ProjectStore, ProjectTable, StoredRing, known
from meshkit.security.projects.known import KnownRows
from meshkit.security.projects.rows import ProjectRow, RowCodec, RowRefused
from meshkit.security.tokens import TokenVerifier
from meshkit.testing import LocalMesh
from tests.redis.servers import acl_server, client_of
from tests.security.handmade import SETTINGS, Clock, Handmade, call
from tests.security.services import BODY, GREET, Echo, Front

SEALING = SealingKey("k1", b"\x01" * 32)
SEALER = Sealer([SEALING])
NAMESPACE = "contextunity"
HASH = "contextunity:projects"
EVENTS = "contextunity:projects:events"
SHOP = Handmade("echo", "the-secret-of-the-shop-that-is-not-ours", "shop", "s1", name="till")
GRANTS = Grants(frozenset({"acme"}), frozenset({"echo:greet"}), frozenset({"till"}))

Eventually = Callable[..., Awaitable[None]]


def key(kid: str = "s1", *, grants: Grants = GRANTS, **values: Any) -> KeyRow:
    return KeyRow("shop", kid, **{"grants": grants, "secret": SHOP.secret.encode(), **values})


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[LocalServer]:
    async with LocalServer(tmp_path / "redis") as running:
        yield running


@pytest.fixture
async def client(server: LocalServer) -> AsyncIterator[Redis]:
    async with client_of(server) as opened:
        yield opened


Table = Callable[..., ProjectTable]


@pytest.fixture
async def tables(server: LocalServer) -> AsyncIterator[Table]:
    opened: list[Database] = []

    def make(sealer: Sealer = SEALER, url: str = "", **options: Any) -> ProjectTable:
        opened.append(Database(RedisUrl.parse(url or server.url)))
        return ProjectTable(opened[-1], namespace=NAMESPACE, sealer=sealer, author="a test", **options)

    yield make
    for database in opened:
        await database.close()


@pytest.fixture
def table(tables: Table) -> ProjectTable:
    return tables()


Stores = Callable[..., Awaitable[ProjectStore]]


@pytest.fixture
async def stores(server: LocalServer) -> AsyncIterator[Stores]:
    started: list[ProjectStore] = []

    async def start(url: str = "", sealer: Sealer = SEALER, **options: Any) -> ProjectStore:
        made = ProjectStore(RedisUrl.parse(url or server.url), namespace=NAMESPACE, sealer=sealer, **options)
        started.append(made)
        await made.start()
        return made

    yield start
    for each in started:
        await each.close()


async def put(table: ProjectTable, row: KeyRow) -> None:
    await table.change(row.project, row.kid, lambda before: row)


def held(made: ProjectStore, kid: str = "s1") -> KeyRow | None:
    return made._known.find("shop", kid)


async def test_every_verifier_knows_and_refuses_a_key_within_a_second(
    table: ProjectTable, stores: Stores, eventually: Eventually
) -> None:
    verifiers = [await stores() for _ in range(5)]
    assert all([each.complete and await each.find("shop", "s1") is None for each in verifiers])
    await put(table, key())
    await eventually(lambda: all(held(each) == key() for each in verifiers), 1.0)
    generations = [each.generation for each in verifiers]
    await table.remove("shop", "s1")
    await eventually(lambda: not any(held(each) for each in verifiers), 1.0)
    assert all(each.generation > before for each, before in zip(verifiers, generations, strict=True))


async def test_what_was_there_before_is_known_after_the_start(table: ProjectTable, stores: Stores) -> None:
    await put(table, key())
    await put(table, key("s2", status=KeyStatus.RETIRED, secret=None))
    made = await stores()
    assert (held(made), held(made, "s2")) == (key(), key("s2", status=KeyStatus.RETIRED, secret=None))
    assert made.generation > 0


async def test_a_token_in_use_is_refused_once_its_key_is_removed(
    table: ProjectTable, stores: Stores, eventually: Eventually
) -> None:
    await put(table, key())
    made = await stores()
    verifier = TokenVerifier("echo", StoredRing([own_ring("local", [])], made), namespace=NAMESPACE)
    token = SHOP.token()
    await verifier.verify(token)
    assert verifier.known(token) is not None
    await table.remove("shop", "s1")
    await eventually(lambda: verifier.known(token) is None)
    with pytest.raises(Unauthenticated) as refused:
        await verifier.verify(token)
    assert refused.value.reason == "KEY_UNKNOWN"


async def test_a_key_retired_in_the_store_is_refused_though_it_is_the_own(
    table: ProjectTable, stores: Stores, eventually: Eventually
) -> None:
    made = await stores()
    ring = StoredRing([own_ring("shop", [("s1", SHOP.secret)])], made)
    verifier = TokenVerifier("echo", ring, namespace=NAMESPACE)
    token = SHOP.token()
    await verifier.verify(token)
    await put(table, key(status=KeyStatus.RETIRED, secret=None))
    await eventually(lambda: verifier.known(token) is None)
    with pytest.raises(Unauthenticated) as refused:
        await verifier.verify(token)
    assert refused.value.reason == "KEY_RETIRED"


async def test_known_keys_hold_while_redis_is_gone_and_changes_are_followed_after(
    server: LocalServer, table: ProjectTable, stores: Stores, eventually: Eventually
) -> None:
    await put(table, key())
    made = await stores()
    with capture_logs() as logs:
        await server.kill()
        await eventually(lambda: made._trouble is not None)
        assert held(made) == key()
        await server.restart()
        await eventually(lambda: made._trouble is None)
    told = [line["event"] for line in logs if line["event"].startswith("project store")]
    assert told == [
        "project store cannot be read; the keys that are known hold, and it is tried again",
        "project store is read again",
    ]
    assert held(made) == key()
    await table.remove("shop", "s1")
    await eventually(lambda: held(made) is None)


async def test_a_store_that_comes_back_empty_takes_no_key_out_and_says_so_once(
    server: LocalServer,
    tables: Table,
    stores: Stores,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "REREAD_S", 0.05)
    table = tables()
    await put(table, key())
    await put(table, key("gone"))
    await table.remove("shop", "gone")
    made = await stores()
    with capture_logs() as logs:
        await server.stop()
        await server.restart(wipe=True)
        await eventually(lambda: any("missing" in line["event"] for line in logs))
        read = made._next_reading
        await eventually(lambda: made._next_reading > read)
    (told,) = [line for line in logs if "missing" in line["event"]]
    assert (told["log_level"], told["count"], told["keys"]) == ("error", 1, "shop:s1")
    assert (held(made), held(made, "gone")) == (key(), None)
    await put(table, key("s2"))
    await eventually(lambda: held(made, "s2") is not None)
    await put(table, key(status=KeyStatus.RETIRED, secret=None))
    await eventually(lambda: held(made).status is KeyStatus.RETIRED)  # type: ignore[union-attr]


async def test_a_flush_takes_no_key_out_and_undoes_no_removal(
    client: Redis,
    table: ProjectTable,
    stores: Stores,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "REREAD_S", 0.05)
    await put(table, key())
    copy = await client.hgetall(HASH)
    await table.remove("shop", "s1")
    await put(table, key("s2"))
    made = await stores()
    await client.flushall()
    await client.hset(HASH, mapping=copy)  # what somebody kept from before the removal
    await eventually(lambda: made.refused_rows > 0)
    assert (held(made), held(made, "s2")) == (None, key("s2"))


async def test_before_the_first_reading_an_unknown_key_may_be_tried_again_elsewhere(
    tmp_path: Path, stores: Stores, eventually: Eventually
) -> None:
    port = free_port()
    late = LocalServer(tmp_path / "late", port=port, password="")
    started = time.monotonic()
    made = await stores(late.url)
    assert time.monotonic() - started < following.START_S
    ring = StoredRing([own_ring("local", [("k1", "a-secret-that-is-long-enough-to-be-one")])], made)
    own = await ring.find("local", "k1")
    assert own is not None
    with pytest.raises(Unavailable) as refused:
        await ring.find("shop", "s1")
    assert (refused.value.reason, refused.value.unprocessed) == ("KEYS_NOT_READ", True)
    async with late:
        await eventually(lambda: made.complete)
        assert await ring.find("shop", "s1") is None


async def test_a_redis_that_says_nothing_does_not_hold_the_start_up(
    server: LocalServer, stores: Stores
) -> None:
    server.pause()
    try:
        made = ProjectStore(RedisUrl.parse(server.url), namespace=NAMESPACE, sealer=SEALER)
        with capture_logs() as logs:
            await made.start(patience=0.05)
        await made.close()
    finally:
        server.resume()
    assert not made.complete
    assert [line["event"] for line in logs] == [
        "the project store was not read in time; it goes on being tried"
    ]


async def test_a_redis_that_refuses_us_for_good_ends_a_strict_start(
    server: LocalServer, stores: Stores
) -> None:
    wrong = server.url.replace(server.url.partition("@")[0], "redis://:not-the-password")
    with pytest.raises(Unavailable, match="refuses the user or the password") as refused:
        await stores(wrong, strict=True)
    assert refused.value.reason == "REDIS_CREDENTIALS"
    with capture_logs() as logs:
        made = await stores(wrong)
    assert not made.complete
    assert "refuses the user or the password" in next(line["reason"] for line in logs if "reason" in line)


async def test_a_defect_that_ends_the_following_is_told(
    stores: Stores, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(rows: KnownRows) -> None:
        raise RuntimeError("a defect")

    made = await stores()
    monkeypatch.setattr(KnownRows, "start_reading", fail)
    monkeypatch.setattr(made, "_next_reading", 0.0)
    with capture_logs() as logs:
        await made._database.execute("PUBLISH", EVENTS, "anything")
        await eventually(lambda: any("not followed any longer" in line["event"] for line in logs))


async def test_rows_that_are_none_are_dropped_counted_and_logged_once(
    client: Redis,
    table: ProjectTable,
    stores: Stores,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "REREAD_S", 0.05)
    await put(table, key())
    sealed = await client.hget(HASH, "shop:s1")
    assert sealed is not None
    plain = json.dumps({"version": 1, "written_at": 1, "written_by": "x", "project": "shop", "kid": "plain"})
    await client.hset(
        HASH, mapping={"shop:plain": plain, "shop:copied": sealed, "": "x", "shop:junk": "v1.k1.x"}
    )
    with capture_logs() as logs:
        made = await stores()
        await eventually(lambda: made.refused_rows >= 8)
        await client.publish(EVENTS, "nonsense")
        await eventually(lambda: any(line.get("row") == "nonsense" for line in logs))
    assert (held(made), held(made, "copied"), held(made, "plain")) == (key(), None, None)
    told = {
        line["row"]: line["reason"] for line in logs if line["event"] == "row of the project store ignored"
    }
    assert len(told) == len([line for line in logs if "row" in line]) == 5
    assert "it is not sealed" in told["shop:plain"]
    assert "written to another place" in told["shop:copied"]
    assert "cut short or altered" in told["shop:junk"]


async def test_a_row_that_is_spoilt_changes_nothing(
    client: Redis, table: ProjectTable, stores: Stores, eventually: Eventually
) -> None:
    await put(table, key())
    made = await stores()
    before = made.generation
    await client.hset(HASH, "shop:s1", "spoilt")
    await client.publish(EVENTS, "shop:s1 spoilt")
    await eventually(lambda: made.refused_rows == 1)
    assert (held(made), made.generation) == (key(), before)


async def test_a_row_that_is_put_back_is_refused(
    client: Redis, table: ProjectTable, stores: Stores, eventually: Eventually
) -> None:
    wide = key(grants=Grants(frozenset({"*"}), frozenset({"*"}), frozenset({"*"})))
    await put(table, wide)
    old = await client.hget(HASH, "shop:s1")
    await put(table, key())
    made = await stores()
    with capture_logs() as logs:
        await client.hset(HASH, "shop:s1", old)
        await client.publish(EVENTS, f"shop:s1 {old}")
        await eventually(lambda: made.refused_rows == 1)
        assert held(made) == key()
        await put(table, key(grants=Grants()))
        await eventually(lambda: held(made) == key(grants=Grants()))
    (told,) = [line["reason"] for line in logs if "row" in line]
    assert "older than one that was seen before" in told
    assert SHOP.secret not in str(logs)


async def test_rows_sealed_with_another_key_are_not_known(table: ProjectTable, stores: Stores) -> None:
    await put(table, key())
    with capture_logs() as logs:
        same_name = await stores(sealer=Sealer([SealingKey("k1", b"\x02" * 32)]))
        other_name = await stores(sealer=Sealer([SealingKey("k2", b"\x01" * 32)]))
    assert (held(same_name), held(other_name)) == (None, None)
    assert (same_name.complete, same_name.refused_rows, other_name.refused_rows) == (True, 1, 1)
    told = [line["reason"] for line in logs]
    assert "does not open with the key k1" in told[0]
    assert "which is not in REDIS_SECRET_KEY here: add it" in told[1]
    both = await stores(sealer=Sealer([SealingKey("k2", b"\x02" * 32), SEALING]))
    assert held(both) == key()


async def test_what_was_not_heard_is_read_when_the_connection_is_there_again(
    client: Redis, table: ProjectTable, stores: Stores, eventually: Eventually
) -> None:
    await put(table, key())
    made = await stores()
    row = ProjectRow("shop", "s1", None, int(time.time() * 1000) + 5, "a test")
    await client.hset(HASH, "shop:s1", RowCodec(SEALER, NAMESPACE).seal(row))
    assert held(made) is not None
    await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]
    await eventually(lambda: held(made) is None)


async def test_all_is_read_again_now_and_then(
    client: Redis, stores: Stores, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "REREAD_S", 0.05)
    made = await stores()
    row = ProjectRow("shop", "s1", key(), 1, "a test")
    await client.hset(HASH, "shop:s1", RowCodec(SEALER, NAMESPACE).seal(row))
    await eventually(lambda: held(made) == key())


async def test_a_burst_of_changes_reads_nothing_whole(
    client: Redis, table: ProjectTable, stores: Stores, eventually: Eventually
) -> None:
    made = await stores()
    await client.config_resetstat()
    names = [f"k{number}" for number in range(200)]
    await asyncio.gather(*(put(table, key(name)) for name in names))
    await eventually(lambda: all(held(made, name) for name in names))
    assert "cmdstat_hscan" not in await client.info("commandstats")


async def test_keys_beyond_the_limit_are_not_taken_in_and_the_known_ones_are_followed(
    client: Redis,
    table: ProjectTable,
    stores: Stores,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "REREAD_S", 0.05)
    for name in ("s1", "s2"):
        await put(table, key(name))
    with capture_logs() as logs:
        made = await stores(limit=2)
        assert made.complete
        await put(table, key("s3"))
        await eventually(lambda: not made.complete)
        late = await stores(limit=2)
        await table.remove("shop", "s1")
        await eventually(lambda: held(made) is None)
        await client.hdel(HASH, "shop:s1", "shop:s3")
        await eventually(lambda: made.complete)
    assert (held(made, "s2"), held(made, "s3")) == (key("s2"), None)
    assert len(late._known) == 2
    told = [line["limit"] for line in logs if "more rows than are taken in" in line["event"]]
    assert told == [2, 2]


async def test_a_flood_of_fields_is_read_up_to_a_bound(
    client: Redis, table: ProjectTable, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "MAX_REFUSALS", 1)
    await client.hset(HASH, mapping={f"junk:{number}": "junk" for number in range(2000)})
    made = await stores(limit=10)
    assert not made.complete
    assert 100 < made.refused_rows < 1000
    await client.delete(HASH)
    await put(table, key())
    assert (await stores(limit=10)).complete


async def test_a_verifier_needs_few_rights(tmp_path: Path, tables: Table, eventually: Eventually) -> None:
    rules = f"~{HASH} &{EVENTS} +hscan +subscribe +unsubscribe +ping"
    async with acl_server(tmp_path / "acl", rules) as guarded:
        made = ProjectStore(RedisUrl.parse(guarded.url), namespace=NAMESPACE, sealer=SEALER, strict=True)
        await made.start()
        await put(tables(url=guarded.server.url), key())
        await eventually(lambda: held(made) == key())
        with pytest.raises(RedisTrouble) as refused:
            await put(tables(url=guarded.url), key("s2"))
        assert refused.value.reason == "REDIS_RIGHTS"
        await made.close()


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


ROW: dict[str, Any] = {
    "version": 1,
    "written_at": 5,
    "written_by": "ops@host",
    "project": "shop",
    "kid": "s1",
    "key": {"project": "shop", "kid": "s1", "secret": SHOP.secret, "grants": {"tenants": ["acme"]}},
}
ABSENT: Any = object()


def sealed(**values: Any) -> bytes:
    fields = {name: value for name, value in {**ROW, **values}.items() if value is not ABSENT}
    return SEALER.seal(json.dumps(fields).encode(), key=HASH, field="shop:s1")


def test_a_row_is_read_whatever_a_newer_release_adds_beside_its_key() -> None:
    row = RowCodec(SEALER, NAMESPACE).open("shop:s1", sealed(comment="hello"))
    assert row == ProjectRow("shop", "s1", key(grants=Grants(frozenset({"acme"}))), 5, "ops@host")
    assert SHOP.secret not in repr(row)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"version": 2}, "its version is 2, and this release reads 1: upgrade this program"),
        ({"version": "1"}, "its version is no whole number"),
        ({"version": ABSENT}, "its version is no whole number"),
        ({"written_at": -1}, "does not say when it was written"),
        ({"written_at": 1.5}, "does not say when it was written"),
        ({"written_at": 2**53}, "does not say when it was written"),
        ({"written_by": "a\nb"}, "does not say who wrote it"),
        ({"written_by": "a" * 101}, "does not say who wrote it"),
        ({"project": "Shop"}, "it names no key"),
        ({"kid": ["s1"]}, "it names no key"),
        ({"kid": "s2"}, "it is the row of another key"),
        ({"key": ABSENT}, "it has no key, and does not say that it was removed"),
        ({"key": {**ROW["key"], "kid": "s2"}}, "it is the row of another key"),
        ({"key": {**ROW["key"], "expires": 5}}, "its key, expires: Extra inputs are not permitted"),
        ({"key": {**ROW["key"], "secret": "short"}}, "its key: Value error, secret is shorter than 32 bytes"),
        ({"key": {**ROW["key"], "secret": "x" * 1025}}, "its key: Value error, secret is longer than 1024"),
        ({"key": {**ROW["key"], "secret": "\ud800" * 40}}, "its key"),
        ({"key": {**ROW["key"], "grants": {"tenants": [f"t{n}" for n in range(1001)]}}}, "at most 1000"),
        ({"key": []}, "its key: "),
    ],
)
def test_a_row_that_is_none_is_refused_without_its_secret(values: dict[str, Any], said: str) -> None:
    with pytest.raises(RowRefused) as refused:
        RowCodec(SEALER, NAMESPACE).open("shop:s1", sealed(**values))
    assert said in str(refused.value)
    assert SHOP.secret not in str(refused.value)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 20_000])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(RowRefused, match="no JSON object"):
        RowCodec(SEALER, NAMESPACE).open("shop:s1", SEALER.seal(text, key=HASH, field="shop:s1"))


@given(st.data(), st.integers(1, 6))
def test_whatever_the_order_the_newest_row_counts(data: st.DataObject, count: int) -> None:
    codec = RowCodec(SEALER, NAMESPACE)
    keys = [data.draw(st.sampled_from([None, key(), key(grants=Grants())])) for _ in range(count)]
    values = [codec.seal(ProjectRow("shop", "s1", each, at, "a test")) for at, each in enumerate(keys)]
    rows = KnownRows(codec)
    generation, found = rows.changes, None
    order = data.draw(st.permutations(values)) + data.draw(st.lists(st.sampled_from(values)))
    for value in order:
        rows.take("shop:s1", value)
        if rows.find("shop", "s1") != found:
            assert rows.changes > generation
        generation, found = rows.changes, rows.find("shop", "s1")
    assert found == keys[-1]


def test_a_flood_of_junk_is_counted_and_named_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "MAX_REFUSALS", 3)
    rows = KnownRows(RowCodec(SEALER, NAMESPACE))
    with capture_logs() as logs:
        for number in range(10):
            rows.take(f"junk:{number}", b"junk")
            rows.take(f"junk:{number}", b"junk")
    assert rows.refused == 20
    assert [line["log_level"] for line in logs] == ["warning"] * 3 + ["error"]


async def test_another_project_is_let_in_by_a_running_mesh_once_it_was_added(
    server: LocalServer, table: ProjectTable, eventually: Eventually
) -> None:
    settings = {**SETTINGS, "redis_url": server.url, "redis_secret_key": f"k1:{'AQEB' * 10}AQE"}
    local = LocalMesh(Echo, Front, settings=settings)
    async with local:
        addresses = {}
        for instance_id in local.instances:
            instance = local.service(instance_id).instance
            assert instance is not None
            addresses[instance.service] = instance.address

        async def outcomes(name: str = "till") -> list[str]:
            made = []
            for service, address in addresses.items():
                caller = Handmade(service, SHOP.secret, "shop", "s1", name=name)
                outcome = await call(address, GREET, BODY, caller.headers(GREET, BODY))
                made.append(outcome.reason or outcome.code)
            return made

        async def until(wanted: list[str]) -> None:
            async with asyncio.timeout(10.0):
                while await outcomes() != wanted:
                    await asyncio.sleep(0)

        assert await outcomes() == ["KEY_UNKNOWN", "KEY_UNKNOWN"]
        rights = Grants(frozenset({"acme"}), frozenset({"echo:greet"}), frozenset({"till"}))
        await put(table, key(grants=rights))
        wanted = ["OK" if service == "echo" else "GRANT_EXCEEDED" for service in addresses]
        await until(wanted)
        assert await outcomes("another") == ["GRANT_EXCEEDED", "GRANT_EXCEEDED"]
        await server.kill()
        assert await outcomes() == wanted
        await server.restart()
        await put(table, key(grants=rights))
        await table.remove("shop", "s1")
        await until(["KEY_UNKNOWN", "KEY_UNKNOWN"])
