"""Rows of the project store that cannot be used: known by what they are, dropped, and told of."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from structlog.testing import capture_logs

from meshkit.config import SealingKey
from meshkit.redis import following
from meshkit.redis.sealing import Sealer
from meshkit.security.keys import Grants
from meshkit.security.projects import ProjectTable, known
from meshkit.security.projects.known import KnownRows
from meshkit.security.projects.rows import ProjectRow, RowCodec, RowRefused
from tests.security.shop import (
    EVENTS,
    HASH,
    NAMESPACE,
    SEALER,
    SEALING,
    SHOP,
    Eventually,
    Stores,
    held,
    key,
    put,
)


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
