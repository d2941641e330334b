"""Manifests: what is accepted, how versions count, and that replicas and tenants see what they should."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import psycopg
import pytest
from google.protobuf import json_format, struct_pb2

from meshkit import Aborted, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from reference_services._gen.contextunity.router.v1 import router_pb2 as pb
from reference_services.router import manifest as manifests
from reference_services.router import postgres as on_postgres
from reference_services.router import redis as on_redis
from reference_services.router import sqlite
from reference_services.router.catalog import Catalog
from reference_services.router.model import BUILT_IN, Extractive, Llm, RetrievalMode
from reference_services.router.postgres import ROUTER, open_postgres_manifests
from reference_services.router.redis import open_redis_manifests
from reference_services.router.sqlite import SqliteManifestStore
from reference_services.router.storage import KEPT_VERSIONS, Head, ManifestStore
from tests import one_redis, postgres
from tests.redis.servers import ask

Opening = Callable[[], AbstractAsyncContextManager[ManifestStore]]

REPOSITORY = Path(__file__).parents[2]


def struct(**values: object) -> struct_pb2.Struct:
    return json_format.ParseDict(values, struct_pb2.Struct())


def manifest(*ids: str, description: str = "") -> pb.Manifest:
    return pb.Manifest(description=description, agents=[pb.Agent(agent_id=name) for name in ids])


@pytest.fixture(scope="module")
def postgres_url() -> str:
    """A database with the router's schema; each test empties it."""
    return postgres.server().url(postgres.new_database(postgres.migrated_database(ROUTER)))


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opening]:
    """Opens an empty storage of each kind, as often as there are replicas."""
    if request.param == "sqlite":
        yield lambda: SqliteManifestStore.open(tmp_path / "router.sqlite")
    elif request.param == "redis":
        url, namespace = one_redis.server().url, one_redis.new_namespace()
        yield lambda: open_redis_manifests(url, namespace)
    else:
        url = request.getfixturevalue("postgres_url")
        yield lambda: open_postgres_manifests(url)
        with postgres.server().superuser(url.partition("@/")[2].partition("?")[0]) as connection:
            connection.execute("TRUNCATE router.manifests")


@pytest.fixture
async def store(opening: Opening) -> AsyncGenerator[ManifestStore]:
    async with opening() as opened:
        yield opened


