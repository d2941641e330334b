"""The servers of the tests are what they are said to be."""

from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError, NoPermissionError

from tests.certificates import Certificates
from tests.redis.servers import Cluster, Sentinels, acl_server, ask, sentinels, tls_server


async def test_tls_is_verified_against_the_authority(tmp_path: Path, certificates: Certificates) -> None:
    async with tls_server(tmp_path / "redis", certificates) as server:
        assert await ask(server, "PING") is True
        stranger = Certificates.make(tmp_path / "stranger")
        url = server.url.replace(str(certificates.ca), str(stranger.ca))
        async with Redis.from_url(url) as client:
            with pytest.raises(ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.ping()


async def test_a_server_may_want_the_clients_certificate(tmp_path: Path, certificates: Certificates) -> None:
    async with tls_server(tmp_path / "redis", certificates, client_certificate=True) as server:
        assert await ask(server, "PING") is True
        async with Redis.from_url(server.url.partition("&")[0]) as client:
            with pytest.raises(ConnectionError):
                await client.ping()


async def test_an_acl_user_may_do_what_the_rules_say(tmp_path: Path) -> None:
    async with (
        acl_server(tmp_path, "~ns:* &ns:* +get +set") as granted,
        Redis.from_url(granted.url) as client,
    ):
        await client.set("ns:a", "1")
        with pytest.raises(NoPermissionError):
            await client.set("other:a", "1")


async def test_sentinels_put_a_replica_in_the_place_of_a_dead_master(redis_sentinels: Sentinels) -> None:
    first = await redis_sentinels.master()
    await ask(first, "SET", "a", "1")
    await ask(first, "WAIT", 2, 2000)
    second = await redis_sentinels.kill_master()
    assert second is not first
    assert await ask(second, "GET", "a") == "1"
    assert await ask(second, "SET", "a", "2") is True


async def test_sentinels_may_want_a_password(tmp_path: Path) -> None:
    async with sentinels(tmp_path, replicas=1, watchers=2, sentinel_password=True) as group:
        async with Redis(port=group.sentinels[0].port) as client:
            with pytest.raises(ConnectionError, match="must be called with the client already authenticated"):
                await client.ping()
        assert group.url.endswith("?sentinel_auth=true")


async def test_a_cluster_puts_a_replica_in_the_place_of_a_dead_master(redis_cluster: Cluster) -> None:
    first = await redis_cluster.owner("{brain}")
    await ask(first, "SET", "{brain}:a", "1")
    await ask(first, "WAIT", 1, 2000)
    second = await redis_cluster.kill_owner("{brain}")
    assert await ask(second, "GET", "{brain}:a") == "1"
