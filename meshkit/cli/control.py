"""The control socket of a running mesh: its owner's other programs ask it for things there.

A connection carries one request and one answer, each a JSON object on a line. The connection stays open until the
answer has come: who closes it earlier has given up, and what was being waited for on its behalf is cancelled. Only the
user who runs the mesh can connect (mode 0600).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from meshkit.errors import (
    BY_CODE,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MeshError,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
    Unknown,
)

log = structlog.get_logger("meshkit.control")

SOCKET = "up.sock"
"""The socket's name in the state folder."""

MAX_LINE_BYTES = 65536
"""Length of a request or an answer at most."""

MAX_CONNECTIONS = 16
"""Connections at a time."""

REQUEST_S = 5.0
"""Seconds in which a connection must have sent its request."""

ACCEPT_AGAIN_S = 1.0
"""Seconds until connections are accepted again where the system had no room for one."""

MAX_ADDRESS_BYTES = 103
"""Length of a path that every system takes as a socket's address: Linux takes 107 bytes, macOS and BSD 103."""

JsonObject = dict[str, Any]
Verb = Callable[[JsonObject], Awaitable[JsonObject]]
"""What serves a kind of request: takes its fields, returns those of the answer, raises a `MeshError` to refuse."""


@asynccontextmanager
async def control_socket(path: Path, verbs: Mapping[str, Verb]) -> AsyncIterator[None]:
    """Serves requests at a path for as long as the block lasts. What stands at the path already is replaced.

    The caller sees to it that no other process serves there.

    Args:
        path: The socket's path, in a folder of the owner's.
        verbs: What serves a request, by the request's `verb`.

    Raises:
        FailedPrecondition: The path is too long for a socket on this system.
        OSError: The socket cannot be made.
    """
    listening = _listening(path)
    accepting = asyncio.create_task(_accept(listening, verbs), name="meshkit control socket")
    try:
        yield
    finally:
        accepting.cancel()
        await asyncio.wait([accepting])
        listening.close()
        _remove(path)


async def ask(path: Path, verb: str, fields: JsonObject, *, timeout: float) -> JsonObject:
    """Asks the mesh that serves at the path, and returns the fields of its answer.

    Args:
        path: The socket's path.
        verb: What is asked for.
        fields: The rest of the request.
        timeout: Seconds in which the answer must have come.

    Raises:
        Unavailable: No mesh serves there (reason `NO_MESH_IS_UP`), it ended before it answered, or does not answer.
        MeshError: What the mesh refused with.
    """
    line = _line({"verb": verb, **fields})
    try:
        async with asyncio.timeout(timeout):
            answer = await _exchange(path, line)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise Unavailable(f"no mesh is up: nobody serves {path}", reason="NO_MESH_IS_UP") from None
    except PermissionError:
        raise PermissionDenied(f"{path} belongs to another user", reason="NOT_OURS") from None
    except TimeoutError:
        raise Unavailable(
            f"the mesh did not answer at {path} within {timeout:g} s", reason="NO_ANSWER"
        ) from None
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"the mesh's answer at {path} cannot be read: {error}", reason="NO_ANSWER"
        ) from None
    if not answer:
        raise Unavailable("the mesh ended before it answered", reason="MESH_ENDED")
    return _opened(answer)


async def _exchange(path: Path, line: bytes) -> bytes:
    with _address(path) as address:
        reader, writer = await asyncio.open_unix_connection(address, limit=MAX_LINE_BYTES)
    try:
        writer.write(line)
        return await reader.readline()
    finally:
        writer.close()


