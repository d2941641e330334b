"""When the end of a stream of requests is believed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc.aio import EOF, InternalError, UsageError

from meshkit import Call, Cancelled, DeadlineExceeded
from meshkit.call import Deadline
from meshkit.pipeline import END
from meshkit.testing import LocalMesh
from meshkit.transport import half_close
from meshkit.transport.half_close import Headers, reading
from tests.serving.probe import Probe, ProbeClient, Text


class Scripted:
    """A call whose requests end, and whose headers can be sent or not."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.refusal = refusal
        self.reads = 0
        self.headers = 0
        self.replies: list[bytes] = []

    async def read(self) -> Any:
        self.reads += 1
        return b"only" if self.reads == 1 else EOF

    async def send_initial_metadata(self, pairs: Any) -> None:
        self.headers += 1
        if self.refusal is not None:
            raise self.refusal

    async def write(self, reply: bytes) -> None:
        self.replies.append(reply)


class Slow(Scripted):
    """One whose headers take until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()
        self.sent: list[Any] = []

    async def send_initial_metadata(self, pairs: Any) -> None:
        self.headers += 1
        await self.release.wait()
        self.sent.append(pairs)


def headers_of(context: Scripted) -> Headers:
    return Headers(context)  # type: ignore[arg-type]


def reader(context: Scripted, deadline: Deadline | None = None, headers: Headers | None = None) -> Any:
    return reading(context, deadline or Deadline(), headers or headers_of(context))  # type: ignore[arg-type]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return made


async def test_an_end_is_believed_at_once_where_the_call_can_still_be_answered(pauses: list[float]) -> None:
    context = Scripted()
    receive = reader(context)
    assert [await receive(), context.headers] == [b"only", 0], "nothing is asked while requests come"
    assert [await receive(), context.headers, pauses] == [END, 1, []]


async def test_requests_of_a_call_that_cannot_be_answered_have_broken_off(pauses: list[float]) -> None:
    receive = reader(Scripted(InternalError("the call is over")))
    await receive()
    with pytest.raises(Cancelled, match="broke off"):
        await receive()
    assert pauses == [half_close.CANCEL_S], "gRPC is given the time to say so itself"


async def test_behind_a_reply_an_end_is_waited_for(pauses: list[float]) -> None:
    context = Scripted(UsageError("the headers are sent"))
    receive = reader(context)
    await receive()
    assert [await receive(), context.reads, pauses] == [END, 3, [half_close.BREAK_OFF_S]]


async def test_headers_that_are_the_handlers_own_are_left_to_it(pauses: list[float]) -> None:
    context = Scripted()
    receive = reading(context, Deadline(), headers_of(context), own_headers=True)  # type: ignore[arg-type]
    await receive()
    assert [await receive(), context.headers, pauses] == [END, 0, [half_close.BREAK_OFF_S]]


@pytest.mark.parametrize("refusal", [None, InternalError(""), UsageError("")], ids=repr)
async def test_past_the_deadline_no_end_is_believed(refusal: Exception | None, pauses: list[float]) -> None:
    receive = reader(Scripted(refusal), Deadline.after(-1))
    await receive()
    with pytest.raises(DeadlineExceeded, match="before the stream of requests had ended"):
        await receive()


async def test_who_is_cancelled_meanwhile_lets_the_headers_be_sent(eventually: Any) -> None:
    context = Slow()
    receive = reader(context)
    await receive()
    reading_on = asyncio.ensure_future(receive())
    await eventually(lambda: context.headers == 1)
    reading_on.cancel()
    await asyncio.sleep(0)
    assert not reading_on.done(), "gRPC would send them once more with the status"
    context.release.set()
    with pytest.raises(asyncio.CancelledError):
        await reading_on
    assert context.sent == [()]


async def test_a_reply_and_a_status_wait_for_headers_that_a_reader_beside_has_under_way(
    eventually: Any,
) -> None:
    context = Slow()
    headers = headers_of(context)
    receive = reader(context, headers=headers)
    await receive()
    reading_on = asyncio.ensure_future(receive())
    await eventually(lambda: context.headers == 1)
    replying, ending = asyncio.ensure_future(headers.reply(b"r")), asyncio.ensure_future(headers.settled())
    for _ in range(5):
        await asyncio.sleep(0)
    assert (context.replies, ending.done()) == ([], False), "gRPC fails a call that has both under way"
    context.release.set()
    await asyncio.gather(replying, ending)
    assert (context.replies, await reading_on) == ([b"r"], END)


async def test_behind_a_reply_no_headers_are_sent(pauses: list[float]) -> None:
    context = Scripted()
    headers = headers_of(context)
    receive = reader(context, headers=headers)
    await receive()
    await headers.reply(b"r")
    assert [await receive(), context.headers, context.reads, pauses] == [END, 0, 3, [half_close.BREAK_OFF_S]]


async def test_over_a_connection_an_end_is_proven_and_costs_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_close, "BREAK_OFF_S", 3600.0)
    local = LocalMesh(Probe)
    async with local as mesh:
        probe: Any = local.service(local.instances[0])

        async def at_once(messages: AsyncIterator[Text], call: Call) -> AsyncIterator[Text]:
            yield Text(value="".join([message.value async for message in messages]))

        probe.behave["Talk"] = at_once
        client: Any = mesh.client(ProbeClient)
        both = [Text(value="a"), Text(value="b")]
        assert (await client.collect(both, timeout=60)).value == "a,b"
        assert [reply.value async for reply in client.talk(both, timeout=60)] == ["ab"]


async def test_who_reads_beside_replying_is_never_failed_by_it() -> None:
    local = LocalMesh(Probe)
    async with local as mesh:
        probe: Any = local.service(local.instances[0])

        async def beside(messages: AsyncIterator[Text], call: Call) -> AsyncIterator[Text]:
            heard: asyncio.Queue[Text] = asyncio.Queue()

            async def hear() -> None:
                async for message in messages:
                    await heard.put(message)

            hearing = asyncio.create_task(hear())
            for _ in range(2):
                yield await heard.get()
            hearing.cancel()  # the end of the requests may be about to be proven

        probe.behave["Talk"] = beside
        client: Any = mesh.client(ProbeClient)
        both = [Text(value="a"), Text(value="b")]

        async def talk() -> list[str]:
            return [reply.value async for reply in client.talk(both, timeout=60)]

        for _ in range(10):
            assert await asyncio.gather(*[talk() for _ in range(10)]) == [["a", "b"]] * 10
