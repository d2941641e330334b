# ruff: noqa
"""Wrong uses in a unit test; each marked line must be reported."""

from greeter.v1 import greeter_pb2 as pb
from main import Greeter

from meshkit import Call


async def unit_test() -> None:
    service = Greeter()
    await service.greet(pb.ChatRequest(), Call.for_test())  # error
    await service.greet(pb.GreetRequest())  # error
    (await service.greet(pb.GreetRequest(), Call.for_test())).txt  # error
    await service.greet_many(pb.GreetManyRequest(), Call.for_test())  # error
    Call(tenant="acme")  # error