async def register(
    store: ManifestStore, tenant: str, project: str, content: pb.Manifest, replaces: str = ""
) -> tuple[Head, bool]:
    manifests.validate(content)
    body = manifests.canonical(content)
    return await store.register(tenant, project, body, manifests.digest(body), replaces)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (manifest("Upper"), "agent_id"),
        (manifest(""), "agent_id"),
        (manifest("a" * 65), "agent_id"),
        (manifest("a", "a"), "manifest.agents"),
        (manifest(*(f"a{n}" for n in range(65))), "manifest.agents"),
        (manifest(description="x" * 1001), "manifest.description"),
        (manifest(description="x" * 300_000), "manifest"),
        (pb.Manifest(agents=[pb.Agent(agent_id="a", tools=["t"])]), "agents[a].tools"),
        (pb.Manifest(agents=[pb.Agent(agent_id="a", privacy=9)]), "agents[a].privacy"),  # type: ignore[arg-type]
        (
            pb.Manifest(agents=[pb.Agent(agent_id="a", retrieval=pb.Retrieval(limit=51))]),
            "agents[a].retrieval.limit",
        ),
        (
            pb.Manifest(agents=[pb.Agent(agent_id="a", retrieval=pb.Retrieval(limit=-1))]),
            "agents[a].retrieval.limit",
        ),
        (
            pb.Manifest(agents=[pb.Agent(agent_id="a", retrieval=pb.Retrieval(min_score=float("nan")))]),
            "agents[a].retrieval.min_score",
        ),
        (
            pb.Manifest(agents=[pb.Agent(agent_id="a", retrieval=pb.Retrieval(filter=struct(x=[1])))]),
            "agents[a].retrieval.filter",
        ),
        (
            pb.Manifest(agents=[pb.Agent(agent_id="a", retrieval=pb.Retrieval(sources=[""]))]),
            "agents[a].retrieval.sources",
        ),
        (
            pb.Manifest(agents=[pb.Agent(agent_id="a", extractive=pb.ExtractiveAnswerer(max_sentences=13))]),
            "agents[a].extractive.max_sentences",
        ),
        (
            pb.Manifest(agents=[pb.Agent(agent_id="a", llm=pb.LlmAnswerer(temperature=3))]),
            "agents[a].llm.temperature",
        ),
        (
            pb.Manifest(agents=[pb.Agent(agent_id="a", llm=pb.LlmAnswerer(system_prompt="x" * 8001))]),
            "agents[a].llm.system_prompt",
        ),
        (pb.Manifest(tools=[pb.Tool(name="no spaces")]), "tools.name"),
        (pb.Manifest(tools=[pb.Tool(name="t"), pb.Tool(name="t")]), "manifest.tools"),
        (pb.Manifest(tools=[pb.Tool(name="t", parameters=struct(type="string"))]), "tools[t].parameters"),
        (
            pb.Manifest(tools=[pb.Tool(name="t", parameters=struct(type="object", x="y" * 17_000))]),
            "tools[t].parameters",
        ),
    ],
)
def test_a_manifest_past_its_bounds_is_refused_and_told_where(bad: pb.Manifest, field: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        manifests.validate(bad)
    assert (raised.value.reason, raised.value.details["field"]) == ("MANIFEST_INVALID", field)


def test_a_number_that_json_has_not_is_refused() -> None:
    bad = struct_pb2.Struct()
    bad.fields["x"].number_value = float("inf")
    content = pb.Manifest(agents=[pb.Agent(agent_id="a", retrieval=pb.Retrieval(filter=bad))])
    with pytest.raises(InvalidArgument):
        manifests.canonical(content)


def test_the_digest_is_that_of_the_content_alone() -> None:
    one, two = (
        pb.Manifest(tools=[pb.Tool(name="t", parameters=data)])
        for data in (struct(a=1, b=2), struct(b=2, a=1))
    )
    assert manifests.digest(manifests.canonical(one)) == manifests.digest(manifests.canonical(two))
    assert manifests.canonical(one) != manifests.canonical(manifest("a"))
    assert manifests.parse(manifests.canonical(one)) == one


def test_a_manifest_is_read_as_agents() -> None:
    content = pb.Manifest(
        tools=[pb.Tool(name="weather", parameters=struct(type="object"))],
        agents=[
            pb.Agent(
                agent_id="docs",
                retrieval=pb.Retrieval(
                    limit=9, mode=pb.RETRIEVAL_MODE_LEXICAL, filter=struct(lang="en", n=3)
                ),
                privacy=pb.PRIVACY_MODE_OFF,
                llm=pb.LlmAnswerer(temperature=0, system_prompt="p"),
                tools=["weather"],
            ),
            pb.Agent(agent_id="quotes", extractive=pb.ExtractiveAnswerer()),
            pb.Agent(agent_id="plain"),
        ],
    )
    manifests.validate(content)
    docs, quotes, plain = manifests.agents(content, project="p", manifest_digest="d")
    assert docs.answerer == Llm(temperature=0.0, system_prompt="p")
    assert (docs.masks, docs.retrieval.limit, docs.retrieval.mode) == (False, 9, RetrievalMode.LEXICAL)
    assert docs.retrieval.filter == {"lang": "en", "n": 3}
    assert quotes.answerer == Extractive()
    assert (plain.answerer, plain.masks, plain.retrieval) == (None, True, BUILT_IN.retrieval)


async def test_the_same_manifest_again_changes_nothing(store: ManifestStore) -> None:
    first, changed = await register(store, "acme", "p", manifest("a"))
    again, changed_again = await register(store, "acme", "p", manifest("a"))
    assert (changed, changed_again) == (True, False)
    assert again == first
    assert first.version == 1


async def test_versions_count_and_the_last_ten_are_kept(store: ManifestStore) -> None:
    heads = [(await register(store, "acme", "p", manifest(f"a{n}")))[0] for n in range(KEPT_VERSIONS + 2)]
    assert [head.version for head in heads] == list(range(1, KEPT_VERSIONS + 3))
    assert await store.read("acme", "p", heads[1].digest) is None
    kept = await store.read("acme", "p", heads[2].digest)
    assert kept is not None
    assert not kept[0].current
    now = await store.read("acme", "p")
    assert now is not None
    assert now[0] == heads[-1]


async def test_a_change_on_top_of_an_outdated_manifest_is_refused(store: ManifestStore) -> None:
    first, _ = await register(store, "acme", "p", manifest("a"))
    second, _ = await register(store, "acme", "p", manifest("b"), first.digest)
    with pytest.raises(Aborted) as raised:
        await register(store, "acme", "p", manifest("c"), first.digest)
    assert (raised.value.reason, raised.value.details["digest"]) == ("MANIFEST_CHANGED", second.digest)
    assert (await register(store, "acme", "p", manifest("b"), first.digest))[1] is False


async def test_a_tenant_has_no_more_projects_than_it_may(
    store: ManifestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (sqlite, on_postgres, on_redis):
        monkeypatch.setattr(place, "MAX_PROJECTS", 2)
    for project in ("p1", "p2"):
        await register(store, "acme", project, manifest("a"))
    with pytest.raises(ResourceExhausted) as raised:
        await register(store, "acme", "p3", manifest("a"))
    assert raised.value.reason == "TOO_MANY_PROJECTS"
    await register(store, "acme", "p1", manifest("b"))
    await register(store, "other", "p3", manifest("a"))


async def test_another_tenant_sees_nothing(store: ManifestStore) -> None:
    head, _ = await register(store, "acme", "p", manifest("secret-agent"))
    catalog = Catalog(store)
    assert (await catalog.find("acme", "p", "secret-agent")).manifest_digest == head.digest
    assert await store.read("other", "p", head.digest) is None
    assert list(await store.heads("other")) == []
    assert await catalog.all("other") == [BUILT_IN]
    with pytest.raises(NotFound) as raised:
        await catalog.find("other", "p", "secret-agent")
    assert raised.value.reason == "AGENT_UNKNOWN"
    assert raised.value.details["agents"] == "default"


async def test_an_unknown_agent_is_told_which_there_are(store: ManifestStore) -> None:
    await register(store, "acme", "p", manifest("docs", "help"))
    with pytest.raises(NotFound, match="docs, help"):
        await Catalog(store).find("acme", "p", "dosc")
    with pytest.raises(NotFound, match="has none"):
        await Catalog(store).find("acme", "p", "docs", project="q")


async def test_the_callers_own_agent_comes_first_then_the_built_in_then_the_only_other(
    store: ManifestStore,
) -> None:
    catalog = Catalog(store)
    assert await catalog.find("acme", "p1") == BUILT_IN
    await register(store, "acme", "p1", manifest("default", "shared"))
    await register(store, "acme", "p2", manifest("shared", "only-here"))
    assert (await catalog.find("acme", "p1")).project == "p1"
    assert await catalog.find("acme", "p2") == BUILT_IN
    assert (await catalog.find("acme", "p2", "default", project="p1")).project == "p1"
    assert (await catalog.find("acme", "p2", "shared")).project == "p2"
    assert (await catalog.find("acme", "p1", "only-here")).project == "p2"
    with pytest.raises(FailedPrecondition) as raised:
        await catalog.find("acme", "p3", "shared")
    assert (raised.value.reason, raised.value.details["projects"]) == ("AGENT_AMBIGUOUS", "p1, p2")


async def test_an_empty_manifest_takes_the_agents_away(store: ManifestStore) -> None:
    catalog = Catalog(store, remembered=1)
    await register(store, "acme", "p", manifest("a"))
    assert (await catalog.find("acme", "p", "a")).agent_id == "a"
    await register(store, "acme", "p", pb.Manifest())
    with pytest.raises(NotFound):
        await catalog.find("acme", "p", "a")


async def test_a_replica_sees_at_once_what_another_registered(opening: Opening) -> None:
    async with opening() as one, opening() as two:
        catalog = Catalog(two)
        for name in ("a", "b"):
            await register(one, "acme", "p", manifest(name))
            assert (await catalog.find("acme", "p", name)).agent_id == name


async def test_replicas_that_register_at_once_make_one_row_of_versions(opening: Opening) -> None:
    async with opening() as one, opening() as two:
        made = await asyncio.gather(
            *(register((one, two)[n % 2], "acme", f"p{n % 3}", manifest(f"a{n}")) for n in range(18))
        )
        for project in range(3):
            versions = sorted(head.version for head, _ in made if head.project == f"p{project}")
            assert versions == list(range(1, 7))
        heads = await one.heads("acme")
        assert [(head.project, head.version, head.current) for head in heads] == [
            (f"p{project}", 6, True) for project in range(3)
        ]


async def test_processes_that_start_at_once_on_a_new_file_all_register(tmp_path: Path) -> None:
    path, processes, count = tmp_path / "router.sqlite", 4, 10
    script = Path(__file__).with_name("register_once.py")
    running = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            str(script),
            str(path),
            f"p{number}",
            str(count),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": str(REPOSITORY)},
        )
        for number in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    results = await asyncio.gather(*(process.communicate(b"go\n") for process in running))
    assert [process.returncode for process in running] == [0] * processes, [error for _, error in results]
    async with SqliteManifestStore.open(path) as store:
        heads = {head.project: head.version for head in await store.heads("acme")}
    assert heads == {"shared": processes * count, **{f"p{number}": 1 for number in range(processes)}}


async def test_a_database_that_cannot_be_used_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "router.sqlite").mkdir()
    with pytest.raises(Unavailable) as raised:
        async with SqliteManifestStore.open(tmp_path / "router.sqlite"):
            pass
    assert raised.value.reason == "DATABASE_UNAVAILABLE"
    assert "ROUTER_DATABASE_URL" in raised.value.message


async def test_manifests_outlive_the_process(opening: Opening) -> None:
    async with opening() as store:
        head, _ = await register(store, "acme", "p", manifest("a"))
    async with opening() as store:
        assert list(await store.heads("acme")) == [head]


async def test_no_tenant_reaches_anothers_manifests_in_postgresql(postgres_url: str) -> None:
    async with open_postgres_manifests(postgres_url) as store:
        await register(store, "acme", "p", manifest("a"))
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("SET ROLE meshkit_router")
        for tenant, seen in (("beta", 0), ("", 0), ("acme", 1)):
            connection.execute("SELECT set_config('meshkit.tenant', %s, false)", (tenant,))
            assert connection.execute("SELECT FROM router.manifests").rowcount == seen
            assert connection.execute("DELETE FROM router.manifests").rowcount == seen


async def test_manifests_are_in_redis_under_the_namespace() -> None:
    server, namespace = one_redis.server(), one_redis.new_namespace()
    async with open_redis_manifests(server.url, namespace) as store:
        await register(store, "acme", "p", manifest("a"))
        keys = await ask(server, "KEYS", f"{namespace}:*")
    assert sorted(keys) == [f"{namespace}:router:{{acme}}:{rest}" for rest in ("heads", "manifests:p")]
