"""A mesh channel is a grpc.aio.Channel: generated stubs work on it as they do on gRPC's own."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from greeter.v1 import greeter_pb2 as greeter
from greeter.v1.greeter_pb2_grpc import GreeterServiceStub
from grpc.aio import EOF, AioRpcError, UsageError
from main import Greeter

from meshkit import Internal, InvalidArgument, Mesh, NotFound
from meshkit.testing import LocalMesh
from tests.serving.probe import CONTRACT, Probe, ProbeClient, ProbeStub, Text


@pytest.fixture
async def local() -> AsyncIterator[LocalMesh]:
    made = LocalMesh(Probe)
    async with made:
        yield made


@pytest.fixture
def mesh(local: LocalMesh) -> Mesh:
    assert local._mesh is not None
    return local._mesh


@pytest.fixture
def probe(local: LocalMesh) -> Any:
    return local.service(local.instances[0])


@pytest.fixture
async def channel(mesh: Mesh) -> Any:
    made = mesh.channel("probe")
    await made.channel_ready()
    return made


@pytest.fixture
async def stub(channel: Any) -> Any:
    return ProbeStub(channel)


async def texts(*values: str) -> AsyncIterator[Text]:
    for value in values:
        yield Text(value=value)


async def gather_values(replies: Any, into: list[str]) -> None:
    async for reply in replies:
        into.append(reply.value)


async def forever(request: Any, call: Any) -> Text:
    await asyncio.Event().wait()
    raise AssertionError


async def endless(request: Any, call: Any) -> AsyncIterator[Text]:
    yield Text(value="first")
    await asyncio.Event().wait()


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


async def test_it_is_what_grpc_calls_a_channel_and_its_calls_are_what_grpc_calls_calls(
    channel: Any, stub: Any
) -> None:
    assert isinstance(channel, grpc.aio.Channel)
    calls = {
        grpc.aio.UnaryUnaryCall: stub.Read(Text()),
        grpc.aio.UnaryStreamCall: stub.List(Text()),
        grpc.aio.StreamUnaryCall: stub.Collect([]),
        grpc.aio.StreamStreamCall: stub.Talk([]),
    }
    for kind, call in calls.items():
        assert isinstance(call, kind)
        assert isinstance(call, grpc.aio.Call)
        assert call.cancel()


# --- metadata and time ----------------------------------------------------------------------------------------------


async def test_metadata_travels_text_and_bytes(stub: Any, probe: Any) -> None:
    pairs = (("x-text", "value"), ("x-blob-bin", b"\x00\xff"))
    await stub.Read(Text(), metadata=pairs)
    await stub.Read(Text(), metadata=grpc.aio.Metadata(*pairs))
    for call in probe.calls:
        assert call.metadata["x-text"] == "value"
        assert call.metadata["x-blob-bin"] == b"\x00\xff"


@pytest.mark.parametrize(
    "pair",
    [
        ("X-Upper", "a"),
        ("x-text", "ä"),
        ("x-text", b"bytes"),
        ("x-blob-bin", "text"),
        ("x-text", "a\nb"),
        ("", "a"),
        ("authorization", "Bearer mine"),
        ("x-cu-proof", "mine"),
        ("x-cu-to", "mine"),
        ("x-cu-subject", "mine"),
    ],
)
async def test_metadata_that_cannot_be_sent_is_refused_with_a_reason(stub: Any, pair: Any) -> None:
    with pytest.raises(AioRpcError) as caught:
        await stub.Read(Text(), metadata=(pair,))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "metadata" in caught.value.details()


async def test_tenant_and_criticality_may_be_said_in_metadata_or_by_scope(
    stub: Any, probe: Any, mesh: Mesh
) -> None:
    await stub.Read(Text(), metadata=(("x-cu-tenant", "acme"), ("x-cu-criticality", "sheddable")))
    with mesh.scope(tenant="umbrella", criticality="critical"):
        await stub.Read(Text())
    await mesh.client(ProbeClient).read(
        Text(), metadata={"x-cu-tenant": "hooli", "x-cu-criticality": "critical"}
    )
    assert [(call.tenant, call.criticality) for call in probe.calls] == [
        ("acme", "sheddable"),
        ("umbrella", "critical"),
        ("hooli", "critical"),
    ]


async def test_a_call_without_a_timeout_has_the_default_deadline_and_a_stream_has_none(
    stub: Any, probe: Any
) -> None:
    call = stub.Read(Text())
    assert 0 < call.time_remaining() <= 5
    await call
    assert 0 < probe.calls[0].deadline.remaining() < 5.1, "gRPC rounds a timeout up"
    stream = stub.List(Text())
    assert stream.time_remaining() is None
    async for _ in stream:
        pass
    assert probe.calls[1].deadline.remaining() == float("inf")


@pytest.mark.parametrize("timeout", [0.05, 0, -1])
async def test_a_timeout_ends_the_call(stub: Any, probe: Any, timeout: float) -> None:
    probe.behave["Read"] = forever
    with pytest.raises(AioRpcError) as caught:
        await stub.Read(Text(), timeout=timeout)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await probe.until(lambda: probe.begun == probe.ended)


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


# --- the channel ----------------------------------------------------------------------------------------------------


async def test_wait_for_ready_is_taken_and_changes_nothing(stub: Any) -> None:
    for wait in (True, False, None):
        assert (await stub.Read(Text(value="x"), wait_for_ready=wait)).value == "x"


async def test_a_channel_becomes_ready(channel: Any) -> None:
    await asyncio.wait_for(channel.channel_ready(), 5)
    assert channel.get_state() is grpc.ChannelConnectivity.READY
    assert channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY


async def test_a_channel_to_nobody_is_connecting_until_somebody_comes(local: LocalMesh) -> None:
    other = LocalMesh(tenant="local")
    async with other as mesh:
        channel = mesh.channel("probe")
        assert channel.get_state() is grpc.ChannelConnectivity.CONNECTING
        waiting = asyncio.create_task(channel.channel_ready())
        changing = asyncio.create_task(channel.wait_for_state_change(grpc.ChannelConnectivity.CONNECTING))
        await other.start(Probe)
        await asyncio.wait_for(asyncio.gather(waiting, changing), 5)
        assert channel.get_state() is grpc.ChannelConnectivity.READY


async def test_a_closed_channel_says_so_and_takes_no_calls(mesh: Mesh, channel: Any) -> None:
    async with channel:
        stub = ProbeStub(channel)
        await stub.Read(Text())
    assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
    with pytest.raises(UsageError):
        await stub.Read(Text())
    with pytest.raises(UsageError):
        await asyncio.wait_for(channel.channel_ready(), 5)
    assert (await ProbeStub(mesh.channel("probe")).Read(Text(value="on"))).value == "on"


async def test_whoever_waits_on_a_channel_is_woken_by_its_close() -> None:
    async with LocalMesh() as mesh:
        channel = mesh.channel("nobody")
        ready = asyncio.ensure_future(channel.channel_ready())
        change = asyncio.ensure_future(channel.wait_for_state_change(grpc.ChannelConnectivity.CONNECTING))
        await asyncio.sleep(0)
        await channel.close()
        with pytest.raises(UsageError):
            await asyncio.wait_for(ready, 5)
        await asyncio.wait_for(change, 5)


async def test_close_without_grace_cancels_calls_under_way(channel: Any, stub: Any, probe: Any) -> None:
    probe.behave["Read"] = forever
    call = stub.Read(Text(), timeout=30)
    waiting = asyncio.ensure_future(call)
    await probe.until(lambda: probe.begun["Read"] == 1)
    await channel.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await probe.until(lambda: probe.ended["Read"] == 1)


async def test_close_with_grace_lets_calls_end_and_cancels_the_rest(
    channel: Any, stub: Any, probe: Any
) -> None:
    release = asyncio.Event()

    async def wait(request: Text, call: Any) -> Text:
        await release.wait()
        return request

    probe.behave.update(Read=wait, Write=forever)
    quick, slow = stub.Read(Text(value="x"), timeout=30), stub.Write(Text(), timeout=30)
    await probe.until(lambda: probe.begun.total() == 2)
    closing = asyncio.create_task(channel.close(grace=0.2))
    release.set()
    await closing
    assert (await quick).value == "x"
    with pytest.raises(asyncio.CancelledError):
        await slow


async def test_closing_a_channel_with_a_call_that_failed_unnoticed_works(mesh: Mesh) -> None:
    channel = mesh.channel("probe")
    stub = ProbeStub(channel)
    calls = [stub.List(Text()) for _ in range(3)]
    for call in calls:
        call._flow.cancel()
    await channel.close()
    assert all(call.done() for call in calls)


async def test_closing_the_mesh_fails_calls_under_way_and_calls_that_wait(
    probe: Any, local: LocalMesh
) -> None:
    probe.behave["Follow"] = endless
    other = Mesh(local._mesh.config, local.registry)  # type: ignore[union-attr]
    stub = ProbeStub(other.channel("probe"))
    stream = stub.Follow(Text())
    await stream.read()
    reading = asyncio.ensure_future(stream.read())
    waiting = asyncio.ensure_future(ProbeStub(other.channel("nobody")).Follow(Text()).read())
    await asyncio.sleep(0)
    await asyncio.wait_for(other.close(), 5)
    done = await asyncio.wait_for(asyncio.gather(reading, waiting, return_exceptions=True), 5)
    assert isinstance(done[0], (AioRpcError, asyncio.CancelledError))
    assert isinstance(done[1], AioRpcError)
    assert "closed" in done[1].details()


async def test_credentials_and_compression_are_not_the_callers(stub: Any) -> None:
    with pytest.raises(UsageError):
        await stub.Read(Text(), compression=grpc.Compression.Gzip)


async def test_a_method_that_no_loaded_contract_knows_is_unimplemented(channel: Any) -> None:
    call = channel.unary_unary(f"/{CONTRACT.full_name}/Nope")(b"", timeout=5)
    with pytest.raises(AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_typed_clients_raise_the_same_class_with_reason_and_details(mesh: Mesh, probe: Any) -> None:
    async def fail(request: Any, call: Any) -> Text:
        error = NotFound("no such thing", reason="THING_UNKNOWN")
        error.details.update(thing="x", message="m", reason="r")
        raise error

    probe.behave["Read"] = fail
    with pytest.raises(NotFound) as caught:
        await mesh.client(ProbeClient).read(Text())
    assert caught.value.message == "no such thing"
    assert caught.value.reason == "THING_UNKNOWN"
    assert caught.value.details == {"thing": "x", "message": "m", "reason": "r"}
    assert caught.value.instance


async def test_a_reply_that_is_none_is_an_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def garbling(kind: Any) -> Callable[[Any], bytes]:
        return lambda message: b"\xff\xff"

    monkeypatch.setattr("meshkit.transport.codec._encoder", garbling)
    async with LocalMesh(Probe) as mesh:
        with pytest.raises(Internal) as caught:
            await mesh.client(ProbeClient).read(Text())
    assert caught.value.reason == "REPLY_MALFORMED"


async def test_a_call_takes_trailers_and_an_unknown_option_is_an_error(local: LocalMesh, mesh: Mesh) -> None:
    trailers: dict[str, str] = {}
    client = mesh.client(ProbeClient)
    await client.read(Text(), trailers=trailers)
    assert trailers["x-cu-instance"] == local.instances[0]
    with pytest.raises(TypeError, match="tenent"):
        await client.read(Text(), tenent="acme")
    async with client.list(Text()) as replies:
        assert await anext(aiter(replies))
        assert replies.instance == local.instances[0]


async def test_two_thousand_calls_and_three_hundred_cancelled_streams_leave_nothing(
    mesh: Mesh, stub: Any, probe: Any, eventually: Any
) -> None:
    import os

    probe.behave["Follow"] = endless
    client = mesh.client(ProbeClient)
    await asyncio.gather(*(client.read(Text()) for _ in range(50)))
    await eventually(lambda: len(asyncio.all_tasks()) < 40)
    tasks, descriptors = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        await asyncio.gather(
            *(client.read(Text()) for _ in range(50)), *(stub.Read(Text()) for _ in range(50))
        )
    for _ in range(15):
        streams = [stub.Follow(Text()) for _ in range(20)]
        await asyncio.gather(*(stream.read() for stream in streams))
        for stream in streams:
            stream.cancel()
    await probe.until(lambda: probe.begun == probe.ended)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2
