"""A mesh in Shield mode: whose tokens are taken, on whose behalf, and what reaches Shield."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient
from structlog.testing import capture_logs

from meshkit import Call, MeshError, SharedConfig, Unauthenticated, Unavailable, reflection, rpc
from meshkit.call import BLANK, Principal
from meshkit.config import ConfigError
from meshkit.discovery.memory import MemoryRegistry
from meshkit.protocol import shield as shield_pb
from meshkit.replica import Replica
from meshkit.security.bound import Actor, bound_token
from meshkit.security.shared import shared_of
from meshkit.security.tokens import peek
from meshkit.testing import LocalMesh
from meshkit.transport.reflecting import reflect
from reference_services.shield.config import ShieldConfig
from reference_services.shield.service import Shield
from tests.security.handmade import Handmade, call
from tests.security.services import BODY, CONTRACT, GREET, GREET_MANY, Echo, Front
from tests.shield.bound import Bound, public
from tests.shield.conftest import SECRET, SETTINGS, Place, Served, served


def greeting(name: str = "x") -> pb.GreetRequest:
    return pb.GreetRequest(name=name)


def client(mode: Served, service: str = "echo", **options: Any) -> GreeterClient:
    return mode.mesh.client(GreeterClient, service=service, **options)


def address(mode: Served, service: str = "echo") -> str:
    instance = mode.replica(service).instance
    assert instance is not None
    return instance.address


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> float:
    """Waits until it holds; how long that took."""
    begun = time.monotonic()
    async with asyncio.timeout(seconds):
        while not await holds():
            await asyncio.sleep(0.01)
    return time.monotonic() - begun


def record(place: Place) -> Counter[str]:
    """Counts the calls that reach Shield."""
    calls: Counter[str] = Counter()
    for name in ("issue", "exchange", "revoked_after"):
        inner = getattr(place.authority, name)

        def counted(*args: Any, _name: str = name, _inner: Any = inner, **options: Any) -> Any:
            calls[_name] += 1
            return _inner(*args, **options)

        setattr(place.authority, name, counted)
    return calls


async def test_calls_carry_tokens_of_shield_without_any_code(mode: Served) -> None:
    facts = json.loads((await client(mode).greet(greeting())).text)
    assert facts["principal"] == ["local", "client", ["*"], ["acme"]]
    assert facts["subject"] == facts["principal"]


async def test_a_narrowed_client_gets_a_narrowed_token(mode: Served) -> None:
    narrowed = client(mode, permissions=["echo:greet"])
    facts = json.loads((await narrowed.greet(greeting())).text)
    assert facts["principal"][2] == ["echo:greet"]
    with pytest.raises(MeshError) as caught:
        await client(mode, permissions=["echo:other"]).greet(greeting())
    assert caught.value.reason == "PERMISSION_MISSING"


async def test_a_call_that_has_its_token_does_not_reach_shield(shield: Place) -> None:
    async with served(shield.address) as mode:
        await client(mode).greet(greeting())
        await client(mode, "front").greet(greeting())
        calls = record(shield)
        ring = mode.replica("echo").mesh.shielded
        assert ring is not None
        before = ring.ring.fetches
        for _ in range(50):
            await client(mode).greet(greeting())
            await client(mode, "front").greet(greeting())
        assert calls["issue"] == calls["exchange"] == 0
        assert ring.ring.fetches == before


async def test_a_hundred_first_calls_ask_once(shield: Place) -> None:
    async with served(shield.address) as mode:
        calls = record(shield)
        await asyncio.gather(*(client(mode).greet(greeting()) for _ in range(100)))
        assert calls["issue"] == 1


async def test_a_projects_own_token_is_refused_everywhere_but_at_shield(mode: Served, shield: Place) -> None:
    by_hand = Handmade("echo", SECRET)
    outcome = await call(address(mode), GREET, BODY, by_hand.headers(GREET, BODY))
    assert (outcome.code, outcome.reason) == ("UNAUTHENTICATED", "TOKEN_AUTHORITY")
    assert await shield.client.get_keys(shield_pb.GetKeysRequest())


async def test_a_token_of_shield_is_refused_where_there_is_no_shield(mode: Served, shield: Place) -> None:
    async with LocalMesh(Echo, settings=SETTINGS) as mesh:
        (instance,) = await mesh.instances("echo")
        token, holder = await issued(shield, "echo")
        headers = Bound("echo", holder=holder).headers(GREET, BODY, token=token)
        outcome = await call(instance.address, GREET, BODY, headers)
        assert outcome.reason == "KEY_UNKNOWN"


async def issued(place: Place, audience: str, **options: Any) -> tuple[str, Ed25519PrivateKey]:
    """A token of the operator's, and the key that it is bound to."""
    holder = Ed25519PrivateKey.generate()
    scope = shield_pb.Scope(audience=audience, tenants=["acme"], permissions=["*"])
    request = shield_pb.IssueTokenRequest(scope=scope, public_key=public(holder), **options)
    return (await place.client.issue_token(request)).issued.token, holder


