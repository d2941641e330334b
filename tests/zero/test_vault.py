"""What each vault does: replicas agree, values are sealed, and what was destroyed or has expired is gone."""

import asyncio
from pathlib import Path

import psycopg
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from meshkit import FailedPrecondition, Unavailable
from meshkit.redis.server import LocalServer
from reference_services.zero.masking import Privacy, Search
from reference_services.zero.redis import open_redis_vault
from reference_services.zero.sealing import Master, Unreadable
from reference_services.zero.vault import Draft, Session, SessionGone, VaultFull, VaultStore
from tests import one_redis, postgres
from tests.redis.servers import ask
from tests.zero.conftest import KEY, Clock, Opening

CANARY = "canary.7f3a@example.com"
SESSION = Session("0aaaaa", "k", b"key\x00\xff", 100.0)


def draft(text: str) -> Draft:
    return Draft("EMAIL", text.encode(), lambda number: b"%d:sealed" % number)


async def test_replicas_unmask_what_the_other_masked(opening: Opening, clock: Clock) -> None:
    async with opening() as first, opening() as second:
        one, other = (Privacy(vault, Master(KEY), clock=clock) for vault in (first, second))
        masked = await one.mask("acme", CANARY, "s", Search())
        assert (await other.unmask("acme", masked.text, "s")).text == CANARY
        assert (await other.holdings("acme")).entities == {"EMAIL": 1}
        assert await other.destroy("acme", "s")
        assert (await one.unmask("acme", masked.text, "s")).restored == 0
        assert (await one.holdings("acme")).sessions == 0
        for privacy in (one, other):
            privacy.close()


async def test_replicas_that_mask_at_once_agree_on_every_placeholder(opening: Opening) -> None:
    async with opening() as first, opening() as second:
        vaults = (first, second)
        sessions = [
            await vault.open("acme", "s", Session(tag, "k", tag.encode(), 1e9), now=1, limit=9)
            for vault, tag in zip(vaults, ("0aaaaa", "0bbbbb"), strict=True)
        ]
        assert sessions[0] == sessions[1]
        numbers = await asyncio.gather(
            *(
                vaults[i % 2].remember(
                    "acme", "s", sessions[0], [draft("shared"), draft(f"own {i}")], now=1, limit=99
                )
                for i in range(20)
            )
        )
        assert len({shared for shared, _ in numbers}) == 1
        assert {number for pair in numbers for number in pair} == set(range(1, 22))
        assert len(await first.recall("acme", "s", range(100))) == 21


async def test_a_session_made_anew_does_not_take_the_drafts_of_the_old(vault: VaultStore) -> None:
    old, new = Session("0aaaaa", "k", b"old", 100.0), Session("0bbbbb", "k", b"new", 100.0)
    await vault.open("acme", "s", old, now=1, limit=9)
    await vault.destroy("acme", "s", now=1)
    with pytest.raises(SessionGone):
        await vault.remember("acme", "s", old, [draft("x")], now=1, limit=9)
    await vault.open("acme", "s", new, now=1, limit=9)
    with pytest.raises(SessionGone):
        await vault.remember("acme", "s", old, [draft("x")], now=1, limit=9)
    assert await vault.remember("acme", "s", new, [draft("x"), draft("x")], now=1, limit=9) == [1, 1]


async def test_values_of_large_sessions_are_numbered_and_recalled(vault: VaultStore) -> None:
    session = await vault.open("acme", "s", SESSION, now=1, limit=9)
    drafts = [draft(str(i)) for i in range(1700)]
    assert await vault.remember("acme", "s", session, drafts, now=1, limit=2000) == list(range(1, 1701))
    stored = await vault.recall("acme", "s", range(1800))
    assert {number: value.sealed for number, value in stored.items()} == {
        n: b"%d:sealed" % n for n in range(1, 1701)
    }
    with pytest.raises(VaultFull):
        await vault.remember("acme", "s", session, [draft("new")], now=1, limit=1700)
    assert len(await vault.recall("acme", "s", range(1800))) == 1700


async def test_a_session_is_renewed_and_never_ends_earlier(vault: VaultStore) -> None:
    assert await vault.open("acme", "s", SESSION, now=1, limit=1) == SESSION
    longer = Session("0bbbbb", "k", b"other", 200.5)
    renewed = Session(SESSION.tag, "k", SESSION.wrapped_key, 200.5)
    assert await vault.open("acme", "s", longer, now=1, limit=1) == renewed
    assert await vault.open("acme", "s", SESSION, now=1, limit=1) == renewed
    assert await vault.find("acme", "s", now=200) == renewed
    assert await vault.find("acme", "s", now=201) is None
    assert await vault.find("acme", "t", now=1) is None
    assert await vault.open("acme", "s", Session("0ccccc", "k", b"new", 300.0), now=201, limit=1)
    with pytest.raises(VaultFull):
        await vault.open("acme", "t", Session("0ddddd", "k", b"new", 300.0), now=201, limit=1)
    assert not await vault.destroy("acme", "s", now=301)


