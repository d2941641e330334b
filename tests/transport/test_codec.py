"""Reading the message of a call that has one: how long that may take, and what there may be instead."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from meshkit import Call, Deadline, DeadlineExceeded, InvalidArgument
from meshkit.pipeline import END, Exchange, Method, compose
from meshkit.transport import codec
from meshkit.transport.server import Server

ECHO = Method("/probe.v1.ProbeService/Echo")


async def nowhere(message: Any) -> None:
    raise AssertionError


async def answer(exchange: Exchange) -> None:
    await exchange.send(exchange.request)


def exchange(receive: Callable[[], Awaitable[Any]], deadline: Deadline) -> Exchange:
    return Exchange(ECHO, Call(service="probe", deadline=deadline), receive, nowhere)


async def test_a_message_that_does_not_come_ends_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def forever() -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(codec, "REQUEST_S", 0.01)
    layer = codec.transcoding(bytes, bytes)(answer)
    for deadline in (Deadline(), Deadline.after(60.0)):
        with pytest.raises(DeadlineExceeded) as caught:
            await asyncio.wait_for(layer(exchange(forever, deadline)), 5)
        assert caught.value.reason == "REQUEST_LATE"


async def test_a_call_without_its_message_is_refused() -> None:
    async def nothing() -> Any:
        return END

    layer = codec.transcoding(bytes, bytes)(answer)
    for deadline in (Deadline(), Deadline.after(1.0)):
        with pytest.raises(InvalidArgument) as caught:
            await layer(exchange(nothing, deadline))
        assert caught.value.reason == "REQUEST_MISSING"


SILENT_CALLER = """
import asyncio, sys, grpc

async def never():
    await asyncio.Event().wait()
    yield b""

async def main():
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        await channel.stream_unary(sys.argv[2])(never(), timeout=1.5)

asyncio.run(main())
"""


async def test_the_callers_deadline_ends_the_wait_though_the_caller_itself_is_gone(eventually: Any) -> None:
    server = Server("probe", "probe-1", max_message_bytes=1024)
    server.add({ECHO: compose([codec.transcoding(bytes, bytes)], answer)})
    port = server.bind("127.0.0.1", 0)
    await server.start()
    caller = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SILENT_CALLER, f"127.0.0.1:{port}", ECHO.path
    )
    try:
        await eventually(lambda: server.calls == 1)
        caller.send_signal(signal.SIGSTOP)  # so it cannot cancel the call either
        await eventually(lambda: server.calls == 0)
    finally:
        caller.kill()
        await caller.wait()
        await server.stop(0)
