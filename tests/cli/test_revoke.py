"""`meshkit revoke` on a real Redis."""

import json
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest

from meshkit.config import RedisUrl, parse_sealing_keys
from meshkit.redis.database import Database
from meshkit.redis.sealing import Sealer
from meshkit.redis.server import LocalServer
from meshkit.security.revocations import Revocations
from meshkit.security.revoking import RevocationFeed
from tests.cli.conftest import Shell
from tests.cli.test_projects import OLD, Projects
from tests.redis.servers import client_of
from tests.security.test_revoking import bearer


@pytest.fixture
async def meshkit(tmp_path: Path, server: LocalServer) -> AsyncIterator[Projects]:
    database = Database(RedisUrl.parse(server.url))
    yield Projects(tmp_path, server, database)
    await database.close()


async def known(server: LocalServer) -> Revocations:
    """What a verifier of the mesh knows."""
    found = Revocations()
    sealer = Sealer(parse_sealing_keys(OLD))
    feed = RevocationFeed(RedisUrl.parse(server.url), found, namespace="contextunity", sealer=sealer)
    await feed.start(patience=30)
    await feed.close()
    return found


async def test_what_is_revoked_is_refused_everywhere(meshkit: Projects, server: LocalServer) -> None:
    done = await meshkit("token", "--", "-an-id", verb="revoke")
    assert (done.code, done.out) == (0, "the token -an-id is revoked\n")
    done = await meshkit("project", "shop", verb="revoke")
    assert done.out.startswith("all tokens of shop that were made before 20")
    found = await known(server)
    assert found.is_revoked(bearer("-an-id", project="bank"))
    assert found.is_revoked(bearer("any", issued_at=time.time() - 1))
    assert not found.is_revoked(bearer("any", issued_at=time.time() + 1))


async def test_a_token_is_revoked_for_as_long_as_any_service_may_take_it(meshkit: Projects) -> None:
    done = await meshkit("token", "t1", "--json", verb="revoke")
    until = datetime.fromisoformat(json.loads(done.out)["until"]).timestamp()
    assert until - time.time() > 86_400 + 2 * 600 - 60


async def test_where_there_is_a_shield_it_says_what_that_needs(meshkit: Projects) -> None:
    done = await meshkit("project", "shop", verb="revoke", CU_SHIELD_GRPC_URL="127.0.0.1:1")
    assert done.code == 0
    assert "it must have this REDIS_URL, too" in done.err


@pytest.mark.parametrize("written", ["4000000000", "2096-10-02T07:06:40Z", "2096-10-02T07:06:40"])
async def test_a_time_is_written_in_either_way(meshkit: Projects, written: str) -> None:
    done = await meshkit("project", "shop", "--before", written, verb="revoke")
    assert done.code == 2
    assert "--before is in the future: to shut a project out, retire its keys" in done.err
    done = await meshkit("project", "shop", "--before", "1700000000", "--json", verb="revoke")
    assert json.loads(done.out)["before"] == "2023-11-14T22:13:20+00:00"


async def test_what_is_in_force_is_listed(meshkit: Projects, server: LocalServer) -> None:
    assert "nothing is revoked" in (await meshkit("list", verb="revoke")).err
    await meshkit("token", "t1", verb="revoke")
    await meshkit("project", "shop", verb="revoke")
    shown = (await meshkit("list", verb="revoke")).out
    assert "token t1" in shown
    assert "tokens of shop made before" in shown
    listed = json.loads((await meshkit("list", "--json", verb="revoke")).out)
    assert sorted(each.get("jti") or each["project"] for each in listed) == ["shop", "t1"]
    assert "@" in listed[0]["by"]
    async with client_of(server) as client:
        await client.zadd("contextunity:revocations", {"junk": time.time() * 2000})
    done = await meshkit("list", verb="revoke")
    assert (done.code, "a member cannot be used" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("token", ""), "JTI is not 1 to 200"),
        (("token", "a\nb"), "JTI is not 1 to 200"),
        (("project", "Shop"), "is no project"),
        (("project", "shop", "--before", "soon"), "is no time"),
        (("project", "shop", "--before", "9" * 30), "is in the future"),
    ],
)
async def test_what_cannot_be_revoked_is_a_usage_error(
    meshkit: Projects, words: tuple[str, ...], said: str
) -> None:
    done = await meshkit(*words, verb="revoke")
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_it_needs_a_redis_that_is_there(shell: Shell) -> None:
    done = shell("revoke", "token", "t1")
    assert (done.code, "revocations are kept in Redis: set it" in done.err) == (78, True)
    done = shell("revoke", "token", "t1", REDIS_URL="redis://127.0.0.1:1/0")
    assert (done.code, "cannot be reached" in done.err) == (1, True)