async def _accept(listening: socket.socket, verbs: Mapping[str, Verb]) -> None:
    """Serves each connection in a task of its own, until cancelled; they end with it."""
    loop = asyncio.get_running_loop()
    connections: set[asyncio.Task[None]] = set()
    try:
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:  # out of descriptors: whoever holds them may let go
                log.warning("the control socket cannot accept", reason=str(error))
                await asyncio.sleep(ACCEPT_AGAIN_S)
                continue
            crowded = len(connections) >= MAX_CONNECTIONS
            task = asyncio.create_task(_connected(connection, verbs, crowded=crowded))
            connections.add(task)
            task.add_done_callback(connections.discard)
            task.add_done_callback(partial(_close, connection))
    finally:
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _connected(connection: socket.socket, verbs: Mapping[str, Verb], *, crowded: bool) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=MAX_LINE_BYTES)
    try:
        await _serve(reader, writer, verbs, crowded=crowded)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, verbs: Mapping[str, Verb], *, crowded: bool
) -> None:
    try:
        if crowded:
            raise ResourceExhausted(f"{MAX_CONNECTIONS} requests are under way already: try again later")
        verb, fields = await _request(reader)
        if verb not in verbs:
            raise Unimplemented(
                f"this mesh cannot {verb!r}: it can {', '.join(verbs)}", reason="NO_SUCH_VERB"
            )
        answer = await _unless_left(reader, verbs[verb](fields))
        if answer is None:
            return
        line = _line({"ok": answer})
    except MeshError as error:
        line = _line({"error": {"code": error.code, "reason": error.reason, "message": error.message}})
    with contextlib.suppress(ConnectionError):  # who left needs no answer
        writer.write(line)
        await writer.drain()


async def _request(reader: asyncio.StreamReader) -> tuple[str, JsonObject]:
    """Reads a request: its verb and its fields.

    Raises:
        InvalidArgument: It is none, or does not come in time.
    """
    try:
        async with asyncio.timeout(REQUEST_S):
            line = await reader.readuntil(b"\n")
        request = json.loads(line)
        if isinstance(request, dict) and isinstance(verb := request.pop("verb", None), str):
            return verb, request
        why = 'it is not a JSON object with a "verb"'
    except TimeoutError:
        why = f"it did not come within {REQUEST_S:g} s"
    except asyncio.IncompleteReadError:
        why = "it does not end with a newline"
    except asyncio.LimitOverrunError:
        why = f"it is longer than {MAX_LINE_BYTES} bytes"
    except ValueError as error:
        why = f"it is not JSON ({error})"
    raise InvalidArgument(f"the request is refused: {why}", reason="BAD_REQUEST")


async def _unless_left(reader: asyncio.StreamReader, work: Awaitable[JsonObject]) -> JsonObject | None:
    """Awaits the work, and cancels it when the other side closes the connection: None then.

    Raises:
        MeshError: What the work refuses with; `Internal` where it has a defect, which is logged here.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    except MeshError:
        raise
    except Exception:
        log.error("a request failed", exception=traceback.format_exc())
        raise Internal(
            "the mesh has a defect here; its own terminal says more", reason="REQUEST_FAILED"
        ) from None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def _opened(line: bytes) -> JsonObject:
    """The fields of an answer; raises what it was refused with."""
    try:
        answer = json.loads(line)
        if isinstance(ok := answer.get("ok"), dict):
            return ok
        error = answer["error"]
        kind = BY_CODE.get(error["code"], Unknown)
        refusal = kind(str(error["message"]), reason=str(error["reason"]))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise Unavailable("what the mesh answered makes no sense: is it another release?") from None
    raise refusal


def _line(message: JsonObject) -> bytes:
    line = json.dumps(message, ensure_ascii=False).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise InvalidArgument(f"{len(line)} bytes are too much: at most {MAX_LINE_BYTES}", reason="TOO_LONG")
    return line


def _listening(path: Path) -> socket.socket:
    """Nobody can connect before the socket listens, so nobody does before it is the owner's alone."""
    _remove(path)
    listening = socket.socket(socket.AF_UNIX)
    try:
        with _address(path) as address:
            listening.bind(address)
        path.chmod(0o600)
        listening.listen(MAX_CONNECTIONS)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def _close(connection: socket.socket, _: object) -> None:
    """Closes a connection also where its task was cancelled before it began."""
    connection.close()


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """The path as an address; where it is too long for one, by way of its folder's descriptor (Linux)."""
    if len(os.fsencode(path)) <= MAX_ADDRESS_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{folder}"
        if not os.path.isdir(short):
            raise FailedPrecondition(
                f"{path} is too long for a socket ({MAX_ADDRESS_BYTES} bytes at most on this system): "
                "name a shorter state folder in CU_STATE_DIR",
                reason="PATH_TOO_LONG",
            )
        yield f"{short}/{path.name}"
    finally:
        os.close(folder)
