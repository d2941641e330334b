"""Two Shields on one database of PostgreSQL: what one of them is told, the other knows."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshkit import FailedPrecondition
from meshkit.config import check_production
from meshkit.protocol import shield as pb
from meshkit.security.tokens import peek
from reference_services.shield.config import ShieldConfig
from reference_services.shield.verifying import verify_audit
from tests import postgres
from tests.shield.bound import public
from tests.shield.conftest import MASTER_KEY, Place, running
from tests.shield.test_service import calling, put, scope, shop

KEY = public(Ed25519PrivateKey.generate())

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]


@asynccontextmanager
async def two(url: str, **settings: Any) -> AsyncIterator[tuple[Place, Place]]:
    settings |= {"shield_database_url": url, "shield_master_key": MASTER_KEY, "shield_key_activation_s": 0.0}
    async with running(**settings) as one, running(**settings) as other:
        yield one, other


@pytest.fixture
async def replicas(database_url: str) -> AsyncIterator[tuple[Place, Place]]:
    async with two(database_url) as both:
        yield both


def holds(url: str, monkeypatch: pytest.MonkeyPatch, **seen: str) -> tuple[str | None, int]:
    """What `meshkit shield audit verify` finds."""
    for name, value in {"DATABASE_URL": url, "MASTER_KEY": MASTER_KEY}.items():
        monkeypatch.setenv(f"SHIELD_{name}", value)
    found = verify_audit(**seen)
    return found.fault, found.entries


async def test_each_rpc_is_answered_by_either_replica_from_what_the_other_was_told(
    replicas: tuple[Place, Place], eventually: Eventually, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = replicas
    await put(one, shop(audiences=["brain", "till"]))
    await eventually(lambda: other.authority.generation == one.authority.generation)
    (listed,) = (await other.client.list_projects(pb.ListProjectsRequest())).projects
    assert (listed.project_id, listed.updated_by) == ("shop", "local/client")
    await one.client.rotate_keys(pb.RotateKeysRequest())
    async with calling(one) as at_one, calling(other) as at_other:
        request = pb.IssueTokenRequest(scope=scope("till"), public_key=KEY)
        issued = (await at_one.issue_token(request)).issued.token
        keys = (await at_other.get_keys(pb.GetKeysRequest())).keys
        assert peek(issued)[0]["kid"] in [f"shield:{key.kid}" for key in keys]
        exchange = pb.ExchangeTokenRequest(subject_token=issued, scope=scope(), public_key=KEY)
        assert (await at_other.exchange_token(exchange)).issued.token
        jti = peek(issued)[1]["jti"]
        assert (await one.client.revoke(pb.RevokeRequest(token_id=jti))).revision == 1
        with pytest.raises(Exception, match="SUBJECT_TOKEN_REVOKED"):
            await at_other.exchange_token(exchange)
        async with at_other.watch_revocations(pb.WatchRevocationsRequest()) as news:
            assert (await anext(aiter(news))).revocations[0].token.token_id == jti
    assert (await other.client.revoke(pb.RevokeRequest(project_id="shop"))).revision == 2
    assert holds(database_url, monkeypatch) == (None, 7)


async def test_a_revocation_reaches_the_watchers_of_the_other_replica_though_its_connections_break(
    replicas: tuple[Place, Place],
) -> None:
    one, other = replicas
    async with other.client.watch_revocations(pb.WatchRevocationsRequest()) as news:
        messages = aiter(news)
        assert (await anext(messages)).current
        for number in range(3):
            _break_connections()
            begun = time.monotonic()
            await one.client.revoke(pb.RevokeRequest(token_id=f"j{number}"))
            told = await anext(messages)
            assert [each.token.token_id for each in told.revocations] == [f"j{number}"]
            assert time.monotonic() - begun < 1


def _break_connections() -> None:
    """Ends all connections of Shields, as a server does that is restarted or failed over."""
    with postgres.server().superuser() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'meshkit-shield'"
        )


async def test_the_audit_log_tells_of_changes_by_somebody_who_may_write_to_the_database(
    replicas: tuple[Place, Place], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in replicas * 2:
        await place.client.rotate_keys(pb.RotateKeysRequest())
    assert holds(database_url, monkeypatch) == (None, 5)
    database = database_url.partition("@/")[2].partition("?")[0]
    with postgres.server().superuser(database) as connection:
        connection.execute("UPDATE shield.audit SET actor = 'local/eve' WHERE number = 2")
        assert str(holds(database_url, monkeypatch)[0]).startswith("entry 2 was changed")
        connection.execute("DELETE FROM shield.audit WHERE number = 2")
        assert holds(database_url, monkeypatch)[0] == "entries 2 to 2 are missing"
        connection.execute("DELETE FROM shield.audit WHERE number > 1")
        fault = "the log was cut short: it ends with entry 1, and entry 5 was the last one"
        assert holds(database_url, monkeypatch)[0] == fault


async def test_shields_role_can_change_no_entry_of_the_log(replicas: tuple[Place, Place]) -> None:
    database = replicas[0].authority._storage._database  # type: ignore[attr-defined]
    with pytest.raises(FailedPrecondition, match="DATABASE_FORBIDDEN"):
        await database.write("", lambda db: db.execute("UPDATE shield.audit SET actor = 'local/eve'"))


async def test_another_master_key_is_refused(replicas: tuple[Place, Place], database_url: str) -> None:
    with pytest.raises(FailedPrecondition, match="SHIELD_MASTER_KEY does not open the signing key"):
        async with running(shield_database_url=database_url, shield_master_key="B" * 42 + "E"):
            pass


def test_a_database_without_a_shield_has_no_log_to_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FailedPrecondition, match="has no audit log of Shield's: set SHIELD_DATABASE_URL"):
        holds(postgres.server().url("postgres"), monkeypatch)
    with pytest.raises(FailedPrecondition, match="make it with CREATE DATABASE"):
        holds(postgres.server().url("nowhere"), monkeypatch)


def test_production_takes_a_shield_on_postgresql_and_none_on_sqlite() -> None:
    def wrong(url: str) -> list[str]:
        config = ShieldConfig(shield_database_url=url, shield_master_key=MASTER_KEY)
        return [problem.what for problem in check_production(config) if "DATABASE" in problem.setting]

    assert wrong("postgresql://shield:secret@db.internal/mesh?sslmode=verify-full") == []
    assert wrong("postgresql://shield:secret@db.internal/mesh") == [
        "production verifies the database's certificate"
    ]
    assert wrong("") == ["production needs a database that replicas share, and SQLite is not one"]
