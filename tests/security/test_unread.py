"""A refused caller's message is never read."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from greeter.v1 import greeter_pb2 as pb

from meshkit.transport import reception
from tests.security.handmade import ABSENT, Handmade, call
from tests.security.services import GREET

LARGE = pb.GreetRequest(name="x" * 16_000_000).SerializeToString()


class Relay:
    """Stands between caller and service, and counts the bytes on their way in."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._pumps: list[asyncio.Task[None]] = []
        self.address = ""
        self.bytes_in = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(self._host, self._port)
        self._pumps += [
            asyncio.create_task(self._pump(reader, inner_writer, counts=True)),
            asyncio.create_task(self._pump(inner_reader, writer, counts=False)),
        ]

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool
    ) -> None:
        try:
            while data := await reader.read(65536):
                self.bytes_in += len(data) if counts else 0
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    async def ended(self) -> None:
        await asyncio.wait_for(asyncio.gather(*self._pumps), 10)


@asynccontextmanager
async def relay_to(target: str) -> AsyncIterator[Relay]:
    relay = Relay(target)
    listening = await asyncio.start_server(relay.take, "127.0.0.1", 0)
    relay.address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with listening:
        yield relay
        await relay.ended()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the messages that the serving side read."""
    sizes: list[int] = []

    def counted(reader: Callable[..., Callable[[], Awaitable[Any]]]) -> Callable[..., Any]:
        def made(*of: Any) -> Callable[[], Awaitable[Any]]:
            read = reader(*of)

            async def receive() -> Any:
                sizes.append(-1)
                message = await read()
                sizes[-1] = len(message)
                return message

            return receive

        return made

    for name in ("_message", "reading"):  # of a single request, and of a stream of them
        monkeypatch.setattr(reception, name, counted(getattr(reception, name)))
    return sizes


@pytest.mark.parametrize(
    ("by", "sent", "reason"),
    [
        (Handmade("echo"), {"authorization": ABSENT}, "TOKEN_MISSING"),
        (Handmade("echo", "not-the-secret-of-this-mesh-0000000000"), {}, "TOKEN_SIGNATURE"),
        (Handmade("echo"), {"x-cu-proof": ABSENT}, "PROOF_MISSING"),
        (Handmade("echo", offset=-3600), {}, "CLOCK_SKEW"),
        (Handmade("echo", permissions=("other:*",)), {}, "PERMISSION_MISSING"),
        (Handmade("echo", tenants=("other",)), {}, "TENANT_FORBIDDEN"),
        (Handmade("echo"), {"x-cu-to": "echo-of-before"}, "PROOF_MISDIRECTED"),
    ],
)
async def test_the_message_of_a_refused_caller_is_not_read(
    address: str, reads: list[int], by: Handmade, sent: dict[str, Any], reason: str
) -> None:
    headers = by.headers(GREET, LARGE, sent=sent)
    async with relay_to(address) as relay:
        outcome = await call(relay.address, GREET, LARGE, headers)
    assert outcome.reason == reason
    assert reads == []
    assert (
        relay.bytes_in < 12_000_000
    )  # what the connection takes unasked, 8 MiB at times; the rest was never sent


async def test_the_message_of_one_who_is_let_in_is_read_whole(
    address: str, reads: list[int], caller: Handmade
) -> None:
    async with relay_to(address) as relay:
        outcome = await call(relay.address, GREET, LARGE, caller.headers(GREET, LARGE))
    assert outcome.code == "OK"
    assert reads == [len(LARGE)]
    assert relay.bytes_in > len(LARGE)
