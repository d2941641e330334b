"""What a caller learns of a failure, and what it does not."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from meshkit import (
    Cancelled,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from meshkit.errors import BY_CODE
from meshkit.testing import LocalMesh
from tests.serving.conftest import Running
from tests.serving.probe import CONTRACT, Probe, ProbeClient, ProbeStub, Text

CANARY = "password=hunter2"


async def fail(request: Any, call: Any) -> Any:
    raise ValueError(CANARY)


async def fail_after_one(request: Any, call: Any) -> AsyncIterator[Text]:
    yield Text(value="one")
    raise ValueError(CANARY)


async def consume(method: str, client: Any) -> Any:
    request: Any = Text(value="x")
    if method in {"collect", "merge", "talk"}:
        request = [request]
    call = getattr(client, method)(request, timeout=5)
    if method in {"list", "follow", "talk"}:
        return [reply async for reply in call]
    return await call


async def test_an_exit_within_a_call_ends_that_call_alone(running: Running) -> None:
    async def leave(request: Any, call: Any) -> Any:
        sys.exit(3)

    running.probe.behave["Read"] = leave
    with capture_logs() as logs, pytest.raises(Internal):
        await running.client.read(Text(value="x"), timeout=5)
    assert any("SystemExit: 3" in line.get("exception", "") for line in logs)
    assert (await running.client.write(Text(value="still here"), timeout=5)).value == "still here"


@pytest.mark.parametrize("method", ["read", "write", "list", "follow", "collect", "merge", "talk"])
async def test_the_text_of_an_exception_stays_in_the_log_under_its_incident(
    running: Running, method: str
) -> None:
    many = method in {"list", "follow", "talk"}
    running.probe.behave[method.capitalize()] = fail_after_one if many else fail
    with capture_logs() as logs, pytest.raises(Internal) as caught:
        await consume(method, running.client)
    error = caught.value
    assert CANARY not in f"{error!r} {error} {error.details} {error.__cause__!r}"
    incident = error.details["incident"]
    assert incident in error.message
    (entry,) = [entry for entry in logs if entry.get("incident") == incident]
    assert CANARY in entry["exception"]
    assert entry["log_level"] == "error"


async def test_plain_stubs_see_no_text_of_exceptions_either_and_get_the_incident_in_a_trailer(
    running: Running,
) -> None:
    running.probe.behave["Read"] = fail
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ProbeStub(running.mesh.channel("probe")).Read(Text())
    assert CANARY not in str(caught.value)
    assert CANARY not in str(caught.value.trailing_metadata())
    assert dict(caught.value.trailing_metadata())["x-cu-incident"] in caught.value.details()


async def test_an_exception_of_a_users_middleware_does_not_leak() -> None:
    def broken(next: Any) -> Any:
        async def handle(exchange: Any) -> None:
            raise RuntimeError(CANARY)

        return handle

    class Broken(Probe, contract=CONTRACT, middleware=(broken,)):
        """Fails outside its methods."""

    async with LocalMesh(Broken) as mesh:
        with pytest.raises(Internal) as caught:
            await mesh.client(ProbeClient).read(Text())
        assert CANARY not in str(caught.value)


@pytest.mark.parametrize("method", ["read", "follow", "collect", "talk"])
async def test_a_cancelled_error_that_nobody_asked_for_ends_the_call_at_once(
    running: Running, method: str
) -> None:
    async def cancelled_one(request: Any, call: Any) -> Text:
        task = asyncio.ensure_future(asyncio.Event().wait())
        task.cancel()
        await task
        raise AssertionError

    async def cancelled_many(request: Any, call: Any) -> AsyncIterator[Text]:
        yield Text(value="one")
        raise asyncio.CancelledError

    many = method in {"follow", "talk"}
    running.probe.behave[method.capitalize()] = cancelled_many if many else cancelled_one
    with pytest.raises(Internal):
        await asyncio.wait_for(consume(method, running.client), 4)


@pytest.mark.parametrize("code", sorted(BY_CODE))
async def test_each_error_a_handler_raises_is_the_one_its_caller_catches(running: Running, code: str) -> None:
    async def raise_it(request: Any, call: Any) -> Text:
        raise BY_CODE[code]("what happened", reason="WHY_IT_DID", key="value")

    running.probe.behave["Write"] = raise_it
    with pytest.raises(BY_CODE[code]) as caught:
        await running.client.write(Text())
    assert type(caught.value) is BY_CODE[code]
    assert (caught.value.message, caught.value.reason) == ("what happened", "WHY_IT_DID")
    assert caught.value.details == {"key": "value"}
    assert caught.value.instance == running.local.instances[0]
    assert not caught.value.unprocessed
    assert running.probe.begun["Write"] == 1


async def test_an_error_of_any_size_and_script_arrives_as_what_it_is(running: Running) -> None:
    async def raise_it(request: Any, call: Any) -> Text:
        raise NotFound(
            "не знайдено " * 500,
            reason="R" * 5000,
            **{f"key{number}": "ключ" * 500 for number in range(100)},
        )

    running.probe.behave["Read"] = raise_it
    with pytest.raises(NotFound) as caught:
        await running.client.read(Text())
    assert caught.value.message.startswith("не знайдено не знайдено")
    assert caught.value.details["key0"].startswith("ключ")


async def test_what_another_service_refused_us_is_our_incident_and_what_it_found_passes_through(
    running: Running,
) -> None:
    def refused(kind: type) -> Any:
        async def handle(request: Any, call: Any) -> Text:
            error = kind("refused", reason="REFUSED")
            error.instance = "other-1"
            error.unprocessed = True
            error.pushback = 1.0
            raise error

        return handle

    for kind in (Unauthenticated, Unimplemented, Cancelled):
        running.probe.behave["Write"] = refused(kind)
        with pytest.raises(Internal):
            await running.client.write(Text())
    for kind in (NotFound, PermissionDenied, ResourceExhausted, Unavailable):
        running.probe.behave["Write"] = refused(kind)
        with pytest.raises(kind) as caught:
            await running.client.write(Text())
        assert not caught.value.unprocessed
        assert caught.value.pushback is None
    assert running.probe.begun["Write"] == 7


async def test_an_unknown_method_is_unimplemented(running: Running) -> None:
    channel = running.mesh.channel("probe")
    for path in ("/probe.v1.ProbeService/Nope", "/nobody.v1.NobodyService/Nope"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(path)(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_that_is_none_is_refused_and_not_begun(running: Running) -> None:
    channel = running.mesh.channel("probe")
    for arity, argument in (("unary_unary", b"\xff\xff"), ("stream_unary", [b"\xff\xff"])):
        method = "Read" if arity == "unary_unary" else "Collect"
        call = getattr(channel, arity)(f"/probe.v1.ProbeService/{method}")(argument, timeout=5)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert b"REQUEST_MALFORMED" in dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    assert running.probe.begun["Read"] == 0


async def test_a_call_without_its_request_message_is_refused(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin_and_send_nothing(link: Any, exchange: Any) -> Any:
        return link._channel.stream_unary(exchange.method.path)(
            iter(()), metadata=tuple(exchange.headers.items())
        )

    monkeypatch.setattr("meshkit.transport.link.GrpcLink._begin", begin_and_send_nothing)
    with pytest.raises(InvalidArgument) as caught:
        await running.client.write(Text())
    assert caught.value.reason == "REQUEST_MISSING"
    assert running.probe.begun["Write"] == 0


@pytest.mark.parametrize("reply", ["text", None, b"bytes"])
async def test_a_reply_of_the_wrong_type_is_an_incident(running: Running, reply: Any) -> None:
    async def wrong(request: Any, call: Any) -> Any:
        return reply

    async def wrong_stream(request: Any, call: Any) -> Any:
        yield reply

    running.probe.behave.update(Read=wrong, List=wrong_stream)
    with pytest.raises(Internal) as caught:
        await running.client.read(Text())
    assert caught.value.details["incident"]
    with pytest.raises(Internal):
        await consume("list", running.client)


async def test_a_message_too_large_is_refused_either_way_and_the_connection_lives_on() -> None:
    local = LocalMesh(Probe, settings={"grpc_max_message_mb": 1})
    async with local as mesh:
        client = mesh.client(ProbeClient)
        probe: Any = local.service(local.instances[0])
        large = Text(value="x" * 2_000_000)

        async def answer_large(request: Any, call: Any) -> Text:
            return large

        async def stream_large(request: Any, call: Any) -> AsyncIterator[Text]:
            yield large

        with pytest.raises(ResourceExhausted):
            await client.read(large)
        with pytest.raises(ResourceExhausted):
            await client.collect([large])
        assert probe.values.total() == 0
        probe.behave.update(Read=answer_large, List=stream_large)
        with pytest.raises(ResourceExhausted):
            await client.read(Text())
        with pytest.raises(ResourceExhausted):
            await consume("list", client)
        probe.behave.clear()
        assert (await client.read(Text(value="small"))).value == "small"


async def test_a_server_refuses_a_message_that_only_it_finds_too_large() -> None:
    local = LocalMesh(
        Probe, settings={"grpc_max_message_mb": 16}, configs={Probe: {"grpc_max_message_mb": 1}}
    )
    async with local as mesh:
        client = mesh.client(ProbeClient)
        probe: Any = local.service(local.instances[0])
        large = Text(value="x" * 2_000_000)

        async def answer_large(request: Any, call: Any) -> Text:
            return large

        with pytest.raises(ResourceExhausted):
            await client.read(large)
        with pytest.raises(ResourceExhausted):
            await client.collect([large])
        assert probe.begun["Read"] == 0
        probe.behave["Read"] = answer_large
        with pytest.raises(ResourceExhausted):
            await client.read(Text())
        probe.behave.clear()
        assert (await client.read(Text(value="small"))).value == "small"


async def test_a_service_may_speak_of_registries_in_errors_of_its_own(running: Running) -> None:
    async def unknown(request: Any, call: Any) -> Any:
        raise NotFound("that land registry does not exist", reason="LAND_UNKNOWN", registry="north")

    running.probe.behave["Read"] = unknown
    with pytest.raises(NotFound) as caught:
        await running.client.read(Text())
    assert caught.value.message == "that land registry does not exist"
    assert caught.value.details == {"registry": "north"}
