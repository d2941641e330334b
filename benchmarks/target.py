"""The service that the balancing benchmarks call: `Read` may run twice, `Write` may not; by the mesh, and bare.

Both kinds of server do the same `Work`: they note the call in a journal that outlives a killed process, take as long
as they were told, and answer with their name.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, wrappers_pb2

from meshkit import Call, CUService, Unavailable, rpc
from meshkit.call import Criticality
from meshkit.client import CallOptions, Client

Text = wrappers_pb2.StringValue

SERVICE = "target.v1.TargetService"
METHODS = ("Read", "Write")


def _contract() -> Any:
    message = ".google.protobuf.StringValue"
    file = descriptor_pb2.FileDescriptorProto(
        name="target/v1/target.proto",
        package="target.v1",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    service = file.service.add(name="TargetService")
    read = service.method.add(name="Read", input_type=message, output_type=message)
    read.options.idempotency_level = descriptor_pb2.MethodOptions.IDEMPOTENT
    service.method.add(name="Write", input_type=message, output_type=message)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName(SERVICE)


CONTRACT = _contract()


class Failing(Exception):
    """The server was told to fail."""


class Work:
    """What a server does with a call.

    Args:
        name: What it answers.
        journal: File to which each call is noted before it is worked on.
        seconds: How long each call takes.

    Attributes:
        failing: Whether each call fails at once.
    """

    def __init__(self, name: str, journal: Path, seconds: float = 0.0) -> None:
        self.name = name
        self.seconds = seconds
        self.failing = False
        self._journal = os.open(journal, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)

    async def do(self, method: str, call_id: str) -> str:
        """Works.

        Raises:
            Failing: It was told to.
        """
        os.write(self._journal, f"{method} {call_id}\n".encode())
        if self.failing:
            raise Failing
        if self.seconds:
            await asyncio.sleep(self.seconds)
        return self.name

    def close(self) -> None:
        os.close(self._journal)


def ran_twice(journals: Path) -> int:
    """How many calls of `Write` all servers that wrote into a folder began more than once."""
    begun: Counter[str] = Counter()
    for journal in journals.iterdir():
        begun.update(line for line in journal.read_text().splitlines() if line.startswith("Write "))
    return sum(times > 1 for times in begun.values())


class Target(CUService, contract=CONTRACT):
    """The target, in the mesh."""

    work: Work

    async def _do(self, method: str, request: Text) -> Text:
        try:
            return Text(value=await self.work.do(method, request.value))
        except Failing:
            raise Unavailable("told to fail") from None

    @rpc(permission="target:use")
    async def read(self, request: Text, call: Call) -> Text:
        """May run twice."""
        return await self._do("Read", request)

    @rpc(permission="target:use")
    async def write(self, request: Text, call: Call) -> Text:
        """May not."""
        return await self._do("Write", request)


class TargetClient(Client):
    """As `meshkit gen` would make it."""

    contract = CONTRACT

    def read(self, request: Text, **options: Any) -> Any:
        return self._unary_unary("Read", request, _options(**options))

    def write(self, request: Text, **options: Any) -> Any:
        return self._unary_unary("Write", request, _options(**options))


def _options(*, tenant: str, timeout: float, criticality: Criticality = "default") -> CallOptions:
    return CallOptions(tenant=tenant, timeout=timeout, criticality=criticality)


def bare_handlers(work: Work) -> Any:
    """The target as grpc.aio alone serves it."""

    def handler(method: str) -> Any:
        async def handle(request: Text, context: Any) -> Text:
            try:
                return Text(value=await work.do(method, request.value))
            except Failing:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "told to fail")
                raise

        return grpc.unary_unary_rpc_method_handler(
            handle, request_deserializer=Text.FromString, response_serializer=Text.SerializeToString
        )

    return {method: handler(method) for method in METHODS}


BareCall = Callable[..., Awaitable[Any]]


def bare_calls(channel: grpc.aio.Channel) -> dict[str, BareCall]:
    """The target's methods over a channel of grpc.aio."""
    return {
        method: channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=Text.SerializeToString,
            response_deserializer=Text.FromString,
        )
        for method in METHODS
    }
