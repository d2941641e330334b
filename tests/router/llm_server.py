"""A small OpenAI-compatible endpoint over real HTTP whose every answer is scripted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Answer = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """One request, and the way to answer it."""

    headers: dict[str, str]
    body: dict[str, Any]
    writer: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def status(self, code: int, text: str, **headers: str) -> None:
        await self._head(code, {"content-length": str(len(text.encode())), **headers})
        self.writer.write(text.encode())
        await self.writer.drain()

    async def begin(self) -> None:
        await self._head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})

    async def event(self, data: str) -> None:
        payload = f"data: {data}\n\n".encode()
        self.writer.write(f"{len(payload):x}\r\n".encode() + payload + b"\r\n")
        await self.writer.drain()

    async def delta(self, text: str | None, finish: str | None = None) -> None:
        choice = {"index": 0, "delta": {"content": text} if text is not None else {}, "finish_reason": finish}
        await self.event(json.dumps(self._chunk([choice])))

    async def usage(self, read: int, written: int) -> None:
        figures = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        await self.event(json.dumps(self._chunk([]) | {"usage": figures}))

    async def end(self) -> None:
        await self.event("[DONE]")
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}

    async def _head(self, code: int, headers: dict[str, str]) -> None:
        lines = [f"HTTP/1.1 {code} X", *(f"{name}: {value}" for name, value in headers.items())]
        self.writer.write(("\r\n".join(lines) + "\r\nconnection: close\r\n\r\n").encode())
        await self.writer.drain()


@dataclass
class LlmServer:
    url: str = ""
    script: list[Answer] = field(default_factory=list)
    seen: list[Exchange] = field(default_factory=list)
    open: dict[asyncio.Task[Any], asyncio.StreamWriter] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.open[task] = writer
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.split("\r\n")[1:]
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            exchange = Exchange(headers, body, writer)
            self.seen.append(exchange)
            answer = asyncio.ensure_future(self.script.pop(0)(exchange))
            gone = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                exchange.gone.set()
            answer.cancel()
            gone.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            del self.open[task]

    async def close(self) -> None:
        for writer in self.open.values():
            writer.transport.abort()
        await asyncio.gather(*self.open, return_exceptions=True)


@asynccontextmanager
async def llm_server(*script: Answer) -> AsyncGenerator[LlmServer, None]:
    server = LlmServer(script=list(script))
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listener.close()
        await server.close()


def says(*deltas: str, finish: str = "stop") -> Answer:
    async def answer(exchange: Exchange) -> None:
        await exchange.begin()
        for text in deltas:
            await exchange.delta(text)
        await exchange.delta(None, finish)
        await exchange.usage(11, 7)
        await exchange.end()

    return answer


def refuses(code: int, **headers: str) -> Answer:
    body = json.dumps({"error": {"message": "SECRET-OF-THE-ENDPOINT", "code": "x"}})
    return lambda exchange: exchange.status(code, body, **{"content-type": "application/json"}, **headers)


async def hangs(exchange: Exchange) -> None:
    await asyncio.Event().wait()


async def hangs_after_headers(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.delta("")
    await asyncio.Event().wait()


async def hangs_in_the_middle(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.delta("Half of ")
    await asyncio.Event().wait()


async def breaks_in_the_middle(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.delta("Half of ")
    exchange.writer.transport.abort()


async def ends_early(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.delta("Half of ")
    await exchange.end()


async def drops(exchange: Exchange) -> None:
    exchange.writer.transport.abort()


async def garbage(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event("{this is not json")
    await exchange.end()


async def strange_json(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event(json.dumps({"choices": [{"delta": "SECRET-OF-THE-ENDPOINT"}], "usage": "none"}))
    await exchange.end()


async def html(exchange: Exchange) -> None:
    await exchange.status(200, "<html>SECRET-OF-THE-ENDPOINT</html>", **{"content-type": "text/html"})


async def error_in_the_stream(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event(json.dumps({"error": {"message": "SECRET-OF-THE-ENDPOINT"}}))
    await exchange.end()
