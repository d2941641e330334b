"""`meshkit registry` on a real Redis: what stands there, and with which keys."""

import base64
import json
import time
from collections.abc import AsyncIterator

import pytest

from meshkit.cli.output import ExitCode
from meshkit.config.redis_url import RedisUrl
from meshkit.config.secrets import parse_sealing_keys
from meshkit.discovery.redis import RedisRegistry
from meshkit.instance import Instance
from meshkit.redis.sealing import Sealer, sealed_with
from meshkit.redis.server import LocalServer

OLD = "old:" + base64.urlsafe_b64encode(b"o" * 32).decode()
NEW = "new:" + base64.urlsafe_b64encode(b"n" * 32).decode()
INSTANCES = "contextunity:{brain}:instances"
PROJECTS = "contextunity:projects"


def open_registry(server: LocalServer, keys: str) -> RedisRegistry:
    sealer = Sealer(parse_sealing_keys(keys))
    return RedisRegistry(RedisUrl.parse(server.url), namespace="contextunity", sealer=sealer, lease_ttl=60.0)


@pytest.fixture
async def registry(server: LocalServer) -> AsyncIterator[RedisRegistry]:
    """A registry with an instance that is sealed with the old key."""
    made = open_registry(server, OLD)
    await made.register(Instance(service="brain", instance_id="brain-a", address="10.0.0.1:1", zone="eu"))
    yield made
    await made.close()


async def test_rows_are_listed_with_their_keys(shell, server: LocalServer, registry: RedisRegistry) -> None:
    done = shell("registry", "list", REDIS_URL=server.url, REDIS_SECRET_KEY=OLD)
    assert done.code == 0, done.err
    heading, _, row = done.out.splitlines()
    assert heading.split()[:2] == ["service", "instance"]
    assert row.split()[:3] == ["brain", "brain-a", "old"]
    assert "10.0.0.1:1" in row


async def test_what_cannot_be_used_is_listed_with_the_reason(
    shell, server: LocalServer, registry: RedisRegistry
) -> None:
    await registry.store.database.execute("HSET", INSTANCES, "brain-bad", "garbage")
    done = shell("registry", "list", "brain", "--json", REDIS_URL=server.url, REDIS_SECRET_KEY=f"{NEW},{OLD}")
    assert done.code == ExitCode.FAILED
    good, bad = json.loads(done.out)
    assert (good["instance_id"], good["problem"], good["record"]["zone"]) == ("brain-a", None, "eu")
    assert 0 < good["lease_left_s"] <= 60
    assert (bad["instance_id"], bad["lease_left_s"], bad["record"]) == ("brain-bad", None, None)
    assert "not sealed" in bad["problem"]


async def test_a_row_that_is_too_old_is_listed_as_such(shell, server: LocalServer) -> None:
    sealer = Sealer(parse_sealing_keys(OLD))
    long_ago = RedisRegistry(
        RedisUrl.parse(server.url),
        namespace="contextunity",
        sealer=sealer,
        lease_ttl=60.0,
        clock=lambda: time.time() - 3600,
    )
    await long_ago.register(Instance(service="brain", instance_id="brain-a", address="10.0.0.1:1"))
    done = shell("registry", "inspect", "brain-a", REDIS_URL=server.url, REDIS_SECRET_KEY=OLD)
    assert done.code == ExitCode.FAILED
    assert "sealed too long ago" in json.loads(done.out)["problem"]
    await long_ago.close()


async def test_a_row_is_inspected(shell, server: LocalServer, registry: RedisRegistry) -> None:
    done = shell("registry", "inspect", "brain-a", REDIS_URL=server.url, REDIS_SECRET_KEY=OLD)
    assert done.code == 0, done.err
    shown = json.loads(done.out)
    assert (shown["sealed_with"], shown["record"]["address"]) == ("old", "10.0.0.1:1")
    missing = shell("registry", "inspect", "brain-b", REDIS_URL=server.url, REDIS_SECRET_KEY=OLD)
    assert missing.code == ExitCode.FAILED
    assert "no row 'brain-b'; did you mean brain-a?" in missing.err


async def test_without_the_key_nothing_of_a_record_is_shown(
    shell, server: LocalServer, registry: RedisRegistry
) -> None:
    done = shell("registry", "inspect", "brain-a", REDIS_URL=server.url)
    assert done.code == ExitCode.FAILED
    assert json.loads(done.out)["record"] is None
    assert "10.0.0.1" not in done.out + done.err


async def test_resealing_renews_projects_and_names_instances(
    shell, server: LocalServer, registry: RedisRegistry
) -> None:
    old, new = (Sealer(parse_sealing_keys(keys)) for keys in (OLD, f"{NEW},{OLD}"))
    database = registry.store.database
    for name in ("shop:1", "shop:2"):
        await database.execute("HSET", PROJECTS, name, old.seal(b"{}", key=PROJECTS, field=name))
    keys = {"REDIS_URL": server.url, "REDIS_SECRET_KEY": f"{NEW},{OLD}"}
    done = shell("registry", "reseal", **keys)
    assert done.code == ExitCode.FAILED
    assert done.out == "rows of projects: 2 sealed anew with new, 0 were already\n"
    assert done.err == "brain-a: sealed with old; restart it with the new REDIS_SECRET_KEY\n"
    value = await database.execute("HGET", PROJECTS, "shop:1")
    assert sealed_with(value) == "new"
    assert new.open(value, key=PROJECTS, field="shop:1") == b"{}"
    await registry.close()
    restarted = open_registry(server, f"{NEW},{OLD}")
    await restarted.register(Instance(service="brain", instance_id="brain-b", address="10.0.0.1:1"))
    done = shell("registry", "reseal", "--json", **keys)
    assert done.code == 0, done.err
    assert json.loads(done.out) == {
        "key": "new",
        "projects_resealed": 0,
        "projects_current": 2,
        "changed": 0,
        "refused": {},
        "instances_with_other_keys": [],
    }
    await restarted.close()


async def test_a_row_that_does_not_open_is_named_and_left(
    shell, server: LocalServer, registry: RedisRegistry
) -> None:
    await registry.store.database.execute("HSET", PROJECTS, "shop:1", "plain")
    done = shell("registry", "reseal", REDIS_URL=server.url, REDIS_SECRET_KEY=OLD)
    assert done.code == ExitCode.FAILED
    assert "project row shop:1: it is not sealed" in done.err
    assert await registry.store.database.execute("HGET", PROJECTS, "shop:1") == b"plain"


def test_another_registry_has_no_rows(shell) -> None:
    done = shell("registry", "list")
    assert done.code == ExitCode.CONFIG
    assert "is not in Redis: set REDIS_URL" in done.err


async def test_there_is_nothing_to_seal_with(shell, server: LocalServer) -> None:
    done = shell("registry", "reseal", REDIS_URL=server.url)
    assert done.code == ExitCode.CONFIG
    assert "REDIS_SECRET_KEY is not set" in done.err


async def test_a_redis_that_refuses_is_an_error_without_the_password(shell, server: LocalServer) -> None:
    done = shell("registry", "list", REDIS_URL=f"redis://:a-wrong-password@127.0.0.1:{server.port}/0")
    assert done.code == ExitCode.FAILED
    assert "refuses the user or the password" in done.err
    assert "a-wrong-password" not in done.err
    assert "Traceback" not in done.err