@pytest.mark.parametrize("opening", ["sqlite", "postgresql"], indirect=True)
async def test_expired_sessions_of_any_tenant_are_swept_in_bounded_batches(
    privacy: Privacy, clock: Clock
) -> None:
    for number in range(7):
        await privacy.mask(f"t{number % 2}", "bob@example.com", f"s{number}", Search())
    clock.now += 61
    await privacy.mask("t0", "bob@example.com", "live", Search())
    assert await privacy.sweep(batch=2, batches=2) == 4
    assert await privacy.sweep(batch=2, batches=9) == 3
    assert await privacy.sweep(batch=2, batches=9) == 0
    assert (await privacy.holdings("t0")).sessions == 1


async def test_no_tenant_reaches_anothers_rows_in_postgresql(postgres_url: str) -> None:
    name = postgres_url.partition("@/")[2].partition("?")[0]
    with psycopg.connect(postgres.server().url(name), autocommit=True) as connection:
        connection.execute("SET ROLE meshkit_zero")
        connection.execute("SET meshkit.tenant = 'acme'")
        new = "INSERT INTO zero.session VALUES (%s, 's', 'tag', 'k', 'key', 100)"
        connection.execute(new, ("acme",))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(new, ("beta",))
        connection.execute("SET meshkit.tenant = 'beta'")
        assert connection.execute("SELECT FROM zero.session").fetchall() == []
        assert connection.execute("DELETE FROM zero.session").rowcount == 0
        connection.execute("SET meshkit.tenant = 'acme'")
        assert connection.execute("DELETE FROM zero.session").rowcount == 1


async def test_redis_holds_sealed_values_and_lets_sessions_go_by_itself() -> None:
    server, namespace = one_redis.server(), one_redis.new_namespace()
    async with open_redis_vault(server.url, namespace) as vault, Redis.from_url(server.url) as bare:
        privacy = Privacy(vault, Master(KEY), ttl=1.0)
        masked = await privacy.mask("acme", CANARY, "s", Search())
        keys = [f"{namespace}:zero:{{acme}}:{rest}" for rest in ("session:s", "sessions")]
        assert sorted(await bare.keys(f"{namespace}:*")) == [key.encode() for key in keys]
        stored = await bare.hgetall(keys[0])
        assert stored[b"value:1"].startswith(b"EMAIL:")
        assert b"canary" not in b"".join(stored.values())
        assert all([0 < await bare.pttl(key) <= 1000 for key in keys])
        assert await privacy.sweep(batch=9, batches=9) == 0
        async with asyncio.timeout(10):
            while await bare.keys(f"{namespace}:*"):
                await asyncio.sleep(0.05)
        assert (await privacy.unmask("acme", masked.text, "s")).restored == 0
        privacy.close()


async def test_the_list_of_a_tenants_sessions_in_redis_does_not_grow() -> None:
    server, namespace = one_redis.server(), one_redis.new_namespace()
    async with open_redis_vault(server.url, namespace) as vault:
        for number in range(30):
            fresh = Session("0aaaaa", "k", b"key", number + 5.0)
            await vault.open("acme", f"s{number}", fresh, now=float(number), limit=9)
        assert await ask(server, "ZCARD", f"{namespace}:zero:{{acme}}:sessions") <= 6


async def test_a_redis_that_cannot_be_used_is_refused_with_what_to_do() -> None:
    with pytest.raises(Unavailable, match=r"redis://127.0.0.1:1/0 cannot be reached.*ZERO_DATABASE_URL"):
        async with open_redis_vault("redis://127.0.0.1:1/0", "test"):
            pass
    wrong = f"redis://:not-the-password@127.0.0.1:{one_redis.server().port}/0"
    with pytest.raises(FailedPrecondition, match="refuses the user or the password") as caught:
        async with open_redis_vault(wrong, "test"):
            pass
    assert "not-the-password" not in str(caught.value)


async def test_a_redis_that_goes_away_is_told_without_its_place_and_comes_back(tmp_path: Path) -> None:
    async with LocalServer(tmp_path / "redis") as server, open_redis_vault(server.url, "test") as vault:
        await vault.open("acme", "s", SESSION, now=1, limit=9)
        await server.stop()
        with capture_logs() as logs:
            for _ in range(2):
                with pytest.raises(Unavailable, match="DATABASE_UNAVAILABLE") as caught:
                    await vault.find("acme", "s", now=1)
                assert str(server.port) not in str(caught.value)
        assert [str(server.port) in entry["reason"] for entry in logs] == [True]
        await server.start()
        await vault.find("acme", "s", now=1)


def test_keys_open_only_what_was_sealed_for_the_same_place() -> None:
    master = Master(KEY)
    wrapped = master.new_session("acme", "s")
    keys = master.session("acme", "s", wrapped)
    sealed = keys.seal("[EMAIL_1_0aaaaa]", CANARY)
    assert keys.open("[EMAIL_1_0aaaaa]", sealed) == CANARY
    with pytest.raises(Unreadable):
        keys.open("[EMAIL_2_0aaaaa]", sealed)
    for tenant, session_id, key in (("evil", "s", KEY), ("acme", "t", KEY), ("acme", "s", bytes(32))):
        with pytest.raises(Unreadable):
            Master(key).session(tenant, session_id, wrapped)
    with pytest.raises(Unreadable):
        keys.open("[EMAIL_1_0aaaaa]", sealed[:5])
    assert CANARY not in repr(keys)
    assert keys.lookup("EMAIL", "x") != master.session("acme", "t", master.new_session("acme", "t")).lookup(
        "EMAIL", "x"
    )
