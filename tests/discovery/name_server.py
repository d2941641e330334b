"""A name server for one name, authoritative and tiny (RFC 1035), that answers as the test says."""

import asyncio
import contextlib
import ipaddress
import secrets
import struct
from collections.abc import AsyncIterator
from typing import Any

NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5
_A, _AAAA, _IN = 1, 28, 1


class NameServer(asyncio.DatagramProtocol):
    """Answers questions for one name.

    Attributes:
        addresses: The addresses of the name, of both families.
        code: The answer's code; None answers nothing at all.
        questions: How many came.
    """

    def __init__(self, name: str) -> None:
        self.addresses: list[str] = []
        self.code: int | None = NOERROR
        self.questions = 0
        self._name = name.encode()
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.questions += 1
        if self.code is not None:
            self._transport.sendto(self._answer(data), addr)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length])
            at += 1 + length
        kind = struct.unpack_from("!H", query, at + 1)[0]
        code = self.code if b".".join(labels).lower() == self._name else NXDOMAIN
        rows = self._rows(kind) if code == NOERROR else []
        head = struct.pack("!2sHHHHH", query[:2], 0x8580 | (code or 0), 1, len(rows), 0, 0)
        return head + query[12 : at + 5] + b"".join(rows)

    def _rows(self, kind: int) -> list[bytes]:
        packed = [ipaddress.ip_address(address).packed for address in self.addresses]
        size = {_A: 4, _AAAA: 16}.get(kind)
        return [
            struct.pack("!HHHIH", 0xC00C, kind, _IN, 0, len(data)) + data
            for data in packed
            if len(data) == size
        ]


@contextlib.asynccontextmanager
async def serving(name: str) -> AsyncIterator[tuple[NameServer, str]]:
    """A name server at port 53 of some address of loopback.

    Raises:
        OSError: That cannot be had.
    """
    server = NameServer(name)
    host = "127.53." + ".".join(str(1 + secrets.randbelow(254)) for _ in range(2))
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: server, local_addr=(host, 53)
    )
    try:
        yield server, host
    finally:
        transport.close()
