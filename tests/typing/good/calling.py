"""The caller of the design's second snippet, with stubs and with a typed client."""

from collections.abc import AsyncIterator

from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient
from greeter.v1.greeter_pb2_grpc import GreeterServiceStub

from meshkit import Mesh, MeshError, NotFound, Unavailable


async def names() -> AsyncIterator[pb.GreetAllRequest]:
    yield pb.GreetAllRequest(name="Ada")


async def chatter() -> AsyncIterator[pb.ChatRequest]:
    yield pb.ChatRequest(name="Ada")


async def main() -> None:
    async with Mesh.from_env() as mesh:
        stub = GreeterServiceStub(mesh.channel("greeter"))
        reply = await stub.Greet(pb.GreetRequest(name="Ada"), timeout=2)
        text: str = reply.text
        async for each in stub.GreetMany(pb.GreetManyRequest(name="Ada")):
            text = each.text
        with mesh.scope(tenant="acme", criticality="sheddable"):
            await stub.GreetAll(names())

        greeter = mesh.client(GreeterClient)
        trailers: dict[str, str] = {}
        reply = await greeter.greet(
            pb.GreetRequest(name="Ada"), tenant="acme", timeout=2, criticality="critical", trailers=trailers
        )
        async for many in greeter.greet_many(pb.GreetManyRequest(name="Ada")):
            text = many.text
        text = (await greeter.greet_all(names())).text
        async with greeter.chat(chatter()) as replies:
            async for answer in replies:
                text = answer.text
            instance: str | None = replies.instance
        print(text, instance)
        try:
            await greeter.greet(pb.GreetRequest())
        except NotFound as error:
            print(error.reason, error.details)
        except Unavailable:
            pass
        except MeshError as error:
            print(error.code)
