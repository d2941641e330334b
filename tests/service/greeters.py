"""A service that fits its contract, for tests to get something of it wrong."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from greeter.v1 import greeter_pb2 as pb

from meshkit import Call, rpc

CONTRACT = pb.DESCRIPTOR.services_by_name["GreeterService"]


class Good:
    """The four methods, as they should be; a mix-in for classes that get one of them wrong."""

    @rpc(permission="greeter:greet")
    async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse:
        return pb.GreetResponse(text=request.name)

    @rpc(permission="greeter:greet")
    async def greet_many(
        self, request: pb.GreetManyRequest, call: Call
    ) -> AsyncIterator[pb.GreetManyResponse]:
        yield pb.GreetManyResponse(text=request.name)

    @rpc(permission="greeter:greet")
    async def greet_all(self, requests: AsyncIterator[pb.GreetAllRequest], call: Call) -> pb.GreetAllResponse:
        return pb.GreetAllResponse()

    @rpc(permission="greeter:greet")
    async def chat(
        self, requests: AsyncIterator[pb.ChatRequest], call: Call
    ) -> AsyncIterator[pb.ChatResponse]:
        yield pb.ChatResponse()


def fault(make: Callable[[], Any]) -> str:
    with pytest.raises(TypeError) as caught:
        make()
    return str(caught.value)
