# ruff: noqa
"""Wrong uses on the calling side; each marked line must be reported."""

from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient
from greeter.v1.greeter_pb2_grpc import GreeterServiceStub

from meshkit import Mesh


async def main(mesh: Mesh) -> None:
    greeter = mesh.client(GreeterClient)
    await greeter.greet(pb.ChatRequest(name="Ada"))  # error
    await greeter.greet(pb.GreetRequest(name="Ada"), tenent="acme")  # error
    await greeter.greet(pb.GreetRequest(name="Ada"), timeout="2s")  # error
    await greeter.greet(pb.GreetRequest(name="Ada"), criticality="low")  # error
    await greeter.great(pb.GreetRequest(name="Ada"))  # error
    (await greeter.greet(pb.GreetRequest(name="Ada"))).txt  # error
    await greeter.greet_many(pb.GreetManyRequest())  # error
    await greeter.greet_all(pb.GreetAllRequest())  # error
    for reply in greeter.greet_many(pb.GreetManyRequest()):  # error
        pass
    mesh.client(GreeterServiceStub)  # error
    mesh.scope(criticality="low")  # error
    stub = GreeterServiceStub(mesh.channel("greeter"))
    number: int = (await stub.Greet(pb.GreetRequest(name="Ada"))).text  # error
    print(number)
