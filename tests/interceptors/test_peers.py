"""A server of one's own with mutual TLS lets in the peers that its demands name."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc

from meshkit.interceptors import Demand, MeshInterceptor, sign
from tests.certificates import Signer
from tests.interceptors.test_adoption import Servicer, config

GREET = "/greeter.v1.GreeterService/Greet"


@pytest.mark.parametrize(("peer", "allowed"), [("router", True), ("zero", False)])
async def test_peers_of_a_demand_are_let_in_by_name(tmp_path: Path, peer: str, allowed: bool) -> None:
    authority = Signer()
    own, theirs = authority.service("greeter"), authority.service(peer)
    demands = {GREET: Demand("greeter:greet", peers=frozenset({"router"}))}
    server = grpc.aio.server(
        interceptors=[MeshInterceptor("greeter", demands=demands, config=config(tmp_path))]
    )
    greeter_pb2_grpc.add_GreeterServiceServicer_to_server(Servicer(), server)
    credentials = grpc.ssl_server_credentials([(own.key, own.certificate)], authority.pem, True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    shown = grpc.ssl_channel_credentials(authority.pem, theirs.key, theirs.certificate)
    options = [("grpc.ssl_target_name_override", "greeter.contextunity")]
    try:
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", shown, options=options) as channel:
            stub = greeter_pb2_grpc.GreeterServiceStub(sign(channel, "greeter", config=config(tmp_path)))
            if allowed:
                assert (await stub.Greet(pb.GreetRequest(name="Bo"), timeout=20)).text.startswith("Hello Bo")
                return
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Greet(pb.GreetRequest(name="Bo"), timeout=20)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert (
                b"PEER_MISMATCH" in dict(refused.value.trailing_metadata() or ())["grpc-status-details-bin"]
            )
    finally:
        await server.stop(0)
