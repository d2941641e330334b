"""A mesh channel is a grpc.aio.Channel: what it is told, what it says of itself, and its end."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError, UsageError

from meshkit import Internal, Mesh, NotFound
from meshkit.testing import LocalMesh
from tests.serving.probe import CONTRACT, Probe, ProbeClient, ProbeStub, Text
from tests.transport.streams import endless, forever


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
    def garbling(kind: Any) -> Any:
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
