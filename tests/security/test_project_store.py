"""The project store, on a real Redis: pushed to every verifier, and in force whatever Redis does."""

import asyncio
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from meshkit.config import RedisUrl
from meshkit.errors import Unauthenticated, Unavailable
from meshkit.redis import following
from meshkit.redis.server import LocalServer, free_port
from meshkit.redis.trouble import RedisTrouble
from meshkit.security.keys import Grants, KeyStatus, own_ring
from meshkit.security.projects import ProjectStore, ProjectTable, StoredRing, known
from meshkit.security.projects.known import KnownRows
from meshkit.security.projects.rows import ProjectRow, RowCodec
from meshkit.security.tokens import TokenVerifier
from meshkit.testing import LocalMesh
from tests.redis.servers import acl_server
from tests.security.handmade import SETTINGS, Handmade, call
from tests.security.services import BODY, GREET, Echo, Front
from tests.security.shop import (
    EVENTS,
    HASH,
    NAMESPACE,
    SEALER,
    SHOP,
    Eventually,
    Stores,
    Table,
    held,
    key,
    put,
)


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
