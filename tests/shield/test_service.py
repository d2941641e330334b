"""Shield over the wire: who may ask it for what, and what it says."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.duration_pb2 import Duration
from structlog.testing import capture_logs

from meshkit import Mesh, MeshError, Principal
from meshkit.protocol import ShieldClient
from meshkit.protocol import shield as pb
from meshkit.security.keys import service_keys
from meshkit.security.tokens import peek
from reference_services.shield import bulletin
from reference_services.shield.config import ShieldConfig
from reference_services.shield.policy import Asked
from tests.shield.bound import public
from tests.shield.conftest import SECRET, Place, running

KEY = public(Ed25519PrivateKey.generate())
SHOP_SECRET = "the-secret-of-the-shop-project-000000001"


def scope(
    audience: str = "brain", tenants: Any = ("acme",), permissions: Any = ("*",), **others: Any
) -> pb.Scope:
    return pb.Scope(audience=audience, tenants=tenants, permissions=permissions, **others)


def shop(**changed: Any) -> pb.Project:
    derived = service_keys(SHOP_SECRET.encode(), namespace="contextunity", project="shop", service="shield")
    facts = {
        "project_id": "shop",
        "keys": [pb.ProjectKey(kid="s1", token_key=derived.token, proof_key=derived.proof)],
        "tenants": ["acme"],
        "permissions": ["brain:read"],
        "subjects": ["till", "front"],
        "audiences": ["brain", "front"],
        "delegate": ["shop"],
        **changed,
    }
    return pb.Project(**facts)


@asynccontextmanager
async def calling(
    place: Place, name: str = "till", secret: str = f"s1:{SHOP_SECRET}", project_id: str = "shop"
) -> AsyncIterator[ShieldClient]:
    """A service of the project shop, on another machine."""
    config = ShieldConfig(
        project_id=project_id,
        project_secret=secret,
        registry_url=f"static://shield={place.address}",
        tenant="acme",
    )
    async with Mesh(config, name=name) as mesh:
        yield mesh.client(ShieldClient)


async def refused(call: Any) -> str:
    with pytest.raises(MeshError) as caught:
        await call
    return caught.value.reason


async def put(place: Place, project: pb.Project, **options: Any) -> pb.Project:
    reply = await place.client.put_project(pb.PutProjectRequest(project=project, **options))
    return reply.project


async def test_a_project_that_shield_knows_gets_tokens_for_what_it_is_granted(shield: Place) -> None:
    await put(shield, shop())
    async with calling(shield) as client:
        reply = await client.issue_token(pb.IssueTokenRequest(scope=scope(), public_key=KEY))
        header, claims = peek(reply.issued.token)
        assert (claims["project"], claims["sub"], claims["aud"]) == ("shop", "till", "brain")
        assert (claims["permissions"], claims["tenants"]) == (["brain:read"], ["acme"])
        assert reply.issued.expires_at.ToSeconds() == claims["exp"] == claims["iat"] + 300
        (key,) = (await client.get_keys(pb.GetKeysRequest())).keys
        assert (f"shield:{key.kid}", key.state) == (header["kid"], pb.KEY_STATE_ACTIVE)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (scope("zero"), "AUDIENCE_FORBIDDEN"),
        (scope("no service"), "AUDIENCE_MALFORMED"),
        (scope(tenants=["beta"]), "GRANT_EXCEEDED"),
        (scope(permissions=["brain:write"]), "GRANT_EXCEEDED"),
        (scope(permissions=["anything"]), "NAMES_MALFORMED"),
        (scope(tenants=["a b"]), "NAMES_MALFORMED"),
        (scope(lifetime=Duration(nanos=999_999_999)), "LIFETIME_INVALID"),
    ],
)
async def test_each_refusal_has_its_reason(shield: Place, wanted: pb.Scope, reason: str) -> None:
    await put(shield, shop())
    async with calling(shield) as client:
        request = pb.IssueTokenRequest(scope=wanted, public_key=KEY)
        assert await refused(client.issue_token(request)) == reason


async def test_a_token_that_would_be_too_large_is_not_made(shield: Place) -> None:
    wanted = scope(tenants=[f"{number:060}" for number in range(100)])
    request = pb.IssueTokenRequest(scope=wanted, public_key=KEY)
    assert await refused(shield.client.issue_token(request)) == "TOKEN_TOO_LARGE"


async def test_a_project_that_is_gone_by_the_time_that_it_asks_is_unknown(shield: Place) -> None:
    stranger = Principal("nobody", "me")
    assert (
        await refused(shield.authority.issue(stranger, Asked("brain", frozenset(), frozenset()), KEY))
        == "PROJECT_UNKNOWN"
    )


async def test_a_public_key_is_one(shield: Place) -> None:
    request = pb.IssueTokenRequest(scope=scope(), public_key=b"short")
    assert await refused(shield.client.issue_token(request)) == "PUBLIC_KEY_MALFORMED"


async def test_who_is_not_known_or_not_who_it_says_gets_nothing(shield: Place) -> None:
    request = pb.IssueTokenRequest(scope=scope(), public_key=KEY)
    async with calling(shield) as client:
        assert await refused(client.issue_token(request)) == "KEY_UNKNOWN"
    await put(shield, shop())
    async with calling(shield, secret="s1:another-secret-of-the-same-name-0000001") as client:
        assert await refused(client.issue_token(request)) == "TOKEN_SIGNATURE"
    async with calling(shield, "stranger") as client:
        assert await refused(client.issue_token(request)) == "GRANT_EXCEEDED"
    await put(shield, shop(keys=[pb.ProjectKey(kid="s1", retired=True)]))
    async with calling(shield) as client:
        assert await refused(client.issue_token(request)) == "KEY_RETIRED"


async def test_who_has_proved_nothing_has_no_look_at_the_database(
    shield: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(shield, shop())
    looks: list[str] = []
    storage = shield.authority._storage
    monkeypatch.setattr(storage, "find_project", looks.append)
    request = pb.IssueTokenRequest(scope=scope(), public_key=KEY)
    async with calling(shield, secret=f"unknown:{SHOP_SECRET}") as client:
        assert await refused(client.issue_token(request)) == "KEY_UNKNOWN"
    async with calling(shield, secret="s1:another-secret-of-the-same-name-0000001") as client:
        assert await refused(client.issue_token(request)) == "TOKEN_SIGNATURE"
    assert looks == []


async def test_a_project_whose_keys_were_damaged_keeps_nobody_else_out(shield: Place) -> None:
    await put(shield, shop())
    damage = "UPDATE project_key SET sealed = zeroblob(92)"
    await shield.authority._storage._database.execute(damage)
    with capture_logs() as logs:
        await put(shield, shop(project_id="bank"))
    assert [entry["project"] for entry in logs if entry["log_level"] == "error"] == ["shop"]
    async with calling(shield) as client:
        request = pb.IssueTokenRequest(scope=scope(), public_key=KEY)
        assert await refused(client.issue_token(request)) == "KEY_UNKNOWN"
    assert len((await shield.client.list_projects(pb.ListProjectsRequest())).projects) == 2


async def test_a_disabled_project_gets_nothing(shield: Place) -> None:
    await put(shield, shop())
    await put(shield, shop(keys=[], disabled=True), keep_keys=True)
    async with calling(shield) as client:
        request = pb.IssueTokenRequest(scope=scope(), public_key=KEY)
        assert await refused(client.issue_token(request)) == "KEY_RETIRED"


async def test_only_shields_own_project_operates_it_unless_a_project_is_granted_that(shield: Place) -> None:
    await put(shield, shop(permissions=["*"]))
    async with calling(shield) as client:
        for call in (
            client.rotate_keys(pb.RotateKeysRequest()),
            client.revoke(pb.RevokeRequest(project_id="shop")),
            client.put_project(pb.PutProjectRequest(project=shop())),
            client.list_projects(pb.ListProjectsRequest()),
        ):
            assert await refused(call) == "GRANT_EXCEEDED"
    await put(shield, shop(permissions=["brain:*", "shield:revoke"]))
    async with calling(shield) as client:
        await client.revoke(pb.RevokeRequest(project_id="shop"))


async def test_nobody_operates_shield_by_the_word_of_a_keys_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.touch(0o600)
    everything = 'tenants = ["*"], permissions = ["*"], subjects = ["*"], delegate = ["*"]'
    row = f'project = "shop"\nkid = "s1"\nsecret = "{SHOP_SECRET}"\ngrants = {{ {everything} }}'
    file.write_text(f"[[key]]\n{row}\n")
    async with running(project_keys_file=file) as place, calling(place) as client:
        assert await refused(client.put_project(pb.PutProjectRequest(project=shop()))) == "KEY_UNKNOWN"
        await put(place, shop())
        assert await refused(client.put_project(pb.PutProjectRequest(project=shop()))) == "GRANT_EXCEEDED"


async def test_projects_get_tokens_while_redis_is_away() -> None:
    settings = {"redis_url": "redis://127.0.0.1:1/0", "redis_secret_key": f"k1:{'A' * 42}E"}
    async with running(**settings) as place, calling(place) as client:
        await put(place, shop())
        await client.issue_token(pb.IssueTokenRequest(scope=scope(), public_key=KEY))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"project_id": "shield"}, "PROJECT_MALFORMED"),
        ({"project_id": "No Project"}, "PROJECT_MALFORMED"),
        ({"tenants": ["a b"]}, "NAMES_MALFORMED"),
        ({"permissions": ["read"]}, "NAMES_MALFORMED"),
        ({"audiences": ["No Service"]}, "NAMES_MALFORMED"),
        ({"delegate": ["shield"]}, "NAMES_MALFORMED"),
        ({"subjects": ["x" * 201]}, "NAMES_MALFORMED"),
        ({"tenants": [f"t{number}" for number in range(1001)]}, "NAMES_MALFORMED"),
        ({"keys": []}, "PROJECT_KEYS_MALFORMED"),
        ({"keys": [pb.ProjectKey(kid="k", token_key=b"1" * 32)]}, "PROJECT_KEYS_MALFORMED"),
        (
            {"keys": [pb.ProjectKey(kid="k", token_key=b"1" * 32, proof_key=b"1" * 32)]},
            "PROJECT_KEYS_MALFORMED",
        ),
        ({"keys": [pb.ProjectKey(kid="k", retired=True)] * 2}, "PROJECT_KEYS_MALFORMED"),
    ],
)
async def test_a_project_that_makes_no_sense_is_refused(shield: Place, changed: Any, reason: str) -> None:
    request = pb.PutProjectRequest(project=shop(**changed))
    assert await refused(shield.client.put_project(request)) == reason


async def test_projects_are_listed_in_pages_without_their_keys_bytes(shield: Place) -> None:
    for name in ("a", "b", "c"):
        await put(shield, shop(project_id=name))
    page = await shield.client.list_projects(pb.ListProjectsRequest(limit=2))
    assert ([project.project_id for project in page.projects], page.more) == (["a", "b"], True)
    rest = await shield.client.list_projects(pb.ListProjectsRequest(after="b"))
    (last,) = rest.projects
    assert (last.project_id, rest.more, last.updated_by) == ("c", False, "local/client")
    assert last.keys == [pb.ProjectKey(kid="s1")]


async def test_what_is_issued_to_one_project_is_limited() -> None:
    async with running(shield_issue_rate=2.0) as place:
        await put(place, shop())
        request = pb.IssueTokenRequest(scope=scope(), public_key=KEY)
        async with calling(place) as client:
            outcomes = [await _outcome(client, request) for _ in range(12)]
        assert outcomes[:4] == ["OK"] * 4
        assert "RATE_LIMITED" in outcomes
        await place.client.issue_token(request)


async def test_callers_of_one_project_use_up_nobody_elses_tokens() -> None:
    async with running(shield_issue_rate=2.0) as place:
        for project in ("shop", "mall"):
            rights = ["front:greet", "brain:read"]
            await put(place, shop(project_id=project, permissions=rights, keys=[derived_for(project)]))
        await put(place, shop(project_id="door", keys=[derived_for("door")], delegate=["shop", "mall"]))
        async with (
            calling(place, "front", project_id="door") as front,
            calling(place) as of_shop,
            calling(place, project_id="mall") as of_mall,
        ):
            wanted = scope("front", permissions=["front:greet", "brain:read"])
            issue = pb.IssueTokenRequest(scope=wanted, public_key=KEY)
            shops, malls = [(await each.issue_token(issue)).issued.token for each in (of_shop, of_mall)]

            async def outcome(token: str) -> str:
                narrow = scope("brain", permissions=["brain:read"])
                request = pb.ExchangeTokenRequest(subject_token=token, scope=narrow, public_key=KEY)
                try:
                    await front.exchange_token(request, timeout=0.3)
                except MeshError as error:
                    return error.reason
                return "OK"

            outcomes = [await outcome(shops) for _ in range(12)]
            assert outcomes[:4] == ["OK"] * 4
            assert "RATE_LIMITED" in outcomes
            assert await outcome(malls) == "OK"
            assert await front.issue_token(pb.IssueTokenRequest(scope=scope(), public_key=KEY))
            assert await of_shop.issue_token(issue)


def derived_for(project: str) -> pb.ProjectKey:
    derived = service_keys(SHOP_SECRET.encode(), namespace="contextunity", project=project, service="shield")
    return pb.ProjectKey(kid="s1", token_key=derived.token, proof_key=derived.proof)


async def _outcome(client: ShieldClient, request: pb.IssueTokenRequest) -> str:
    try:
        await client.issue_token(request, timeout=0.3)
    except MeshError as error:
        return error.reason
    return "OK"


async def test_revocations_are_told_from_where_the_watcher_was(shield: Place) -> None:
    client = shield.client
    await client.revoke(pb.RevokeRequest(token_id="j1"))
    async with client.watch_revocations(pb.WatchRevocationsRequest()) as news:
        first = await anext(aiter(news))
        assert (first.reset, first.current, first.revision) == (True, True, 1)
        assert first.revocations[0].token.token_id == "j1"
        begun = time.monotonic()
        await client.revoke(pb.RevokeRequest(project_id="shop"))
        second = await anext(aiter(news))
        assert second.revocations[0].project.project_id == "shop"
        assert time.monotonic() - begun < 1
    request = pb.WatchRevocationsRequest(log_id=first.log_id, after_revision=first.revision)
    async with client.watch_revocations(request) as news:
        resumed = await anext(aiter(news))
        assert not resumed.reset
        assert [each.project.project_id for each in resumed.revocations] == ["shop"]
    async with client.watch_revocations(
        pb.WatchRevocationsRequest(log_id="another", after_revision=9)
    ) as news:
        again = await anext(aiter(news))
        assert (again.reset, len(again.revocations)) == (True, 2)


async def test_a_watcher_that_knows_more_than_a_database_that_was_put_back_is_told_all(shield: Place) -> None:
    client = shield.client
    await client.revoke(pb.RevokeRequest(token_id="j1"))
    log_id = shield.authority.bulletin.revisions.log_id
    request = pb.WatchRevocationsRequest(log_id=log_id, after_revision=9)
    async with client.watch_revocations(request) as news:
        messages = aiter(news)
        first = await anext(messages)
        assert (first.reset, first.revision, len(first.revocations)) == (True, 1, 1)
        await client.revoke(pb.RevokeRequest(token_id="j2"))
        second = await anext(messages)
        assert [each.token.token_id for each in second.revocations] == ["j2"]


async def test_keys_are_those_of_now_whichever_replica_changed_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulletin, "LOOK_S", 3600.0)
    settings = {
        "shield_database_url": f"sqlite:///{tmp_path}/shield.sqlite",
        "shield_master_key": "A" * 42 + "E",
    }
    async with running(**settings) as one, running(**settings) as other:
        await one.client.rotate_keys(pb.RotateKeysRequest(retire_others=True))
        states = [key.state for key in (await other.client.get_keys(pb.GetKeysRequest())).keys]
        assert sorted(states) == [pb.KEY_STATE_ACTIVE, pb.KEY_STATE_RETIRED]


async def test_a_revocation_of_nothing_is_refused(shield: Place) -> None:
    for request in (
        pb.RevokeRequest(),
        pb.RevokeRequest(token_id=""),
        pb.RevokeRequest(project_id="No Project"),
    ):
        assert await refused(shield.client.revoke(request)) == "REVOCATION_MALFORMED"


async def test_a_token_that_is_issued_right_after_its_project_was_revoked_is_good(shield: Place) -> None:
    await shield.client.revoke(pb.RevokeRequest(project_id="local"))
    reply = await shield.client.issue_token(pb.IssueTokenRequest(scope=scope(), public_key=KEY))
    before = (await shield.authority.revoked_after(0, 10))[0].moment
    assert peek(reply.issued.token)[1]["iat"] >= before


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda token: token[:-4] + "AAAA", "SUBJECT_TOKEN_SIGNATURE"),
        (lambda token: "a.b.c", "SUBJECT_TOKEN_MALFORMED"),
        (lambda token: "", "SUBJECT_TOKEN_MALFORMED"),
    ],
)
async def test_only_tokens_of_shield_are_exchanged(shield: Place, spoil: Any, reason: str) -> None:
    issued = await shield.client.issue_token(pb.IssueTokenRequest(scope=scope("client"), public_key=KEY))
    request = pb.ExchangeTokenRequest(subject_token=spoil(issued.issued.token), scope=scope(), public_key=KEY)
    assert await refused(shield.client.exchange_token(request)) == reason


async def test_only_who_was_called_with_a_token_exchanges_it(shield: Place) -> None:
    issued = await shield.client.issue_token(pb.IssueTokenRequest(scope=scope("router"), public_key=KEY))
    request = pb.ExchangeTokenRequest(subject_token=issued.issued.token, scope=scope(), public_key=KEY)
    assert await refused(shield.client.exchange_token(request)) == "SUBJECT_TOKEN_AUDIENCE"


async def test_a_revoked_token_is_not_exchanged(shield: Place) -> None:
    issued = await shield.client.issue_token(pb.IssueTokenRequest(scope=scope("client"), public_key=KEY))
    token_id = peek(issued.issued.token)[1]["jti"]
    await shield.client.revoke(pb.RevokeRequest(token_id=token_id))
    request = pb.ExchangeTokenRequest(subject_token=issued.issued.token, scope=scope(), public_key=KEY)
    assert await refused(shield.client.exchange_token(request)) == "SUBJECT_TOKEN_REVOKED"


async def test_a_project_that_is_revoked_during_an_exchange_gets_no_newer_token_by_it(
    shield: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = await shield.client.issue_token(pb.IssueTokenRequest(scope=scope("client"), public_key=KEY))
    storage = shield.authority._storage
    asked = storage.is_revoked

    async def overtaken(*arguments: Any) -> bool:
        monkeypatch.undo()
        answer = await asked(*arguments)
        await shield.authority.revoke(Principal("local", "operator"), project_id="local")
        return answer

    monkeypatch.setattr(storage, "is_revoked", overtaken)
    request = pb.ExchangeTokenRequest(subject_token=issued.issued.token, scope=scope(), public_key=KEY)
    assert await refused(shield.client.exchange_token(request)) == "SUBJECT_TOKEN_REVOKED"


async def test_what_is_revoked_stays_so_for_tokens_that_were_issued_under_longer_terms() -> None:
    async with running(shield_token_ttl_s=10) as place:
        authority = place.authority
        await place.client.revoke(pb.RevokeRequest(token_id="j1"))
        await place.client.revoke(pb.RevokeRequest(project_id="shop"))
        (token, _) = before = await authority.revoked_after(0, 10)
        assert token.moment >= time.time() + 3600
        authority._clock = lambda: time.time() + 3600
        await authority.sweep()
        assert await authority.revoked_after(0, 10) == before


async def test_what_is_over_is_deleted_and_the_log_holds(shield: Place) -> None:
    await shield.client.revoke(pb.RevokeRequest(token_id="j1"))
    authority = shield.authority
    authority._clock = lambda: time.time() + 10_000
    assert await authority.sweep() == 1
    assert await authority.revoked_after(0, 10) == []
    authority._clock = lambda: time.time() + 500 * 86400
    assert await authority.sweep() > 0


def test_secrets_are_not_shown() -> None:
    config = ShieldConfig(project_secret=f"k1:{SECRET}", shield_master_key="A" * 42 + "E")
    assert "A" * 42 not in f"{config!r} {config} {config.model_dump()}"


async def test_a_watcher_is_let_go_at_once_when_shield_stops() -> None:
    watched = pb.WatchRevocationsRequest()
    async with (
        asyncio.timeout(20),
        running(drain_grace_s=60.0, drain_streams_s=60.0) as place,
        place.client.watch_revocations(watched) as news,
    ):
        await anext(aiter(news))
        await place.local.drain(place.local.instances[0])
        with pytest.raises(StopAsyncIteration):
            await anext(aiter(news))
