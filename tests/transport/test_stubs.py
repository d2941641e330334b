"""Generated stubs work on a mesh channel as they do on gRPC's own: in all arities, and with requests that fail."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from greeter.v1 import greeter_pb2 as greeter
from greeter.v1.greeter_pb2_grpc import GreeterServiceStub
from grpc.aio import EOF, AioRpcError, UsageError
from main import Greeter

from meshkit import Mesh
from meshkit.testing import LocalMesh
from tests.serving.probe import ProbeClient, Text, gather_values
from tests.transport.streams import forever, texts

# --- the four arities, by stubs made by grpcio-tools ---------------------------------------------------------------


async def test_stubs_made_by_grpcio_tools_work_unchanged_in_all_arities() -> None:
    async with LocalMesh(Greeter) as mesh:
        stub = GreeterServiceStub(mesh.channel("greeter"))

        assert (await stub.Greet(greeter.GreetRequest(name="Ada"), timeout=5)).text == "Hello Ada (local)"
        assert [r.text async for r in stub.GreetMany(greeter.GreetManyRequest(name="Ada", times=2))] == [
            "Hello Ada, for the 1. time",
            "Hello Ada, for the 2. time",
        ]

        async def names() -> AsyncIterator[greeter.GreetAllRequest]:
            yield greeter.GreetAllRequest(name="Ada")
            yield greeter.GreetAllRequest(name="Bob")

        assert (await stub.GreetAll(names())).text == "Hello Ada, Bob"

        async def chatter() -> AsyncIterator[greeter.ChatRequest]:
            yield greeter.ChatRequest(name="Ada")
            yield greeter.ChatRequest(name="Bob")

        assert [r.text async for r in stub.Chat(chatter())] == ["Hello Ada", "Hello Bob"]


async def test_requests_may_come_from_a_plain_iterator(stub: Any) -> None:
    assert (await stub.Collect(Text(value=v) for v in "abc")).value == "a,b,c"
    assert (await stub.Collect([Text(value="a")])).value == "a"
    assert (await stub.Collect([])).value == ""
    assert [r.value async for r in stub.Talk(iter([Text(value="a")]))] == ["a"]


async def test_requests_may_be_written_and_replies_read(stub: Any) -> None:
    call = stub.Collect()
    await call.write(Text(value="a"))
    await call.write(Text(value="b"))
    await call.done_writing()
    assert (await call).value == "a,b"

    call = stub.Talk()
    for value in "ab":
        await call.write(Text(value=value))
        assert (await call.read()).value == value
    await call.done_writing()
    assert await call.read() is EOF
    assert await call.read() is EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_of_replies_may_be_read(stub: Any) -> None:
    call = stub.List(Text(value="x"))
    assert [(await call.read()).value for _ in range(3)] == ["x0", "x1", "x2"]
    assert await call.read() is EOF


async def test_writers_at_the_same_time_lose_no_message(stub: Any) -> None:
    call = stub.Collect()
    await asyncio.gather(*(call.write(Text(value=str(number))) for number in range(20)))
    await call.done_writing()
    assert sorted((await call).value.split(","), key=int) == [str(number) for number in range(20)]


async def test_writing_after_the_end_of_writing_is_an_error_and_does_not_hang(stub: Any) -> None:
    call = stub.Talk()
    await call.done_writing()
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(Text(value="late"))
    with pytest.raises(asyncio.InvalidStateError):
        await call.done_writing()
    assert await call.read() is EOF
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(Text(value="later"))


async def test_writing_into_a_call_that_has_an_iterator_is_a_usage_error(stub: Any) -> None:
    call = stub.Talk(texts("a"))
    with pytest.raises(UsageError):
        await call.write(Text(value="b"))
    assert [r.value async for r in call] == ["a"]


async def test_mixing_iteration_and_read_is_a_usage_error(stub: Any) -> None:
    call = stub.List(Text(value="x"))
    assert (await call.read()).value == "x0"
    with pytest.raises(UsageError):
        aiter(call)
    call = stub.List(Text(value="x"))
    async for _ in call:
        break
    with pytest.raises(UsageError):
        await call.read()
    call.cancel()


# --- the caller's own requests --------------------------------------------------------------------------------------


class CallersFault(Exception):
    pass


@pytest.mark.parametrize("method", ["Collect", "Talk", "Merge"])
async def test_an_error_of_the_callers_own_iterator_ends_the_call_with_that_error(
    stub: Any, mesh: Mesh, probe: Any, method: str
) -> None:
    async def broken() -> AsyncIterator[Text]:
        yield Text(value="a")
        raise CallersFault("mine")

    def broken_plainly() -> Any:
        yield Text(value="a")
        raise CallersFault("mine")

    client = mesh.client(ProbeClient)
    for call in (
        getattr(stub, method)(broken()),
        getattr(stub, method)(broken_plainly()),
        getattr(client, method.lower())(broken()),
    ):
        with pytest.raises(CallersFault):
            await (gather_values(call, []) if method == "Talk" else call)
    await probe.until(lambda: probe.begun == probe.ended)


async def test_a_request_iterator_that_is_cancelled_by_itself_does_not_hang_the_call(
    mesh: Mesh, stub: Any
) -> None:
    async def cancelled() -> AsyncIterator[Text]:
        yield Text(value="a")
        raise asyncio.CancelledError

    with pytest.raises(AioRpcError) as caught:
        await asyncio.wait_for(stub.Collect(cancelled(), timeout=30), 5)
    assert caught.value.code() is grpc.StatusCode.CANCELLED


async def test_a_request_of_the_wrong_type_is_the_callers_error(stub: Any, mesh: Mesh) -> None:
    with pytest.raises((TypeError, AttributeError)):
        await stub.Collect([greeter.GreetRequest(name="x"), 7])
    with pytest.raises((TypeError, AttributeError)):
        await mesh.client(ProbeClient).collect(["text"])


async def test_a_service_that_answers_early_ends_the_sending(stub: Any, probe: Any, eventually: Any) -> None:
    async def first_only(requests: AsyncIterator[Text], call: Any) -> Text:
        async for request in requests:
            return request
        raise AssertionError

    async def requests() -> AsyncIterator[Text]:
        number = 0
        while True:
            yield Text(value=str(number))
            number += 1

    probe.behave["Collect"] = first_only
    before = len(asyncio.all_tasks())
    assert (await asyncio.wait_for(stub.Collect(requests()), 5)).value == "0"
    await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_cancelling_a_write_cancels_the_call(stub: Any, probe: Any) -> None:
    async def never_read(requests: Any, call: Any) -> Text:
        return await forever(requests, call)

    probe.behave["Collect"] = never_read
    call = stub.Collect()

    async def write_on() -> None:
        while True:
            await call.write(Text(value="x" * 65536))

    writing = asyncio.create_task(write_on())
    await probe.until(lambda: probe.begun["Collect"] == 1)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await probe.until(lambda: probe.ended["Collect"] == 1)
    assert call.cancelled()
