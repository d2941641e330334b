"""An existing grpc.aio server and channel, with the mesh's checks around them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc

from meshkit import SharedConfig
from meshkit.interceptors import Demand, MeshInterceptor, current_call, sign

SECRET = "s" * 40
PREFIX = "/greeter.v1.GreeterService/"
DEMANDS = {f"{PREFIX}{name}": Demand("greeter:greet") for name in ("Greet", "GreetMany", "GreetAll", "Chat")}


class Servicer(greeter_pb2_grpc.GreeterServiceServicer):
    """A servicer as anybody writes one: it knows nothing of the mesh."""

    async def Greet(self, request: pb.GreetRequest, context: Any) -> pb.GreetResponse:
        if request.name == "nobody":
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is nobody", (("x-why", "absent"),))
        if request.name == "crash":
            raise ValueError("canary: the database password is hunter2")
        call = current_call()
        who = f"{call.principal.name}@{call.tenant}" if call and call.principal else "anybody"
        context.set_trailing_metadata((("x-own", "kept"),))
        await context.send_initial_metadata((("x-ahead", "of one"),))
        return pb.GreetResponse(text=f"Hello {request.name} from {who}")

    async def GreetMany(
        self, request: pb.GreetManyRequest, context: Any
    ) -> AsyncIterator[pb.GreetManyResponse]:
        await context.send_initial_metadata((("x-ahead", "of many"),))
        for _ in range(request.times):
            yield pb.GreetManyResponse(text=request.name)

    async def GreetAll(
        self, requests: AsyncIterator[pb.GreetAllRequest], context: Any
    ) -> pb.GreetAllResponse:
        names = [request.name async for request in requests]
        if "loud" in names:
            await context.send_initial_metadata((("x-ahead", "of all"),))
        return pb.GreetAllResponse(text=" ".join(names))

    async def Chat(self, requests: Any, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(pb.ChatResponse(text=request.name.upper()))


def config(path: Path, **values: Any) -> SharedConfig:
    return SharedConfig(**{"project_secret": SECRET, "state_dir": path, "tenant": "acme", **values})


@asynccontextmanager
async def adopted(path: Path, demands: dict[str, Demand] = DEMANDS) -> AsyncIterator[grpc.aio.Channel]:
    """A server with the interceptor, and a plain channel to it."""
    guard = MeshInterceptor("greeter", demands=demands, config=config(path))
    server = grpc.aio.server(interceptors=[guard])
    greeter_pb2_grpc.add_GreeterServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)


async def requests(*names: str) -> AsyncIterator[pb.ChatRequest]:
    for name in names:
        yield pb.ChatRequest(name=name)


async def all_of(*names: str) -> AsyncIterator[pb.GreetAllRequest]:
    for name in names:
        yield pb.GreetAllRequest(name=name)


async def test_all_four_arities_go_through_a_signed_channel(tmp_path: Path) -> None:
    async with adopted(tmp_path) as channel:
        signed = sign(channel, "greeter", config=config(tmp_path), name="ada")
        assert isinstance(signed, grpc.aio.Channel)
        stub = greeter_pb2_grpc.GreeterServiceStub(signed)
        call = stub.Greet(pb.GreetRequest(name="Bo"))
        assert (await call).text == "Hello Bo from ada@acme"
        trailers = dict(await call.trailing_metadata())
        assert trailers["x-own"] == "kept"
        assert trailers["x-cu-instance"].startswith("greeter-")
        assert [each.text async for each in stub.GreetMany(pb.GreetManyRequest(name="x", times=3))] == [
            "x"
        ] * 3
        assert (await stub.GreetAll(all_of("a", "b"))).text == "a b"
        assert [each.text async for each in stub.Chat(requests("a", "b"))] == ["A", "B"]


async def test_what_a_server_sends_ahead_of_its_replies_reaches_the_caller(tmp_path: Path) -> None:
    async with adopted(tmp_path) as channel:
        stub = greeter_pb2_grpc.GreeterServiceStub(sign(channel, "greeter", config=config(tmp_path)))
        one, many = stub.Greet(pb.GreetRequest(name="Bo")), stub.GreetMany(pb.GreetManyRequest(times=2))
        assert dict(await one.initial_metadata())["x-ahead"] == "of one"
        assert (await one).text.startswith("Hello Bo")
        assert dict(await many.initial_metadata())["x-ahead"] == "of many"
        assert len([each async for each in many]) == 2
        loud = stub.GreetAll(all_of("a", "loud"))
        assert (await loud).text == "a loud"
        assert dict(await loud.initial_metadata())["x-ahead"] == "of all"
        for silent in (
            stub.GreetAll(all_of("a")),
            stub.Chat(requests("a")),
            stub.Greet(pb.GreetRequest(name="nobody")),
        ):
            assert "x-ahead" not in dict(await silent.initial_metadata())
            silent.cancel()


async def test_a_call_that_could_not_be_made_has_no_initial_metadata(tmp_path: Path) -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        stub = greeter_pb2_grpc.GreeterServiceStub(sign(channel, "greeter", config=config(tmp_path)))
        call = stub.Greet(pb.GreetRequest(name="Bo"), timeout=5)
        assert dict(await call.initial_metadata()) == {}
        assert await call.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"project_secret": "t" * 40}, "KEY_UNKNOWN"),
        ({"tenant": ""}, "TENANT_MISSING"),
    ],
)
async def test_callers_that_do_not_prove_who_they_are_are_refused(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    async with adopted(tmp_path) as channel:
        stub = greeter_pb2_grpc.GreeterServiceStub(
            sign(channel, "greeter", config=config(tmp_path, **settings))
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Greet(pb.GreetRequest(name="Bo"))
        assert reason.encode() in dict(refused.value.trailing_metadata() or ())["grpc-status-details-bin"]


async def test_a_caller_without_a_token_is_refused(tmp_path: Path) -> None:
    async with adopted(tmp_path) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await greeter_pb2_grpc.GreeterServiceStub(channel).Greet(pb.GreetRequest(name="Bo"))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_method_of_which_nothing_is_said_is_refused(tmp_path: Path) -> None:
    async with adopted(tmp_path, demands={}) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await greeter_pb2_grpc.GreeterServiceStub(channel).Greet(pb.GreetRequest(name="Bo"))
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "nothing says who may call /greeter.v1.GreeterService/Greet" in (refused.value.details() or "")
        assert (
            b"METHOD_UNDECLARED" in dict(refused.value.trailing_metadata() or ())["grpc-status-details-bin"]
        )


@pytest.mark.parametrize(
    ("path", "demand", "says"),
    [
        (
            "greeter.v1.GreeterService/Greet",
            Demand("greeter:greet"),
            "is no path of a method, such as /greeter.v1",
        ),
        (f"{PREFIX}Greet", "greeter:greet", r'write Demand\("service:verb"\)'),
        (f"{PREFIX}Greet", Demand("greet"), "'greet' is not `service:verb`"),
        (f"{PREFIX}Greet", Demand("public"), "nor empty for public"),
    ],
)
def test_demands_that_make_no_sense_are_told_before_it_serves(
    tmp_path: Path, path: str, demand: Any, says: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        MeshInterceptor("greeter", demands={path: demand}, config=config(tmp_path))


async def test_a_servicer_that_would_block_is_refused_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Servicer, "Greet", lambda self, request, context: pb.GreetResponse())
    async with adopted(tmp_path) as channel:
        stub = greeter_pb2_grpc.GreeterServiceStub(sign(channel, "greeter", config=config(tmp_path)))
        with pytest.raises(grpc.aio.AioRpcError, match="Greet is not `async def`") as refused:
            await stub.Greet(pb.GreetRequest(name="Bo"))
        assert (
            b"HANDLER_NOT_ASYNC" in dict(refused.value.trailing_metadata() or ())["grpc-status-details-bin"]
        )


async def test_a_servicer_may_abort_and_its_exceptions_stay_inside(tmp_path: Path) -> None:
    async with adopted(tmp_path) as channel:
        stub = greeter_pb2_grpc.GreeterServiceStub(sign(channel, "greeter", config=config(tmp_path)))
        with pytest.raises(grpc.aio.AioRpcError) as aborted:
            await stub.Greet(pb.GreetRequest(name="nobody"))
        assert (aborted.value.code(), aborted.value.details()) == (
            grpc.StatusCode.NOT_FOUND,
            "there is nobody",
        )
        assert dict(aborted.value.trailing_metadata() or ())["x-why"] == "absent"
        with pytest.raises(grpc.aio.AioRpcError) as crashed:
            await stub.Greet(pb.GreetRequest(name="crash"))
        assert crashed.value.code() is grpc.StatusCode.INTERNAL
        assert "canary" not in str(crashed.value)


async def test_an_unknown_method_is_unimplemented(tmp_path: Path) -> None:
    async with adopted(tmp_path) as channel:
        signed = sign(channel, "greeter", config=config(tmp_path))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await signed.unary_unary(f"{PREFIX}Nothing")(b"")
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