def headers(token: str, holder: Ed25519PrivateKey, **options: Any) -> Any:
    kid = peek(token)[0]["kid"].removeprefix("shield:")
    return Bound("echo", holder=holder, kid=kid).headers(GREET, BODY, token=token, **options)


async def test_a_stolen_token_is_of_no_use_without_its_key(mode: Served, shield: Place) -> None:
    token, holder = await issued(shield, "echo")
    target = address(mode)
    assert (await call(target, GREET, BODY, headers(token, holder))).code == "OK"
    thief = Ed25519PrivateKey.generate()
    assert (await call(target, GREET, BODY, headers(token, thief))).reason == "PROOF_MISMATCH"
    without = headers(token, holder, sent={"x-cu-proof": "ts=1;nonce=" + "A" * 22 + ";sig=" + "A" * 86})
    assert (await call(target, GREET, BODY, without)).reason == "CLOCK_SKEW"
    stripped = [(key, value) for key, value in headers(token, holder) if key != "x-cu-proof"]
    assert (await call(target, GREET, BODY, stripped)).reason == "PROOF_MISSING"


async def test_a_proof_of_shields_kind_is_good_once_and_for_its_message_only(
    mode: Served, shield: Place
) -> None:
    token, holder = await issued(shield, "echo")
    target, signed = address(mode), headers(token, holder)
    other = pb.GreetRequest(name="Eve").SerializeToString()
    assert (await call(target, GREET, other, signed)).reason == "PROOF_MISMATCH"
    assert (await call(target, GREET, BODY, signed)).code == "OK"
    assert (await call(target, GREET, BODY, signed)).reason == "PROOF_REPLAYED"


async def test_a_token_for_another_audience_is_refused(mode: Served, shield: Place) -> None:
    token, holder = await issued(shield, "front")
    assert (await call(address(mode), GREET, BODY, headers(token, holder))).reason == "TOKEN_AUDIENCE"


async def test_a_key_that_shield_never_had_is_refused(mode: Served) -> None:
    await client(mode).greet(greeting())
    stranger = Bound("echo", kid="deadbeef")

    async def unknown() -> bool:
        outcome = await call(address(mode), GREET, BODY, stranger.headers(GREET, BODY))
        assert outcome.reason in ("KEYS_NOT_READ", "KEY_UNKNOWN")  # Shield may have been asked a moment ago
        return (outcome.code, outcome.reason) == ("UNAUTHENTICATED", "KEY_UNKNOWN")

    await until(unknown)


async def test_a_flood_of_unknown_keys_hardly_reaches_shield(mode: Served) -> None:
    await client(mode).greet(greeting())
    shielded = mode.replica("echo").mesh.shielded
    assert shielded is not None
    before, begun = shielded.ring.fetches, time.monotonic()
    flood = [Bound("echo", kid=f"unknown-{number}") for number in range(300)]
    outcomes = await asyncio.gather(
        *(call(address(mode), GREET, BODY, each.headers(GREET, BODY)) for each in flood)
    )
    assert {outcome.reason for outcome in outcomes} <= {"KEY_UNKNOWN", "KEYS_NOT_READ"}
    assert shielded.ring.fetches - before <= time.monotonic() - begun + 1
    await client(mode).greet(greeting())


class Chain(Front, contract=CONTRACT, name="chain", port=50994):
    """Calls the next of a row of services for its caller: `b,c,echo` goes to b with `c,echo`."""

    @rpc(permission="chain:greet")
    async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse:
        service, _, rest = request.name.partition(",")
        return await self.mesh.client(GreeterClient, service=service).greet(greeting(rest))


async def test_on_behalf_of_a_caller_goes_further_than_one_hop_and_only_so_far(shield: Place) -> None:
    async with served(shield.address, Chain, Echo) as mode:
        reached = client(mode, "chain", permissions=["chain:greet", "echo:greet"])
        for hops in range(1, 5):
            path = ",".join([*["chain"] * (hops - 1), "echo"])
            facts = json.loads((await reached.greet(greeting(path))).text)
            assert facts["principal"][1] == "chain"
            assert facts["subject"][1] == "client"
            assert facts["subject"][2] == ["chain:greet", "echo:greet"]
        with pytest.raises(MeshError) as caught:
            await reached.greet(greeting("chain,chain,chain,chain,echo"))
        assert caught.value.reason == "DELEGATION_DEPTH"


