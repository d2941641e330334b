"""What becomes of calls whose token is revoked: refused, made anew by whoever can, streams ended at once."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient

from meshkit import Call, CUService, Unauthenticated, rpc
from meshkit.call import serving
from meshkit.security.revocations import Revocations
from meshkit.security.tokens import peek
from meshkit.testing import LocalMesh
from tests.security.handmade import SETTINGS, Handmade, call
from tests.security.services import BODY, CONTRACT, GREET, Echo

M = TypeVar("M")


class Steady(CUService, contract=CONTRACT, name="echo", port=50993):
    """Streams that do not end by themselves."""

    open = 0

    @rpc(permission="echo:greet")
    async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse:
        return pb.GreetResponse()

    @rpc(permission="echo:greet")
    async def greet_many(
        self, request: pb.GreetManyRequest, call: Call
    ) -> AsyncIterator[pb.GreetManyResponse]:
        type(self).open += 1
        try:
            yield pb.GreetManyResponse()
            await asyncio.Event().wait()
        finally:
            type(self).open -= 1

    @rpc(permission="echo:greet")
    async def greet_all(self, requests: AsyncIterator[pb.GreetAllRequest], call: Call) -> pb.GreetAllResponse:
        async for _ in requests:
            pass
        return pb.GreetAllResponse()

    @rpc(permission="echo:greet", tenant="none")
    async def chat(
        self, requests: AsyncIterator[pb.ChatRequest], call: Call
    ) -> AsyncIterator[pb.ChatResponse]:
        while True:  # it does not care for its cancellation
            yield pb.ChatResponse()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue


def revocations(local: LocalMesh) -> Revocations:
    (instance,) = local.instances
    return local._running[instance]._guard.verifier.revocations


async def test_a_revoked_token_is_refused_though_it_was_let_in_before() -> None:
    me = Handmade("echo")
    token, other = me.token(jti="mine"), me.token()
    local = LocalMesh(Echo, settings=SETTINGS)
    async with local:
        found = local.service(local.instances[0]).instance
        assert found is not None

        async def send(by: str) -> tuple[str, bool]:
            outcome = await call(found.address, GREET, BODY, me.headers(GREET, BODY, token=by))
            return outcome.reason, outcome.unprocessed

        assert await send(token) == ("", False)
        revocations(local).revoke_token("mine", time.time() + 300)
        assert await send(token) == ("TOKEN_REVOKED", True)
        assert await send(other) == ("", False)
        revocations(local).revoke_before("local", time.time() + 2)
        assert await send(other) == ("TOKEN_REVOKED", True)
        assert await send(token) == ("TOKEN_REVOKED", True)


async def test_who_holds_the_secret_makes_another_token_and_no_call_fails() -> None:
    local = LocalMesh(Echo)
    async with local as mesh:
        client = mesh.client(GreeterClient, service="echo")
        await client.greet(pb.GreetRequest())
        (minted,) = mesh.tokens._kept.values()
        revocations(local).revoke_before("local", int(time.time()) + 1)
        await client.greet(pb.GreetRequest())
        (newer,) = mesh.tokens._kept.values()
        assert peek(newer.text)[1]["iat"] > peek(minted.text)[1]["iat"]
        revocations(local).revoke_token(peek(newer.text)[1]["jti"], time.time() + 300)
        await client.greet(pb.GreetRequest())


def by_token(revoked: Revocations, jti: str) -> None:
    revoked.revoke_token(jti, time.time() + 300)


def by_project(revoked: Revocations, _jti: str) -> None:
    revoked.revoke_before("local", time.time() + 1)


@pytest.mark.parametrize("revoke", [by_token, by_project])
async def test_open_streams_end_at_once(revoke: Callable[[Revocations, str], None]) -> None:
    local = LocalMesh(Steady)
    async with local as mesh:
        client = mesh.client(GreeterClient, service="echo")
        many = client.greet_many(pb.GreetManyRequest())
        await anext(many)
        (minted,) = mesh.tokens._kept.values()
        all_ = asyncio.ensure_future(client.greet_all(endless(pb.GreetAllRequest())))
        revoked = revocations(local)
        while len(revoked._watched_projects.get("local", ())) < 2:
            await asyncio.sleep(0.001)
        assert Steady.open == 1
        revoke(revoked, str(peek(minted.text)[1]["jti"]))
        for stream in (anext(many), all_):
            with pytest.raises(Unauthenticated) as error:
                await asyncio.wait_for(stream, 5)
            assert error.value.reason == "TOKEN_REVOKED"
            assert not error.value.unprocessed
        assert (Steady.open, revoked._watched_tokens, revoked._watched_projects) == (0, {}, {})


async def test_a_stream_whose_method_ignores_its_end_sends_nothing_more() -> None:
    local = LocalMesh(Steady)
    async with local as mesh:
        chat = mesh.client(GreeterClient, service="echo").chat(endless(pb.ChatRequest()))
        await anext(chat)
        by_project(revocations(local), "")
        with pytest.raises(Unauthenticated) as error:
            await asyncio.wait_for(anext(chat), 5)
        assert error.value.reason == "TOKEN_REVOKED"


async def test_a_stream_ends_when_the_subject_is_revoked_and_not_only_the_actor() -> None:
    local = LocalMesh(Steady)
    async with local as mesh:
        subject = Handmade("client", secret=local._secret, kid=mesh.tokens._identity.kid, name="ada")
        token = subject.token(jti="ada-1", tenants=["local"])
        serving(Call(service="client", tenant="local", subject_token=token, realm=mesh._realm))
        client = mesh.client(GreeterClient, service="echo")
        stream = client.greet_many(pb.GreetManyRequest())
        await anext(stream)
        by_token(revocations(local), "ada-1")
        with pytest.raises(Unauthenticated) as error:
            await asyncio.wait_for(anext(stream), 5)
        assert error.value.reason == "TOKEN_REVOKED"
        with pytest.raises(Unauthenticated) as error:
            await client.greet(pb.GreetRequest())
        assert error.value.reason == "SUBJECT_TOKEN_REVOKED"


async def endless(first: M) -> AsyncIterator[M]:
    yield first
    await asyncio.Event().wait()
