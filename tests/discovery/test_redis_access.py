"""Who may use Redis, and over what: rights, passwords, certificates, Sentinels, Clusters."""

import asyncio
import re
from pathlib import Path

import pytest
from redis.asyncio import Redis

from meshkit.config import Environment, SharedConfig
from meshkit.config.redis_url import RedisUrl
from meshkit.discovery import registry_of
from meshkit.errors import Unavailable
from meshkit.redis.server import LocalServer
from tests.certificates import Certificates
from tests.discovery.brains import (
    KEYS,
    NEW,
    ROOT,
    Eventually,
    Follow,
    Open,
    an_instance,
    crash,
)
from tests.redis.servers import PASSWORD, acl_server, ask, cluster, sentinels, smallest, tls_server

# Who may use Redis, and how


def documented_acl() -> str:
    text = (ROOT / "docs" / "redis.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("user meshkit on "))
    return line.partition(">")[2].partition(" ")[2]


async def test_the_documented_rights_are_enough(tmp_path: Path, open_at: Open, follow: Follow) -> None:
    async with acl_server(tmp_path / "redis", documented_acl()) as redis:
        registry = open_at(redis.url, NEW, strict=True)
        lease = await registry.register(an_instance("a"))
        dying = await registry.register(an_instance("b"))
        follower = follow(registry)
        await follower.until_ids("a", "b")
        await lease.update(weight=2)
        assert set(await registry.leases("brain")) == {"brain-a", "brain-b"}
        assert await registry.services() == ["brain"]
        crash(dying)
        await follower.until_ids("a")
        await lease.release()
        await follower.until_ids()


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
async def test_the_documented_rights_are_enough_with_several_servers(
    kind: str, tmp_path: Path, open_at: Open, follow: Follow
) -> None:
    besides = documented_rights_besides(kind)
    async with smallest(kind, tmp_path / "redis") as (url, redis):
        rules = f"{documented_acl()} {besides if kind == 'cluster' else ''}".split()
        await ask(redis, "ACL", "SETUSER", "meshkit", "on", ">p", *rules)
        options = ""
        if kind == "sentinel":
            options = "?sentinel_auth=true"
            async with Redis(port=RedisUrl.parse(url).nodes[0][1]) as client:
                await client.execute_command(  # type: ignore[no-untyped-call]
                    "ACL", "SETUSER", "meshkit", "on", ">p", "-@all", *besides.split()
                )
        url = f"redis+{kind}://meshkit:p@{url.rpartition('@')[2]}{options}"
        registry = open_at(url, NEW, strict=True)
        await registry.register(an_instance("a"))
        follower = follow(registry)
        await follower.until_ids("a")
        assert set(await registry.leases("brain")) == {"brain-a"}
        assert await registry.services() == ["brain"]


def documented_rights_besides(kind: str) -> str:
    text = " ".join((ROOT / "docs" / "redis.md").read_text().split())
    name = "a Cluster needs " if kind == "cluster" else "the Sentinels' needs "
    return " ".join(re.findall(r"`(\+[a-z|]+)`", text.partition(name)[2].partition(";")[0].partition(".")[0]))


@pytest.mark.parametrize("missing", ["+zadd", "+evalsha", "+publish", "~contextunity:*", "&contextunity:*"])
async def test_rights_that_are_missing_are_named(missing: str, tmp_path: Path, open_at: Open) -> None:
    rules = documented_acl().replace(missing, "")
    async with acl_server(tmp_path / "redis", rules) as redis:
        with pytest.raises(Unavailable, match="ACL lacks a right") as caught:
            await open_at(redis.url, strict=True).register(an_instance())
        assert caught.value.reason == "REDIS_RIGHTS"
        lenient = open_at(redis.url)
        lease = await lenient.register(an_instance())
        assert lease.trouble is not None
        assert not lease.trouble.heals


async def test_a_wrong_password_is_named_and_not_shown(
    server: LocalServer, open_at: Open, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"redis://:not-the-password@127.0.0.1:{server.port}/0"
    with pytest.raises(Unavailable, match="refuses the user or the password") as caught:
        await open_at(url, strict=True).register(an_instance())
    assert caught.value.reason == "REDIS_CREDENTIALS"
    lenient = open_at(url)
    await lenient.register(an_instance())
    assert "refuses the user or the password" in caplog.text
    assert "not-the-password" not in caplog.text + str(caught.value) + repr(lenient)


@pytest.mark.parametrize("client_certificate", [False, True])
async def test_over_tls(client_certificate: bool, tmp_path: Path, open_at: Open, follow: Follow) -> None:
    certificates = Certificates.make(tmp_path / "certificates")
    async with tls_server(tmp_path / "redis", certificates, client_certificate=client_certificate) as redis:
        registry = open_at(redis.url, NEW, strict=True)
        await registry.register(an_instance("a"))
        await follow(registry).until_ids("a")


async def test_a_certificate_that_is_not_trusted_is_named(tmp_path: Path, open_at: Open) -> None:
    certificates = Certificates.make(tmp_path / "certificates")
    other = Certificates.make(tmp_path / "other")
    async with tls_server(tmp_path / "redis", certificates) as redis:
        url = redis.url.partition("?")[0] + f"?ssl_ca_certs={other.ca}"
        with pytest.raises(Unavailable, match="not trusted") as caught:
            await open_at(url, strict=True).register(an_instance())
        assert caught.value.reason == "REDIS_UNTRUSTED"


async def test_tls_with_a_server_that_has_none_is_named(server: LocalServer, open_at: Open) -> None:
    lease = await open_at(server.url.replace("redis://", "rediss://")).register(an_instance())
    assert "it hangs, or does not speak TLS" in str(lease.trouble)


async def test_a_redis_that_is_too_old_is_named(open_at: Open) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.readline()).strip() != b"HELLO":
            pass
        writer.write(b"*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n6.0.16\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    old = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = old.sockets[0].getsockname()[1]
    async with old:
        with pytest.raises(Unavailable, match=r"is Redis 6.0.16, and 6.2 or newer is needed") as caught:
            await open_at(f"redis://127.0.0.1:{port}", strict=True).register(an_instance())
    assert caught.value.reason == "REDIS_TOO_OLD"


# More than one server


async def test_a_fail_over_takes_nobody_out(
    tmp_path: Path, open_at: Open, follow: Follow, eventually: Eventually
) -> None:
    async with sentinels(tmp_path / "redis") as redis:
        owners, watching = open_at(redis.url, NEW, ttl=5.0), open_at(redis.url, NEW, ttl=5.0)
        leases = [await owners.register(an_instance(name)) for name in "ab"]
        follower = follow(watching)
        await follower.until_ids("a", "b")
        before = len(follower.seen)
        new = await redis.kill_master()
        leases.append(await owners.register(an_instance("c")))
        await eventually(lambda: all(lease.trouble is None for lease in leases))
        await follower.until_ids("a", "b", "c")
        await follower.until(lambda seen: seen.stale_since is None)
        assert all({"brain-a", "brain-b"} <= set(seen.instances) for seen in follower.seen[before:])
        assert set(await ask(new, "HKEYS", KEYS.instances)) == {"brain-a", "brain-b", "brain-c"}
        await leases[0].release()
        await follower.until_ids("b", "c")


async def test_a_cluster_that_loses_a_master_takes_nobody_out(
    tmp_path: Path, open_at: Open, follow: Follow, eventually: Eventually
) -> None:
    async with cluster(tmp_path / "redis") as redis:
        owners, watching = open_at(redis.url, NEW, ttl=5.0), open_at(redis.url, NEW, ttl=5.0)
        leases = [await owners.register(an_instance(name)) for name in "ab"]
        follower = follow(watching)
        await follower.until_ids("a", "b")
        before = len(follower.seen)
        assert await owners.services() == ["brain"]
        assert set(await owners.leases("brain")) == {"brain-a", "brain-b"}
        await redis.kill_owner(KEYS.leases)
        await leases[0].update(weight=5)
        await follower.until(lambda seen: seen.instances["brain-a"].weight == 5)
        await eventually(lambda: all(lease.trouble is None for lease in leases))
        assert all({"brain-a", "brain-b"} == set(seen.instances) for seen in follower.seen[before:])
        await leases[0].release()
        await follower.until_ids("b")


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
async def test_sentinels_and_clusters_over_tls(
    kind: str, tmp_path: Path, open_at: Open, follow: Follow
) -> None:
    certificates = Certificates.make(tmp_path / "certificates")
    stranger = Certificates.make(tmp_path / "stranger")
    async with smallest(kind, tmp_path / "redis", certificates) as (url, _):
        assert url.startswith(f"rediss+{kind}://")
        registry = open_at(url, NEW, strict=True)
        await registry.register(an_instance("a"))
        await follow(registry).until_ids("a")
        for wrong, reason in (
            (url.replace(str(certificates.ca), str(stranger.ca)), "REDIS_UNTRUSTED"),
            (url.replace("://:", "://:x"), "REDIS_CREDENTIALS"),
        ):
            with pytest.raises(Unavailable) as caught:
                await open_at(wrong, NEW, strict=True).register(an_instance("b"))
            assert caught.value.reason == reason


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
async def test_a_lenient_start_goes_on_until_the_password_is_right(
    kind: str, tmp_path: Path, open_at: Open, follow: Follow
) -> None:
    async with smallest(kind, tmp_path / "redis") as (url, redis):
        wrong = open_at(url.replace("://:", "://:x"), NEW)
        lease = await wrong.register(an_instance("a"))
        assert lease.trouble is not None
        assert (lease.trouble.reason, lease.trouble.heals) == ("REDIS_CREDENTIALS", False)
        await ask(redis, "ACL", "SETUSER", "default", f">x{PASSWORD}")
        await follow(open_at(url, NEW)).until_ids("a")
        assert lease.trouble is None


async def test_a_master_that_no_sentinel_knows_ends_a_strict_start(tmp_path: Path, open_at: Open) -> None:
    async with smallest("sentinel", tmp_path / "redis") as (url, _):
        with pytest.raises(Unavailable, match="watches no master of that name") as caught:
            await open_at(url.replace("/mymaster/", "/nobody/"), strict=True).register(an_instance())
        assert caught.value.reason == "REDIS_MASTER_UNKNOWN"


@pytest.mark.parametrize("env", list(Environment))
async def test_production_is_strict_and_local_is_not(
    env: Environment, server: LocalServer, tmp_path: Path
) -> None:
    url = f"redis://:not-the-password@127.0.0.1:{server.port}/0"
    settings = SharedConfig.load({"CU_STATE_DIR": str(tmp_path), "REDIS_URL": url})
    registry = registry_of(settings.model_copy(update={"env": env}))
    try:
        if env is Environment.PRODUCTION:
            with pytest.raises(Unavailable, match="refuses the user or the password"):
                await registry.register(an_instance())
        else:
            assert (await registry.register(an_instance())).instance == an_instance()
    finally:
        await registry.close()
