"""The service of the design's first snippet."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient
from pydantic import Field

from meshkit import (
    PUBLIC,
    Call,
    CUService,
    Exchange,
    Handler,
    NotFound,
    PermissionDenied,
    Runtime,
    SharedConfig,
    every,
    resource,
    rpc,
)


class GreeterConfig(SharedConfig):
    greeter_hello: str = Field(default="Hello", description="How to greet.")


@dataclass
class Phrasebook:
    hello: str


@asynccontextmanager
async def open_phrasebook(service: "Greeter") -> AsyncGenerator[Phrasebook, None]:
    yield Phrasebook(service.config.greeter_hello)


def loud(next: Handler) -> Handler:
    async def handle(exchange: Exchange) -> None:
        exchange.call.log.info("called", method=exchange.method.name)
        await next(exchange)

    return handle


class Greeter(
    CUService, contract=pb.DESCRIPTOR.services_by_name["GreeterService"], port=50060, middleware=(loud,)
):
    """Greets people, politely."""

    config: GreeterConfig
    phrases = resource(open_phrasebook)

    async def authorize(self, call: Call) -> None:
        if call.principal is not None and call.principal.name == "mallory":
            raise PermissionDenied("not you", reason="NOT_YOU")

    @rpc(permission="greeter:greet", timeout=2.0)
    async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse:
        if not request.name:
            raise NotFound("nobody to greet", reason="NAME_MISSING", tenant=call.tenant)
        remaining: float = call.deadline.remaining()
        self.log.info("greeting", remaining=remaining, instance=self.instance.instance_id)
        return pb.GreetResponse(text=f"{self.phrases.hello} {request.name} ({call.tenant})")

    @rpc(permission="greeter:greet")
    async def greet_many(
        self, request: pb.GreetManyRequest, call: Call
    ) -> AsyncIterator[pb.GreetManyResponse]:
        for _ in range(3):
            yield pb.GreetManyResponse(text=request.name)

    @rpc(permission=PUBLIC, tenant="optional")
    async def greet_all(self, requests: AsyncIterator[pb.GreetAllRequest], call: Call) -> pb.GreetAllResponse:
        return pb.GreetAllResponse(text=", ".join([request.name async for request in requests]))

    @rpc(permission="greeter:greet")
    async def chat(
        self, requests: AsyncIterator[pb.ChatRequest], call: Call
    ) -> AsyncIterator[pb.ChatResponse]:
        peer = self.mesh.client(GreeterClient)
        async for request in requests:
            with self.mesh.scope(tenant="acme", as_self=True):
                reply = await peer.greet(pb.GreetRequest(name=request.name))
            yield pb.ChatResponse(text=reply.text)

    @every(seconds=30)
    async def refresh(self) -> None: ...


async def unit_test() -> str:
    service = Greeter(config=GreeterConfig())
    service.phrases = Phrasebook("Hi")
    reply = await service.greet(pb.GreetRequest(name="Ada"), Call.for_test(tenant="acme"))
    return reply.text


if __name__ == "__main__":
    Greeter.run()
    Runtime(Greeter).run()
