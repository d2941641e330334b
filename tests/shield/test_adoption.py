"""A grpc.aio server and a channel that are not ours, in Shield mode."""

import json
import time

import grpc
import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_pb2_grpc import (
    GreeterServiceServicer,
    GreeterServiceStub,
    add_GreeterServiceServicer_to_server,
)

from meshkit.config import SharedConfig
from meshkit.interceptors import Demand, MeshInterceptor, current_call, sign
from tests.security.handmade import Handmade, call
from tests.security.services import BODY, GREET
from tests.shield.conftest import SECRET, SETTINGS, Place


class Servicer(GreeterServiceServicer):
    async def Greet(self, request: pb.GreetRequest, context: object) -> pb.GreetResponse:
        found = current_call()
        assert found is not None
        assert found.principal is not None
        return pb.GreetResponse(text=json.dumps([found.principal.name, found.tenant]))


async def test_a_server_that_is_not_ours_takes_tokens_of_shield_only(shield: Place) -> None:
    config = SharedConfig(shield_grpc_url=shield.address, tenant="acme", **SETTINGS)
    guard = MeshInterceptor("greeter", demands={GREET: Demand("greeter:greet")}, config=config)
    server = grpc.aio.server(interceptors=[guard])
    add_GreeterServiceServicer_to_server(Servicer(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as plain:
            channel = sign(plain, "greeter", config=config, name="script")
            reply = await GreeterServiceStub(channel).Greet(pb.GreetRequest(), timeout=10)
            assert json.loads(reply.text) == ["script", "acme"]
            await channel.close()
        by_hand = Handmade("greeter", SECRET).headers(GREET, BODY)
        assert (await call(address, GREET, BODY, by_hand)).reason == "TOKEN_AUTHORITY"
    finally:
        await server.stop(0)
        await guard.close()


async def test_what_is_revoked_stays_so_as_long_as_tokens_may_last_by_the_settings() -> None:
    config = SharedConfig(token_max_ttl_s=86400, clock_skew_s=600, **SETTINGS)
    revocations = MeshInterceptor("greeter", demands={}, config=config)._guard.verifier.revocations
    until = time.time() + 86400
    revocations.revoke_token("j1", until)
    assert revocations._tokens == {"j1": until}


@pytest.mark.parametrize("name", ["authority", "protocol"])
def test_the_public_face_of_shield_is_complete(name: str) -> None:
    module = __import__(f"meshkit.{name}", fromlist=["__all__"])
    assert all(hasattr(module, each) for each in module.__all__)
