# ruff: noqa
"""Wrong uses on the serving side; each marked line must be reported."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from greeter.v1 import greeter_pb2 as pb

from meshkit import Call, CUService, SharedConfig, every, resource, rpc


class GreeterConfig(SharedConfig):
    greeter_hello: str = "Hello"


@asynccontextmanager
async def open_number(service: CUService) -> AsyncGenerator[int, None]:
    yield 7


class Greeter(CUService, contract=pb.DESCRIPTOR.services_by_name["GreeterService"], port="50060"):  # error
    config: GreeterConfig
    number = resource(open_number)

    @rpc  # error
    async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse:
        call.tenent  # error
        self.config.greeter_helo  # error
        text: str = self.number  # error
        return pb.ChatResponse(text=text)  # error

    @rpc(permission="greeter:greet", tenant="sometimes")  # error
    async def greet_many(
        self, request: pb.GreetManyRequest, call: Call
    ) -> AsyncIterator[pb.GreetManyResponse]:
        yield pb.GreetResponse(text=request.name)  # error

    @rpc(permission="greeter:greet", timeout="2s")  # error
    async def greet_all(self, requests: AsyncIterator[pb.GreetAllRequest], call: Call) -> pb.GreetAllResponse:
        for request in requests:  # error
            pass
        return pb.GreetAllResponse()

    @rpc(tenant="none")  # error
    async def chat(
        self, requests: AsyncIterator[pb.ChatRequest], call: Call
    ) -> AsyncIterator[pb.ChatResponse]:
        yield pb.ChatResponse(txt="x")  # error

    @every(minutes=5)  # error
    async def refresh(self) -> None: ...


class Misspelt(CUService, contract=pb.DESCRIPTOR.services_by_name["GreeterService"], prt=50060):  # error
    @rpc(permission="greeter:greet", timeot=2.0)  # error
    async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse:
        return pb.GreetResponse()


async def unit_test() -> None:
    service = Greeter()
    service.number = "seven"  # error
