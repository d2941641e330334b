"""What a server says of its contracts: the calling side of server reflection (v1alpha, as grpcio serves it)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from grpc.aio import EOF, AioRpcError, Channel
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from meshkit.errors import Internal
from meshkit.transport.status import WRITE_FAILED, error_from

MAX_FILES = 1000
"""Proto files that are taken from one server at most."""

ATTEMPTS = 3
"""Conversations that are begun at most where a refusal overtakes the question, of which gRPC does not always tell."""

_OF_GRPC = ("grpc.health.", "grpc.reflection.")


@dataclass(frozen=True, slots=True)
class Contracts:
    """The contracts that a server serves, with all the messages they need.

    Attributes:
        services: Descriptor of each gRPC service by its full name; health and reflection are not among them.
        pool: Where their messages are found. It is apart from this process's own, so nothing here can clash with
            it.
    """

    services: dict[str, ServiceDescriptor]
    pool: DescriptorPool = field(repr=False)


async def reflect(channel: Channel, name: str, *, timeout: float) -> Contracts:
    """Asks at the other end of a channel what is served there.

    Args:
        channel: The channel; such as `mesh.channel(…, permissions=["mesh:inspect"])`, which asks one of the instances.
        name: What to call the other end in errors.
        timeout: Seconds that all of it may take.

    Raises:
        MeshError: It does not answer, or not us, serves no reflection, or answers with what does not fit together.
    """
    make_stub: Any = reflection_pb2_grpc.ServerReflectionStub  # typed for blocking channels only
    stub, ends, asked = make_stub(channel), time.monotonic() + timeout, 0
    while True:
        asked += 1
        questions: asyncio.Queue[Any] = asyncio.Queue()
        call = stub.ServerReflectionInfo(_each(questions), timeout=ends - time.monotonic())
        try:
            return await _Conversation(call, questions, name).contracts()
        except AioRpcError as error:
            if error.details() != WRITE_FAILED or asked == ATTEMPTS:
                raise error_from(error.code(), error.details(), error.trailing_metadata()) from error
        finally:
            call.cancel()


async def _each(questions: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    """The questions as they come."""
    while True:
        yield await questions.get()


class _Conversation:
    """Questions and answers of one reflection stream."""

    def __init__(self, call: Any, questions: asyncio.Queue[Any], name: str) -> None:
        self._call = call
        self._questions = questions
        self._name = name
        self._files: dict[str, FileDescriptorProto] = {}

    async def contracts(self) -> Contracts:
        listed = await self._ask(list_services="")
        names = [each.name for each in listed.list_services_response.service]
        described = [name for name in names if not name.startswith(_OF_GRPC) and await self._describe(name)]
        await self._fetch_imports()
        pool = self._pool()
        return Contracts({name: self._service(pool, name) for name in sorted(described)}, pool)

    async def _describe(self, name: str) -> bool:
        """Takes the file that declares a service; False where the server lists it without knowing it."""
        return self._take(await self._ask(file_containing_symbol=name))

    async def _fetch_imports(self) -> None:
        """Asks for what files import and the server did not send along, as not all servers do."""
        while missing := self._missing():
            for name in missing:
                if not self._take(await self._ask(file_by_filename=name)) or name not in self._files:
                    raise self._fault(f"does not know the file {name}, which its own files import")

    def _missing(self) -> set[str]:
        return {name for file in self._files.values() for name in file.dependency}.difference(self._files)

    async def _ask(self, **question: Any) -> Any:
        self._questions.put_nowait(reflection_pb2.ServerReflectionRequest(**question))
        answer = await self._call.read()
        if answer is EOF:
            raise self._fault("ended the conversation")
        return answer

    def _take(self, answer: Any) -> bool:
        for raw in answer.file_descriptor_response.file_descriptor_proto:
            try:
                file = FileDescriptorProto.FromString(raw)
            except DecodeError:
                raise self._fault("sent a file that is none") from None
            self._files.setdefault(file.name, file)
        if len(self._files) > MAX_FILES:
            raise self._fault(f"describes its contracts in more than {MAX_FILES} files")
        return not answer.HasField("error_response")

    def _pool(self) -> DescriptorPool:
        """Builds the descriptors, imports before what imports them."""
        pool = DescriptorPool()
        left = dict(self._files)
        while left:
            complete = [name for name, file in left.items() if not left.keys() & set(file.dependency)]
            if not complete:
                raise self._fault(f"has files that import each other: {', '.join(sorted(left))}")
            for name in complete:
                try:
                    pool.Add(left.pop(name))
                except TypeError as error:
                    raise self._fault(f"sent a file that does not fit the others: {name}") from error
        return pool

    def _service(self, pool: DescriptorPool, name: str) -> ServiceDescriptor:
        try:
            return pool.FindServiceByName(name)
        except KeyError:
            raise self._fault(f"sent files that do not declare {name}") from None

    def _fault(self, what: str) -> Internal:
        return Internal(f"reflection of {self._name} {what}", reason="REFLECTION_BROKEN")
