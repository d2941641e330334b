"""The messages of a call as the command line gives them: words, files, standard input; JSON in, JSON out."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from os import read
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass

from meshkit.cli.nearest import did_you_mean
from meshkit.cli.output import ExitCode, Failure, note

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message import Message

MAX_BYTES = 64 * 1024 * 1024
"""Largest document, in bytes of JSON; what may be sent is for the mesh's own limit to say."""

STDIN = "-"

_FIELD = re.compile(r"^Failed to parse (\w+) field: ")
_PLACE = re.compile(r" at [\w.\[\]]+\.*$")

_PLAINER = (
    (re.compile(r"^expected string or bytes-like object, got '(\w+)'$"), r"this is to be a string, not \1"),
    (re.compile(r"^invalid literal for int\(\) with base 10: (.*)$"), r"\1 is no whole number"),
    (re.compile(r"^repeated field \w+ must be in \[\] which is (.*)$"), r"this is to be a list, not \1"),
    (re.compile(r"^Invalid enum value (.*) for enum type (.*)$"), r"\1 is no value of the enum \2"),
)
"""What Python and json_format say of a wrong value, in words for people who typed JSON."""


def parse(text: str, kind: Descriptor, pool: DescriptorPool, place: str = "") -> Message:
    """Makes a message of a JSON document.

    Args:
        text: The document, an object.
        kind: What the message is to be.
        pool: Where types are found that an `Any` names.
        place: Where the text is from, for the error.

    Raises:
        Failure: It is no such message; it names the field and what is wrong.
    """
    message: Message = GetMessageClass(kind)()
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict) and not _is_special(kind):
            raise _wrong(place, f"a {kind.name} is an object, such as {{}}, not {_shown(fields)}")
        for fault in _strangers(fields, kind, ""):
            raise _wrong(place, fault)
        json_format.Parse(text, message, descriptor_pool=pool)
    except json_format.ParseError as error:
        raise _wrong(place, _plain(str(error))) from None
    except ValueError as error:
        raise _wrong(place, f"this is not JSON: {error}") from None
    except RecursionError:
        raise _wrong(place, "this is nested too deeply") from None
    return message


def rendered(message: Message, pool: DescriptorPool, *, compact: bool) -> str:
    """Writes a message as JSON, its fields named as in the proto and also shown where they are empty.

    Args:
        message: The message.
        pool: Where types are found that an `Any` names.
        compact: On one line.
    """
    return json_format.MessageToJson(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        ensure_ascii=False,
        indent=None if compact else 2,
        descriptor_pool=pool,
    )


def one(sources: Sequence[str]) -> str:
    """The one document of a call with one request; an empty object where none is given.

    Args:
        sources: JSON, `@file` or `-` for standard input.

    Raises:
        Failure: There are several, or it cannot be read.
    """
    if len(sources) > 1:
        raise _wrong("", f"this method takes one request, here are {len(sources)}")
    return _whole(sources[0]) if sources else "{}"


async def many(sources: Sequence[str]) -> AsyncIterator[tuple[str, str]]:
    """The documents of a stream of requests as they come, each with the place it is from.

    Args:
        sources: JSON each; or `@file` or `-`, which hold a document a line. Standard input where none is given.

    Raises:
        Failure: One cannot be read.
    """
    for number, source in enumerate(sources or (STDIN,), 1):
        if source == STDIN:
            if sys.stdin.isatty():
                note("a JSON document a line, Ctrl-D ends the stream")
            async for place, line in _numbered(_stdin_lines(), "line"):
                yield place, line
        elif source.startswith("@"):
            for at, line in enumerate(_whole(source).splitlines(), 1):
                if line.strip():
                    yield f"{source[1:]}:{at}", line
        else:
            yield f"message {number}", source


def _whole(source: str) -> str:
    if source == STDIN:
        return _decoded(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input")
    if not source.startswith("@"):
        return source
    try:
        with Path(source[1:]).open("rb") as file:
            return _decoded(file.read(MAX_BYTES + 1), source[1:])
    except OSError as error:
        raise _wrong("", f"{source[1:]} cannot be read: {error.strerror}") from None


def _decoded(data: bytes, place: str) -> str:
    if len(data) > MAX_BYTES:
        raise _wrong(place, f"there are more than {MAX_BYTES // 1024 // 1024} MiB")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _wrong(place, f"this is not UTF-8 text, from byte {error.start} on") from None


async def _numbered(lines: AsyncIterator[bytes], name: str) -> AsyncIterator[tuple[str, str]]:
    number = 0
    async for line in lines:
        number += 1
        if line.strip():
            yield f"{name} {number}", _decoded(line, f"{name} {number}")


async def _stdin_lines() -> AsyncIterator[bytes]:
    """Lines of standard input as they are typed. The thread that waits for them does not hold up the end."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes] = asyncio.Queue(1)
    descriptor = sys.stdin.fileno()

    def follow() -> None:
        piece = b"?"
        with suppress(RuntimeError, CancelledError):  # the loop is gone: nobody wants more
            while piece:
                piece = read(descriptor, 64 * 1024)
                asyncio.run_coroutine_threadsafe(pieces.put(piece), loop).result()

    threading.Thread(target=follow, name="meshkit stdin", daemon=True).start()
    rest = b""
    while piece := await pieces.get():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > MAX_BYTES:
            break
    yield rest


def _strangers(value: Any, kind: Descriptor, path: str) -> Iterator[str]:
    """Finds fields that the messages do not have, which json_format reports without what was meant."""
    if _is_special(kind) or not isinstance(value, dict):
        return
    names = {field.name: field for field in kind.fields}
    known = names | {field.json_name: field for field in kind.fields}
    for name, inner in value.items():
        place = f"{path}.{name}" if path else name
        field = known.get(name)
        if field is None and not name.startswith("["):
            has = f"it has {', '.join(names)}" if names else "it has no fields"
            yield f"{place}: {kind.name} has no such field{did_you_mean(name, names)}\n  {has}"
        elif field is not None and field.message_type is not None:
            yield from _strangers_within(inner, field, field.message_type, place)


def _strangers_within(value: Any, field: FieldDescriptor, kind: Descriptor, place: str) -> Iterator[str]:
    if kind.GetOptions().map_entry:
        of_values = kind.fields_by_name["value"].message_type
        if of_values is not None and isinstance(value, Mapping):
            for key, inner in value.items():
                yield from _strangers(inner, of_values, f"{place}[{key!r}]")
    elif field.is_repeated and isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _strangers(inner, kind, f"{place}[{index}]")
    else:
        yield from _strangers(value, kind, place)


def _is_special(kind: Descriptor) -> bool:
    """Whether JSON writes the message in a way of its own (Timestamp, Struct, wrappers, …)."""
    return kind.file.package == "google.protobuf"


def _plain(text: str) -> str:
    """Makes `cells.text: …` of json_format's nested sentences."""
    path = []
    while found := _FIELD.match(text):
        path.append(found[1])
        text = text[found.end() :]
    text = _PLACE.sub("", text.rstrip(".")).rstrip(".")
    for theirs, ours in _PLAINER:
        text = theirs.sub(ours, text)
    return f"{'.'.join(path)}: {text}" if path else text


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _wrong(place: str, what: str) -> Failure:
    return Failure(f"{place}: {what}" if place else what, code=ExitCode.USAGE)