async def test_what_the_caller_may_not_do_nobody_does_for_it(mode: Served) -> None:
    with pytest.raises(MeshError) as caught:
        await client(mode, "front", permissions=["front:greet"]).greet(greeting())
    assert caught.value.reason == "PERMISSION_MISSING"
    with pytest.raises(MeshError) as caught:
        await client(mode, "front").greet(greeting("tenant,beta"))
    assert caught.value.reason == "GRANT_EXCEEDED"


async def test_as_self_a_service_calls_for_itself(mode: Served) -> None:
    facts = json.loads((await client(mode, "front").greet(greeting("self,x"))).text)
    assert facts["principal"] == facts["subject"] == ["local", "front", ["*"], ["acme"]]


async def test_a_caller_is_not_told_where_the_shield_of_a_service_is(
    mode: Served, shield: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_scope: object) -> None:
        raise Unavailable("nobody answers")

    shielded = mode.replica("front").mesh.shielded
    assert shielded is not None
    monkeypatch.setattr(shielded.tokens, "_issued", fail)
    with pytest.raises(Unavailable) as caught:
        await client(mode, "front").greet(greeting())
    assert caught.value.reason == "SHIELD_UNREACHABLE"
    assert shield.address not in str(caught.value)


async def test_keys_rotate_at_load_without_a_failure(shield: Place) -> None:
    settings = {"token_ttl_s": 4}
    async with served(shield.address, **settings) as mode:
        done, failed, running = 0, [], True

        async def load() -> None:
            nonlocal done
            while running:
                try:
                    await client(mode, "front").greet(greeting())
                    done += 1
                except MeshError as error:
                    failed.append(str(error))
                await asyncio.sleep(0.02)

        tasks = [asyncio.create_task(load()) for _ in range(4)]
        kids = set()
        for _ in range(3):
            await shield.client.rotate_keys(shield_pb.RotateKeysRequest())
            kids.add(shield.authority.keys.signing()[0])
            await until(lambda: _signed_by(mode, shield.authority.keys.signing()[0]))

        async def many_are_done() -> bool:
            return done > 50

        await until(many_are_done)
        running = False
        await asyncio.gather(*tasks)
        assert failed == []
        assert len(kids) == 3


async def _signed_by(mode: Served, kid: str) -> bool:
    """Whether a caller's token is of that key by now: it was renewed meanwhile."""
    tokens: Any = mode.mesh.tokens
    held = [slot.minted.kid for slot in tokens._slots.values() if slot.minted is not None]
    return f"shield:{kid}" in held


async def test_a_key_that_leaked_is_out_at_once_and_no_honest_call_fails(shield: Place) -> None:
    async with served(shield.address) as mode:
        token, holder = await issued(shield, "echo")
        target = address(mode)
        assert (await call(target, GREET, BODY, headers(token, holder))).code == "OK"
        await asyncio.gather(*(client(mode, name).greet(greeting()) for name in ("echo", "front")))
        await shield.client.rotate_keys(shield_pb.RotateKeysRequest(retire_others=True))

        async def stolen_is_refused() -> bool:
            outcome = await call(target, GREET, BODY, headers(token, holder))
            return outcome.reason == "KEY_RETIRED"

        await until(stolen_is_refused)
        for _ in range(3):
            await client(mode).greet(greeting())


async def test_a_revocation_is_pushed_to_every_verifier_within_a_second(mode: Served, shield: Place) -> None:
    verifiers = [mode.replica(name)._guard.verifier.revocations for name in ("echo", "front")]
    took = []
    for number in range(5):

        async def known(token_id: str = f"t{number}") -> bool:
            return all(token_id in revocations._tokens for revocations in verifiers)

        await shield.client.revoke(shield_pb.RevokeRequest(token_id=f"t{number}"))
        took.append(await until(known))
    assert (
        min(took) < 1
    )  # one may be held up by a busy machine; were they not pushed, all of them would take longer


async def test_a_revoked_token_is_refused(mode: Served, shield: Place) -> None:
    token, holder = await issued(shield, "echo")
    target, token_id = address(mode), peek(token)[1]["jti"]
    assert (await call(target, GREET, BODY, headers(token, holder))).code == "OK"
    verifiers = [mode.replica(name)._guard.verifier.revocations for name in ("echo", "front")]
    await shield.client.revoke(shield_pb.RevokeRequest(token_id=token_id))

    async def known() -> bool:
        return all(token_id in revocations._tokens for revocations in verifiers)

    await until(known)
    assert (await call(target, GREET, BODY, headers(token, holder))).reason == "TOKEN_REVOKED"


async def test_callers_of_a_revoked_project_go_on_with_new_tokens(mode: Served, shield: Place) -> None:
    await client(mode, "front").greet(greeting())
    token, holder = await issued(shield, "echo")
    await shield.client.revoke(shield_pb.RevokeRequest(project_id="local"))
    target = address(mode)

    async def refused() -> bool:
        return (await call(target, GREET, BODY, headers(token, holder))).reason == "TOKEN_REVOKED"

    await until(refused)
    for _ in range(3):
        await client(mode).greet(greeting())
        await client(mode, "front").greet(greeting())


