"""The greeter: `python examples/greeter/main.py` serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from greeter.v1 import greeter_pb2 as pb

from meshkit import Call, CUService, rpc


class Greeter(CUService, contract=pb.DESCRIPTOR.services_by_name["GreeterService"], port=50060):
    """Greets people, politely."""

    @rpc(permission="greeter:greet", timeout=2.0)
    async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse:
        """Greets one person."""
        return pb.GreetResponse(text=f"Hello {request.name} ({call.tenant})")

    @rpc(permission="greeter:greet")
    async def greet_many(
        self, request: pb.GreetManyRequest, call: Call
    ) -> AsyncIterator[pb.GreetManyResponse]:
        """Greets one person several times."""
        for count in range(request.times or 3):
            yield pb.GreetManyResponse(text=f"Hello {request.name}, for the {count + 1}. time")

    @rpc(permission="greeter:greet")
    async def greet_all(self, requests: AsyncIterator[pb.GreetAllRequest], call: Call) -> pb.GreetAllResponse:
        """Greets all the people of a stream at once."""
        names = [request.name async for request in requests]
        return pb.GreetAllResponse(text=f"Hello {', '.join(names)}")

    @rpc(permission="greeter:greet")
    async def chat(
        self, requests: AsyncIterator[pb.ChatRequest], call: Call
    ) -> AsyncIterator[pb.ChatResponse]:
        """Greets each person as they come."""
        async for request in requests:
            yield pb.ChatResponse(text=f"Hello {request.name}")


if __name__ == "__main__":
    Greeter.run()
