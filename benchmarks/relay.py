"""A process that stands between callers and one server: it passes bytes on, until it is told to cut the connections.

Options come as JSON in the first argument: `listen` and `to`, ports of loopback. The order `cut` resets all connections
and refuses new ones, `mend` takes new ones again; each is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys
from typing import cast

CHUNK = 1 << 16
RESET = struct.pack("ii", 1, 0)
"""`SO_LINGER` with no time: closing sends a reset, as a firewall does that rejects."""


class Relay:
    """Passes connections on from one port to another."""

    def __init__(self, listen: int, to: int) -> None:
        self._listen, self._to = listen, to
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def mend(self) -> None:
        """Takes connections."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._listen)

    async def cut(self) -> None:
        """Resets all connections, and takes no others."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            reset(writer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            reset(writer)
        else:
            self._writers.add(back)
            await asyncio.gather(pipe(reader, back), pipe(there, writer))
            self._writers.discard(back)
        self._writers.discard(writer)


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Passes bytes on until either side ends."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    connection = cast(socket.socket, writer.get_extra_info("socket"))
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


async def obey(listen: int, to: int) -> None:
    relay = Relay(listen, to)
    await relay.mend()
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        await {"cut": relay.cut, "mend": relay.mend}[json.loads(line)["order"]]()
        print(json.dumps({}), flush=True)


def main() -> None:
    options = json.loads(sys.argv[1])
    asyncio.run(obey(options["listen"], options["to"]))


if __name__ == "__main__":
    main()
