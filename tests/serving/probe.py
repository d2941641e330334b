"""A service to try everything on: its handlers do what the test puts into them, and count what they did."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, wrappers_pb2

from meshkit import Call, CUService, rpc
from meshkit.client import CallOptions, Client, ResponseStream

Text = wrappers_pb2.StringValue

_MESSAGE = ".google.protobuf.StringValue"


def _contract() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="probe/v1/probe.proto",
        package="probe.v1",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    service = file.service.add(name="ProbeService")
    for name, requests, replies, idempotent in (
        ("Read", False, False, True),
        ("Write", False, False, False),
        ("List", False, True, True),
        ("Follow", False, True, False),
        ("Collect", True, False, False),
        ("Merge", True, False, True),
        ("Talk", True, True, False),
    ):
        method = service.method.add(
            name=name,
            input_type=_MESSAGE,
            output_type=_MESSAGE,
            client_streaming=requests,
            server_streaming=replies,
        )
        if idempotent:
            method.options.idempotency_level = descriptor_pb2.MethodOptions.IDEMPOTENT
    pool = descriptor_pool.Default()
    pool.Add(file) if hasattr(pool, "Add") else pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName("probe.v1.ProbeService")


CONTRACT = _contract()

One = Callable[[Text, Call], Awaitable[Text]]


async def echo(request: Text, call: Call) -> Text:
    return Text(value=request.value)


class Probe(CUService, contract=CONTRACT):
    """Does what `behave` says, by method; else echoes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.begun: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.values: Counter[str] = Counter()
        self.calls: list[Call] = []
        self.behave: dict[str, Any] = {}
        self.changed = asyncio.Event()

    def _begin(self, name: str, call: Call) -> None:
        self.begun[name] += 1
        self.calls.append(call)
        self._tell()

    def _end(self, name: str) -> None:
        self.ended[name] += 1
        self._tell()

    def _tell(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until the handlers have got somewhere."""
        async with asyncio.timeout(10):
            while not condition():
                await self.changed.wait()

    async def _one(self, name: str, request: Text, call: Call) -> Text:
        self._begin(name, call)
        try:
            self.values[request.value] += 1
            return await self.behave.get(name, echo)(request, call)
        finally:
            self._end(name)

    @rpc(permission="probe:use")
    async def read(self, request: Text, call: Call) -> Text:
        return await self._one("Read", request, call)

    @rpc(permission="probe:use")
    async def write(self, request: Text, call: Call) -> Text:
        return await self._one("Write", request, call)

    async def _many(self, name: str, request: Text, call: Call) -> AsyncIterator[Text]:
        self._begin(name, call)
        try:
            behave = self.behave.get(name)
            if behave is None:
                for number in range(3):
                    yield Text(value=f"{request.value}{number}")
                return
            async for reply in behave(request, call):
                yield reply
        finally:
            self._end(name)

    @rpc(permission="probe:use")
    async def list(self, request: Text, call: Call) -> AsyncIterator[Text]:
        async for reply in self._many("List", request, call):
            yield reply

    @rpc(permission="probe:use")
    async def follow(self, request: Text, call: Call) -> AsyncIterator[Text]:
        async for reply in self._many("Follow", request, call):
            yield reply

    async def _collect(self, name: str, requests: AsyncIterator[Text], call: Call) -> Text:
        self._begin(name, call)
        try:
            behave = self.behave.get(name)
            if behave is not None:
                return await behave(requests, call)
            return Text(value=",".join([request.value async for request in requests]))
        finally:
            self._end(name)

    @rpc(permission="probe:use")
    async def collect(self, requests: AsyncIterator[Text], call: Call) -> Text:
        return await self._collect("Collect", requests, call)

    @rpc(permission="probe:use")
    async def merge(self, requests: AsyncIterator[Text], call: Call) -> Text:
        return await self._collect("Merge", requests, call)

    @rpc(permission="probe:use")
    async def talk(self, requests: AsyncIterator[Text], call: Call) -> AsyncIterator[Text]:
        self._begin("Talk", call)
        try:
            behave = self.behave.get("Talk")
            if behave is not None:
                async for reply in behave(requests, call):
                    yield reply
                return
            async for request in requests:
                yield Text(value=request.value)
        finally:
            self._end("Talk")


class ProbeClient(Client):
    """As `meshkit gen` would make it."""

    contract = CONTRACT

    def read(self, request: Text, **options: Any) -> Any:
        return self._unary_unary("Read", request, CallOptions(**options))

    def write(self, request: Text, **options: Any) -> Any:
        return self._unary_unary("Write", request, CallOptions(**options))

    def list(self, request: Text, **options: Any) -> ResponseStream[Text]:
        return self._unary_stream("List", request, CallOptions(**options))

    def follow(self, request: Text, **options: Any) -> ResponseStream[Text]:
        return self._unary_stream("Follow", request, CallOptions(**options))

    def collect(self, requests: Any, **options: Any) -> Any:
        return self._stream_unary("Collect", requests, CallOptions(**options))

    def merge(self, requests: Any, **options: Any) -> Any:
        return self._stream_unary("Merge", requests, CallOptions(**options))

    def talk(self, requests: Any, **options: Any) -> ResponseStream[Text]:
        return self._stream_stream("Talk", requests, CallOptions(**options))


class ProbeStub:
    """As grpcio-tools would make it."""

    def __init__(self, channel: Any) -> None:
        for method in CONTRACT.methods:
            arity = (
                f"{'stream' if method.client_streaming else 'unary'}_"
                f"{'stream' if method.server_streaming else 'unary'}"
            )
            made = getattr(channel, arity)(
                f"/{CONTRACT.full_name}/{method.name}",
                request_serializer=Text.SerializeToString,
                response_deserializer=Text.FromString,
                _registered_method=True,
            )
            setattr(self, method.name, made)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


async def gather_values(replies: Any, into: list[str]) -> None:
    async for reply in replies:
        into.append(reply.value)
