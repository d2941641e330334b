"""Calls over a mesh channel are gRPC's own: awaited, asked, cancelled, abandoned."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from meshkit import InvalidArgument, Mesh, NotFound
from meshkit.testing import LocalMesh
from tests.serving.probe import Probe, ProbeClient, ProbeStub, Text, gather_values
from tests.transport.streams import endless, forever, texts

# --- awaiting and asking --------------------------------------------------------------------------------------------


async def test_calls_may_be_gathered_before_they_are_awaited(stub: Any) -> None:
    replies = await asyncio.gather(*(stub.Read(Text(value=str(number))) for number in range(50)))
    assert [reply.value for reply in replies] == [str(number) for number in range(50)]


async def test_calls_run_side_by_side_from_the_moment_they_are_made(stub: Any, probe: Any) -> None:
    both = asyncio.Event()

    async def meet(request: Text, call: Any) -> Text:
        if probe.begun["Read"] == 2:
            both.set()
        await both.wait()
        return request

    probe.behave["Read"] = meet
    first, second = stub.Read(Text(value="1")), stub.Read(Text(value="2"))
    assert (await first).value == "1"
    assert (await second).value == "2"


async def test_a_call_may_be_awaited_twice_and_by_two(stub: Any, probe: Any) -> None:
    call = stub.Read(Text(value="x"))
    assert (await call).value == "x"
    assert (await call).value == "x"
    call = stub.Read(Text(value="y"))

    async def wait() -> Any:
        return await call

    replies = await asyncio.gather(wait(), wait(), wait())
    assert [reply.value for reply in replies] == ["y"] * 3
    assert probe.begun["Read"] == 2


async def test_two_awaiters_get_the_same_error(stub: Any, probe: Any) -> None:
    async def fail(request: Any, call: Any) -> Text:
        raise NotFound("no such thing", reason="THING_UNKNOWN", thing="x")

    probe.behave["Read"] = fail
    call = stub.Read(Text())

    async def wait() -> Any:
        return await call

    errors = await asyncio.gather(wait(), wait(), return_exceptions=True)
    assert [error.code() for error in errors] == [grpc.StatusCode.NOT_FOUND] * 2
    with pytest.raises(AioRpcError):
        await call


async def test_status_and_trailers_may_be_asked_for_before_and_after_the_reply(
    local: LocalMesh, stub: Any
) -> None:
    call = stub.Read(Text(value="x"))
    assert await call.code() is grpc.StatusCode.OK
    assert await call.details() == ""
    assert (await call).value == "x"
    call = stub.Read(Text(value="y"))
    await call
    assert await call.code() is grpc.StatusCode.OK
    assert dict(await call.trailing_metadata())["x-cu-instance"] == local.instances[0]
    assert await call.initial_metadata() is not None
    assert call.done()


async def test_the_status_of_a_failed_call_carries_its_reason_and_who_answered(
    local: LocalMesh, stub: Any, probe: Any
) -> None:
    async def fail(request: Any, call: Any) -> Text:
        raise NotFound("no such thing", reason="THING_UNKNOWN", thing="x")

    probe.behave["Read"] = fail
    call = stub.Read(Text())
    assert await call.code() is grpc.StatusCode.NOT_FOUND
    assert await call.details() == "no such thing"
    trailers = dict(await call.trailing_metadata())
    assert trailers["x-cu-instance"] == local.instances[0]
    assert b"THING_UNKNOWN" in trailers["grpc-status-details-bin"]
    with pytest.raises(AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_call_gets_done_without_being_awaited_once_somebody_asks(
    stub: Any, probe: Any, eventually: Any
) -> None:
    call = stub.Read(Text(value="x"))
    await eventually(call.done)
    assert (await call).value == "x"
    stream = stub.List(Text(value="x"))
    assert not stream.done()
    assert [reply.value async for reply in stream] == ["x0", "x1", "x2"]
    assert stream.done()


async def test_done_callbacks_are_called_once_with_the_call(stub: Any) -> None:
    seen: list[Any] = []
    call = stub.Read(Text())
    call.add_done_callback(seen.append)
    await call
    assert seen == [call]
    call.add_done_callback(seen.append)
    assert seen == [call, call]

    unawaited = stub.Read(Text())
    called = asyncio.Event()
    unawaited.add_done_callback(lambda _: called.set())
    await asyncio.wait_for(called.wait(), 5)

    cancelled = stub.Read(Text())
    cancelled.add_done_callback(seen.append)
    cancelled.cancel()
    assert seen[-1] is cancelled


async def test_the_status_of_a_stream_comes_though_its_reader_stops_at_the_last_reply(stub: Any) -> None:
    call = stub.List(Text(value="x"))
    status = asyncio.ensure_future(call.code())
    for _ in range(3):
        await call.read()
    assert await asyncio.wait_for(status, 5) is grpc.StatusCode.OK


async def test_a_stream_that_fails_raises_after_what_it_gave(stub: Any, probe: Any) -> None:
    async def give_and_fail(request: Any, call: Any) -> AsyncIterator[Text]:
        yield Text(value="a")
        raise InvalidArgument("enough", reason="ENOUGH")

    probe.behave["List"] = give_and_fail
    call = stub.List(Text())
    got: list[str] = []
    with pytest.raises(AioRpcError) as caught:
        await gather_values(call, got)
    assert got == ["a"]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_call_that_is_never_awaited_leaves_nothing_behind(
    channel: Any, stub: Any, probe: Any, eventually: Any
) -> None:
    await stub.Read(Text())
    before = len(asyncio.all_tasks())
    for make in (
        lambda: stub.Read(Text()),
        lambda: stub.List(Text()),
        lambda: stub.Follow(Text()),
        lambda: stub.Collect(texts("a")),
        lambda: stub.Talk(texts("a")),
        lambda: stub.Talk(),
    ):
        make()
    await eventually(lambda: len(asyncio.all_tasks()) <= before)
    await probe.until(lambda: probe.begun == probe.ended)
    gc.collect()
    assert len(channel._calls) == 0


async def test_calls_that_outlive_their_mesh_make_no_noise() -> None:
    async with LocalMesh(Probe) as mesh:
        stub = ProbeStub(mesh.channel("probe"))
        await stub.Read(Text())
        kept = [stub.Read(Text()), stub.Talk(texts("a")), mesh.client(ProbeClient).talk(texts("a"))]
    kept.clear()
    gc.collect()


# --- cancellation ---------------------------------------------------------------------------------------------------


async def test_a_call_cancelled_before_it_is_awaited_raises_and_says_so(stub: Any, probe: Any) -> None:
    call = stub.Read(Text())
    assert call.cancel()
    assert not call.cancel()
    assert call.cancelled()
    assert call.done()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await call.code() is grpc.StatusCode.CANCELLED
    assert "cancelled" in (await call.details()).lower()


async def test_a_call_cancelled_while_it_is_awaited_raises_and_ends_the_handler(
    stub: Any, probe: Any
) -> None:
    probe.behave["Read"] = forever
    call = stub.Read(Text(), timeout=30)
    waiting = asyncio.ensure_future(call)
    await probe.until(lambda: probe.begun["Read"] == 1)
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await probe.until(lambda: probe.ended["Read"] == 1)


async def test_cancelling_the_task_cancels_the_call(stub: Any, probe: Any) -> None:
    probe.behave["Read"] = forever
    call = stub.Read(Text(), timeout=30)
    waiting = asyncio.ensure_future(call)
    await probe.until(lambda: probe.begun["Read"] == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert call.cancelled()
    assert await call.code() is grpc.StatusCode.CANCELLED
    await probe.until(lambda: probe.ended["Read"] == 1)


async def test_cancelling_the_task_cancels_a_call_that_something_else_drives(stub: Any, probe: Any) -> None:
    probe.behave["Read"] = forever
    call = stub.Read(Text(), timeout=30)
    assert not call.done()
    waiting = asyncio.ensure_future(call)
    await probe.until(lambda: probe.begun["Read"] == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await probe.until(lambda: probe.ended["Read"] == 1)
    assert call.cancelled()


async def test_wait_for_gives_a_call_up(stub: Any, probe: Any) -> None:
    probe.behave["Read"] = forever
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stub.Read(Text(), timeout=30), 0.05)
    await probe.until(lambda: probe.begun == probe.ended)


async def test_a_cancel_that_comes_when_the_reply_is_there_already_still_ends_the_stream(
    stub: Any, probe: Any
) -> None:
    async def chatter(request: Any, call: Any) -> AsyncIterator[Text]:
        while True:
            yield Text(value="x")

    probe.behave["Follow"] = chatter
    for _ in range(30):
        call = stub.Follow(Text())
        await call.read()
        reading = asyncio.ensure_future(call.read())
        for _ in range(3):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        with pytest.raises(asyncio.CancelledError):
            await call.read()
    await probe.until(lambda: probe.ended["Follow"] == 30)


@pytest.mark.parametrize("how", ["cancel", "forget", "break", "task"])
async def test_an_abandoned_stream_ends_its_handler(stub: Any, probe: Any, how: str) -> None:
    probe.behave["Follow"] = endless
    if how == "task":

        async def read_all() -> None:
            async for _ in stub.Follow(Text()):
                pass

        reading = asyncio.create_task(read_all())
        await probe.until(lambda: probe.begun["Follow"] == 1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    elif how == "break":
        async for _ in stub.Follow(Text()):
            break
    else:
        call = stub.Follow(Text())
        assert (await call.read()).value == "first"
        if how == "cancel":
            assert call.cancel()
        del call
    await probe.until(lambda: probe.ended["Follow"] == 1)


@pytest.mark.parametrize("how", ["with", "break", "task"])
async def test_an_abandoned_stream_of_a_typed_client_ends_its_handler(
    mesh: Mesh, probe: Any, how: str
) -> None:
    client = mesh.client(ProbeClient)
    probe.behave["Follow"] = endless
    if how == "with":
        async with client.follow(Text()) as replies:
            assert (await anext(aiter(replies))).value == "first"
    elif how == "break":
        async for _ in client.follow(Text()):
            break
    else:

        async def read_all() -> None:
            async for _ in client.follow(Text()):
                pass

        reading = asyncio.create_task(read_all())
        await probe.until(lambda: probe.begun["Follow"] == 1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    await probe.until(lambda: probe.ended["Follow"] == 1)


@pytest.mark.parametrize("typed", [True, False])
async def test_an_abandoned_conversation_leaves_no_task_behind(
    mesh: Mesh, stub: Any, probe: Any, typed: bool, eventually: Any
) -> None:
    async def requests() -> AsyncIterator[Text]:
        yield Text(value="a")
        await asyncio.Event().wait()

    warm = mesh.client(ProbeClient)
    assert [r.value async for r in warm.talk(texts("a"))] == ["a"]
    before = len(asyncio.all_tasks())
    async for _ in warm.talk(requests()) if typed else stub.Talk(requests()):
        break
    await probe.until(lambda: probe.ended["Talk"] == 2)
    await eventually(lambda: len(asyncio.all_tasks()) <= before)
