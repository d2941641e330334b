"""Services that say who they were called by."""

import json
from collections.abc import AsyncIterator

from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient

from meshkit import PUBLIC, Call, CUService, Principal, rpc

CONTRACT = pb.DESCRIPTOR.services_by_name["GreeterService"]
GREET = "/greeter.v1.GreeterService/Greet"
GREET_MANY = "/greeter.v1.GreeterService/GreetMany"
GREET_ALL = "/greeter.v1.GreeterService/GreetAll"
CHAT = "/greeter.v1.GreeterService/Chat"
BODY = pb.GreetRequest(name="Ada").SerializeToString()


def seen(call: Call) -> str:
    def who(principal: Principal | None) -> object:
        if principal is None:
            return None
        rights = [sorted(principal.permissions), sorted(principal.tenants)]
        return [principal.project, principal.name, *rights]

    facts = {
        "principal": who(call.principal),
        "subject": who(call.subject),
        "tenant": call.tenant,
        "criticality": call.criticality,
        "metadata": sorted(call.metadata),
    }
    return json.dumps(facts)


class Echo(CUService, contract=CONTRACT, name="echo", port=50991):
    """Tells each caller what it sees of the call."""

    @rpc(permission="echo:greet")
    async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse:
        if request.name.startswith("break"):
            raise RuntimeError("a cause that stays inside")
        return pb.GreetResponse(text=seen(call))

    @rpc(permission=PUBLIC)
    async def greet_many(
        self, request: pb.GreetManyRequest, call: Call
    ) -> AsyncIterator[pb.GreetManyResponse]:
        yield pb.GreetManyResponse(text=seen(call))

    @rpc(permission="echo:collect")
    async def greet_all(self, requests: AsyncIterator[pb.GreetAllRequest], call: Call) -> pb.GreetAllResponse:
        names = [request.name async for request in requests]
        return pb.GreetAllResponse(text=json.dumps(names))

    @rpc(permission="echo:chat", tenant="none")
    async def chat(
        self, requests: AsyncIterator[pb.ChatRequest], call: Call
    ) -> AsyncIterator[pb.ChatResponse]:
        yield pb.ChatResponse(text=seen(call))


class Front(CUService, contract=CONTRACT, name="front", port=50992):
    """Calls `echo`, or itself first, for its caller; the request's name says how."""

    @rpc(permission="front:greet")
    async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse:
        how, _, rest = request.name.partition(",")
        if how == "twice":
            other = self.mesh.client(GreeterClient, service="front")
            return await other.greet(pb.GreetRequest(name=rest))
        echo = self.mesh.client(GreeterClient, service="echo")
        if how == "self":
            with self.mesh.scope(as_self=True):
                return await echo.greet(pb.GreetRequest(name=rest))
        if how == "detached":
            with self.mesh.scope(detached=True):
                return await echo.greet(pb.GreetRequest(name=rest))
        if how == "tenant":
            return await echo.greet(pb.GreetRequest(), tenant=rest)
        return await echo.greet(pb.GreetRequest(name=rest))

    @rpc(permission=PUBLIC)
    async def greet_many(
        self, request: pb.GreetManyRequest, call: Call
    ) -> AsyncIterator[pb.GreetManyResponse]:
        reply = await self.mesh.client(GreeterClient, service="echo").greet(pb.GreetRequest())
        yield pb.GreetManyResponse(text=reply.text)

    @rpc(permission="front:collect")
    async def greet_all(self, requests: AsyncIterator[pb.GreetAllRequest], call: Call) -> pb.GreetAllResponse:
        return pb.GreetAllResponse()

    @rpc(permission="front:chat")
    async def chat(
        self, requests: AsyncIterator[pb.ChatRequest], call: Call
    ) -> AsyncIterator[pb.ChatResponse]:
        yield pb.ChatResponse()
