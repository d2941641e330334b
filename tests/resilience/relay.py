"""A TCP relay whose connections can be cut, as a firewall does that begins to reject them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import cast

CHUNK = 1 << 16

RESET = struct.pack("ii", 1, 0)
"""`SO_LINGER` with no time: closing sends a reset."""


class Relay:
    """Passes bytes between its own port and another, both on loopback.

    Args:
        to: The port behind it.
        listen: Its own port; 0 for one that is free.
    """

    def __init__(self, to: int, listen: int = 0) -> None:
        self._to, self._listen = to, listen
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._passing = asyncio.Event()
        self._passing.set()

    async def start(self) -> str:
        """Takes connections, at first or again; the address."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._listen)
        self._listen = self._server.sockets[0].getsockname()[1]
        return f"127.0.0.1:{self._listen}"

    def cut(self) -> int:
        """Resets all connections; how many there were. New ones are let through."""
        writers = list(self._writers)
        for writer in writers:
            _reset(writer)
        return len(writers) // 2

    def shut(self) -> None:
        """Resets all connections, and refuses others until it is started again."""
        if self._server is not None:
            self._server.close()
        self.cut()

    def hold(self) -> None:
        """Keeps what comes, until it is released."""
        self._passing.clear()

    def release(self) -> None:
        """Passes on what was held."""
        self._passing.set()

    async def close(self) -> None:
        """Ends all."""
        self.release()
        self.shut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            _reset(writer)
            return
        if self._server is None or not self._server.is_serving():
            _reset(writer)
            _reset(behind_writer)
            return
        self._writers |= {writer, behind_writer}
        for source, sink in ((reader, behind_writer), (behind_reader, writer)):
            task = asyncio.create_task(self._pass(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Passes bytes on until either side ends."""
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK):
                await self._passing.wait()
                sink.write(data)
                await sink.drain()
        self._writers.discard(sink)
        sink.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = cast(socket.socket, writer.get_extra_info("socket"))
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
