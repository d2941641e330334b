"""What the reference services keep, on Redis servers of the other kinds: a Cluster, Sentinels, one with ACL users."""

from pathlib import Path

import pytest

from meshkit import FailedPrecondition
from meshkit.config import RedisUrl
from meshkit.config.problems import Wrong
from reference_services.router.redis import open_redis_manifests
from reference_services.zero.config import ZeroConfig
from reference_services.zero.masking import Privacy, Search
from reference_services.zero.redis import open_redis_vault
from reference_services.zero.sealing import Master
from tests.docs.pages import ROOT
from tests.redis.servers import Cluster, acl_server


async def use(url: str) -> None:
    """Does with a Redis all that zero and the router do with it."""
    async with open_redis_vault(url, "contextunity") as vault:
        privacy = Privacy(vault, Master(bytes(32)))
        for tenant in ("acme", "beta", "gamma"):
            masked = await privacy.mask(tenant, "ada@example.org", "s", Search())
            assert (await privacy.unmask(tenant, masked.text, "s")).text == "ada@example.org"
            assert (await privacy.holdings(tenant)).entities == {"EMAIL": 1}
            assert await privacy.destroy(tenant, "s")
        privacy.close()
    async with open_redis_manifests(url, "contextunity") as store:
        for tenant in ("acme", "beta", "gamma"):
            head, changed = await store.register(tenant, "p", "body\nof it", f"digest of {tenant}")
            assert changed
            assert list(await store.heads(tenant)) == [head]
            assert await store.read(tenant, "p", head.digest) == (head, "body\nof it")


async def test_a_cluster_keeps_each_tenants_state_on_one_node(redis_cluster: Cluster) -> None:
    await use(redis_cluster.url)


async def test_the_rights_that_the_page_names_are_enough_and_a_missing_one_is_named(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "services.md").read_text()
    line = next(each for each in page.splitlines() if each.startswith("user state on "))
    rules = line.removeprefix("user state on >password ")
    async with acl_server(tmp_path / "all", rules) as server:
        await use(server.url)
    async with acl_server(tmp_path / "less", rules.replace(" +zadd", "")) as server:
        with pytest.raises(FailedPrecondition, match="DATABASE_UNUSABLE"):
            await use(server.url)


@pytest.mark.parametrize(
    "url",
    ["redis://h:1/x", "redis://a,b:1/0", "rediss://h?ssl_cert_reqs=none", "redis+sentinel://h", "valkey://h"],
)
def test_a_url_that_would_be_misread_is_refused(url: str) -> None:
    with pytest.raises(Exception, match="ZERO_DATABASE_URL"):
        ZeroConfig(zero_database_url=url)


def test_a_redis_url_means_the_same_as_for_the_mesh() -> None:
    url = "rediss+sentinel://u:p@h1,h2:26380/main/2?ssl_ca_certs=/etc/ca.pem"
    assert ZeroConfig(zero_database_url=url).zero_database_url == url
    assert RedisUrl.parse(url).tls
    with pytest.raises(Wrong):
        RedisUrl.parse(url + "#")
