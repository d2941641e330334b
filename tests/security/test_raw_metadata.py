"""Metadata that no gRPC client would send, put on the wire by hand, is refused and breaks nothing."""

import asyncio
import struct

import pytest
from structlog.testing import capture_logs

from meshkit.testing import LocalMesh
from tests.security.handmade import SETTINGS, Handmade
from tests.security.services import BODY, GREET, Echo, Front

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(key: bytes, value: bytes) -> bytes:
    """HPACK: a literal header field that is not indexed, without Huffman coding (RFC 7541, 6.2.2)."""
    return b"\x00" + _length(len(key)) + key + _length(len(value)) + value


def _length(size: int) -> bytes:
    if size < 127:
        return bytes([size])
    size, made = size - 127, b"\x7f"
    while size >= 128:
        made, size = made + bytes([size % 128 | 128]), size // 128
    return made + bytes([size])


async def answer(address: str, headers: list[tuple[bytes, bytes]]) -> bytes:
    """What the service sends on a stream with these headers, until that ends."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    base = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", GREET.encode()), (b":authority", b"x")]
    base += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
    block = b"".join(literal(*pair) for pair in base + headers)
    message = b"\x00" + struct.pack(">I", len(BODY)) + BODY
    writer.write(PREFACE + frame(4, 0, 0, b"") + frame(1, 4, 1, block) + frame(0, 1, 1, message))
    said = b""
    try:
        async with asyncio.timeout(10):
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] in (1, 3) and int.from_bytes(head[5:9], "big") == 1:
                    said += payload
                    if head[3] == 3 or head[4] & 1:
                        return said
                if head[3] == 7:
                    return said + payload
    except asyncio.IncompleteReadError:
        return said
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "value", [b"\xc3\xa9", b"\xff\xfe", b"a\nb", b"a\x00b", b"a\rb", b"\xed\xa0\x80"], ids=repr
)
@pytest.mark.parametrize(
    "key", ["authorization", "x-cu-proof", "x-cu-to", "x-cu-tenant", "x-cu-criticality", "x-cu-subject"]
)
async def test_values_that_are_not_visible_ascii_are_refused(
    address: str, caller: Handmade, key: str, value: bytes
) -> None:
    headers = dict(caller.headers(GREET, BODY))
    sent = {name.encode(): text.encode() for name, text in headers.items()}
    sent[key.encode()] = (b"Bearer " if key == "authorization" else b"") + value
    with capture_logs() as logs:
        said = await answer(address, list(sent.items()))
    assert said
    assert b"grpc-status\x010" not in said
    assert [entry for entry in logs if entry["log_level"] in ("error", "critical")] == []


async def test_the_same_bytes_with_visible_values_are_let_in(address: str, caller: Handmade) -> None:
    pairs = [(key.encode(), value.encode()) for key, value in caller.headers(GREET, BODY)]
    said = await answer(address, pairs)
    assert b"grpc-status\x010" in said


@pytest.mark.parametrize("key", [b"baggage", b"tracestate"])
async def test_what_cannot_be_sent_on_breaks_no_call_that_the_service_makes(key: bytes) -> None:
    mesh = LocalMesh(Front, Echo, settings=SETTINGS)
    async with mesh:
        front = next(mesh.service(each).instance for each in mesh.instances if each.startswith("front"))
        assert front is not None
        pairs = [(name.encode(), text.encode()) for name, text in Handmade("front").headers(GREET, BODY)]
        trace = (b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")
        said = await answer(front.address, [*pairs, trace, (key, b"a=\xff\xfe")])
    assert b"grpc-status\x010" in said
