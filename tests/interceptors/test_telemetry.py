"""What servers and channels that are not the mesh's tell of their calls: spans, figures, lines in the log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc

from meshkit.interceptors import MeshInterceptor, sign
from tests.interceptors.test_adoption import DEMANDS, PREFIX, Servicer, config, requests
from tests.telemetry.collector import CLIENT, ERROR, SERVER, UNSET, Collector
from tests.telemetry.test_page import free_port, get


class Ending(Servicer):
    """Ends calls in the ways that gRPC has for that."""

    async def Greet(self, request: pb.GreetRequest, context: Any) -> pb.GreetResponse:
        if request.name == "coded":
            context.set_trailing_metadata((("x-own", "kept"),))
            context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
            context.set_details("not now")
        return await super().Greet(request, context)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


@asynccontextmanager
async def adopted(path: Path, **settings: Any) -> AsyncIterator[tuple[MeshInterceptor, Any]]:
    """A server with the interceptor, and a stub over a signed channel that has its telemetry."""
    guard = MeshInterceptor("greeter", demands=DEMANDS, config=config(path, **settings))
    server = grpc.aio.server(interceptors=[guard])
    greeter_pb2_grpc.add_GreeterServiceServicer_to_server(Ending(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            own = config(path, **{**settings, "metrics_port": 0})
            signed = sign(channel, "greeter", config=own, name="ada")
            yield guard, greeter_pb2_grpc.GreeterServiceStub(signed)
            await signed.close()
    finally:
        await server.stop(0)
        await guard.close()


async def ended_in_three_ways(stub: Any) -> list[grpc.StatusCode]:
    """The statuses of a call that succeeds, one that its servicer aborts, and one whose code it sets."""
    codes = []
    for name in ("Bo", "nobody", "coded"):
        call = stub.Greet(pb.GreetRequest(name=name))
        codes.append(await call.code())
        if name == "coded":
            assert await call.details() == "not now"
            assert dict(await call.trailing_metadata())["x-own"] == "kept"
    return codes


STATUSES = ["OK", "NOT_FOUND", "FAILED_PRECONDITION"]


async def test_both_sides_of_a_call_have_a_span_with_the_status_that_is_seen(
    tmp_path: Path, collector: Collector
) -> None:
    otel = {"otel_enabled": True, "otel_exporter_otlp_endpoint": collector.url}
    async with adopted(tmp_path, **otel) as (_, stub):
        assert [code.name for code in await ended_in_three_ways(stub)] == STATUSES
        assert [each.text async for each in stub.Chat(requests("a"))] == ["A"]
    for kind, service in ((CLIENT, "ada"), (SERVER, "greeter")):
        spans = [span for span in collector.spans if span.kind == kind]
        assert {span.service for span in spans} == {service}
        greets = [span for span in spans if span.name == f"{PREFIX[1:]}Greet"]
        assert [span.facts["rpc.response.status_code"] for span in greets] == STATUSES
        expected = [UNSET, *([ERROR, ERROR] if kind == CLIENT else [UNSET, UNSET])]
        assert [span.status for span in greets] == expected
    caller, served = (collector.one(*side, "Chat") for side in (("ada", CLIENT), ("greeter", SERVER)))
    assert (served.trace_id, served.parent_id) == (caller.trace_id, caller.span_id)
    assert (served.facts["meshkit.caller"], served.facts["meshkit.tenant"]) == ("local/ada", "acme")
    assert caller.facts["server.address"] == "greeter"
    assert "meshkit.instance" not in caller.facts, "which one answers is not known"


async def test_figures_go_by_otlp(tmp_path: Path, collector: Collector) -> None:
    otel = {"otel_enabled": True, "otel_exporter_otlp_endpoint": collector.url}
    async with adopted(tmp_path, **otel) as (_, stub):
        await ended_in_three_ways(stub)
    for side in (("greeter", "rpc.server.call.duration"), ("ada", "rpc.client.call.duration")):
        points = collector.metrics[side].histogram.data_points
        codes = [
            each.value.string_value
            for point in points
            for each in point.attributes
            if each.key == "rpc.response.status_code"
        ]
        assert sorted(codes) == sorted(STATUSES)


async def test_a_channel_may_have_the_telemetry_of_the_server_beside_it(
    tmp_path: Path, collector: Collector
) -> None:
    otel = {"otel_enabled": True, "otel_exporter_otlp_endpoint": collector.url}
    async with adopted(tmp_path, **otel) as (guard, stub):
        async with grpc.aio.insecure_channel("127.0.0.1:1") as nowhere:
            beside = sign(nowhere, "brain", config=config(tmp_path, **otel), telemetry=guard.telemetry)
            with suppress(grpc.aio.AioRpcError):
                await greeter_pb2_grpc.GreeterServiceStub(beside).Greet(pb.GreetRequest(), timeout=5)
            await beside.close()
        await stub.Greet(pb.GreetRequest(name="Bo"))
    assert collector.one("greeter", CLIENT).facts["rpc.response.status_code"] == "UNAVAILABLE"
    assert collector.one("greeter", SERVER).status == UNSET, "the channel's end was not that of the server"


async def test_the_page_and_the_log_are_as_those_of_services(tmp_path: Path) -> None:
    port = free_port()
    with structlog.testing.capture_logs() as lines:
        async with adopted(tmp_path, metrics_port=port, log_access_rate=10.0) as (_, stub):
            await ended_in_three_ways(stub)
            _, page = await get(port)
    for code in STATUSES:
        assert f'rpc_method="{PREFIX[1:]}Greet",rpc_response_status_code="{code}"}} 1\n' in page
    assert [line["code"] for line in lines if line["event"] == "served"] == STATUSES
    with pytest.raises(OSError):
        await get(port)