class Endless(Echo, contract=CONTRACT, name="endless", port=50995):
    """A stream that says nothing more."""

    begun = 0

    @rpc(permission="endless:greet")
    async def greet_many(
        self, request: pb.GreetManyRequest, call: Call
    ) -> AsyncIterator[pb.GreetManyResponse]:
        self.begun += 1
        yield pb.GreetManyResponse(text="now")
        await asyncio.Event().wait()


async def test_a_stream_ends_at_once_when_its_token_is_revoked(shield: Place) -> None:
    async with (
        served(shield.address, Endless) as mode,
        client(mode, "endless").greet_many(pb.GreetManyRequest(), timeout=10) as stream,
    ):
        await anext(aiter(stream))
        await shield.client.revoke(shield_pb.RevokeRequest(project_id="local"))
        with pytest.raises(Unauthenticated) as caught:
            await anext(aiter(stream))
        assert caught.value.reason == "TOKEN_REVOKED"


async def test_a_stream_ends_with_the_token_of_any_service_on_the_way_to_it(shield: Place) -> None:
    kid, key = shield.authority.keys.signing()
    holder, now = Ed25519PrivateKey.generate(), time.time()
    ada = Principal(
        "local", "ada", tenants=frozenset({"acme"}), token_id="t3", issued_at=now, expires_at=now + 60
    )
    token = bound_token(
        ada,
        audience="endless",
        public_key=public(holder),
        actors=[Actor("local", "second", "t2"), Actor("local", "first", "t1")],
        kid=kid,
        key=key,
    )
    async with served(shield.address, Endless) as mode:
        target, service = address(mode, "endless"), mode.replica("endless").service
        assert isinstance(service, Endless)
        signed = Bound("endless", holder=holder, kid=kid).headers(GREET_MANY, b"", token=token)
        stream = asyncio.create_task(call(target, GREET_MANY, b"", signed, streams=(False, True)))

        async def begun() -> bool:
            return service.begun > 0 or stream.done()

        await until(begun)
        await shield.client.revoke(shield_pb.RevokeRequest(token_id="t2"))
        assert (await stream).reason == "TOKEN_REVOKED"


async def test_the_mesh_around_shield_is_not_the_callers(mode: Served) -> None:
    """A token for Shield itself is the project's own: Shield's tokens are for others."""
    tokens: Any = mode.mesh.tokens
    assert tokens.kept(BLANK.having(service="shield", tenant=""), ("*",)).alg == "HS256"


async def test_a_keys_file_that_would_have_no_effect_is_refused_and_told_of_by_shield_itself(
    tmp_path: Path,
) -> None:
    keys = tmp_path / "keys.toml"
    keys.touch(0o600)
    with pytest.raises(ConfigError, match="CU_SHIELD_GRPC_URL has only Shield's taken"):
        SharedConfig(shield_grpc_url="127.0.0.1:1", project_keys_file=keys, **SETTINGS)
    with capture_logs() as logs:
        config = ShieldConfig(project_keys_file=keys, state_dir=tmp_path, **SETTINGS)
        Replica(Shield, config, MemoryRegistry())
    told = [log for log in logs if log.get("setting") == "CU_PROJECT_KEYS_FILE"]
    assert [(log["log_level"], log["service"]) for log in told] == [("warning", "shield")]
    assert "who may call is its own to say" in told[0]["event"]


async def test_the_project_store_is_not_followed_where_it_counts_for_nothing(tmp_path: Path) -> None:
    sealing = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    config = SharedConfig(redis_url="redis://127.0.0.1:1", redis_secret_key=sealing, **SETTINGS)
    assert shared_of(config).projects is not None
    beside = config.model_copy(update={"shield_grpc_url": "127.0.0.1:1"})
    for kind, settings in ((Echo, beside), (Shield, ShieldConfig(**config.model_dump(exclude_unset=True)))):
        replica = Replica(kind, settings, MemoryRegistry())
        assert replica._shared.projects is None
        assert replica._shared.feed is not None
        await replica.kill()


async def test_who_may_inspect_learns_a_contract_with_a_token_of_shield(
    shield: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflection, "OpenReflection", reflection.Reflection)
    async with served(shield.address, Echo) as mode:
        channel = mode.mesh.channel("echo", permissions=("mesh:inspect",))
        assert CONTRACT.full_name in (await reflect(channel, "echo", timeout=10)).services
        with pytest.raises(Unauthenticated) as caught:
            async with grpc.aio.insecure_channel(address(mode)) as plain:
                await reflect(plain, "echo", timeout=10)
        assert caught.value.reason == "TOKEN_MISSING"
