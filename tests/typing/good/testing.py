"""The test of the design's third snippet."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient
from service import Greeter, Phrasebook, open_phrasebook

from meshkit.testing import LocalMesh
from meshkit.testing.pytest_plugin import MakeLocalMesh


@asynccontextmanager
async def fake(service: Greeter) -> AsyncGenerator[Phrasebook, None]:
    yield Phrasebook("Hi")


async def test_it_greets() -> None:
    async with LocalMesh(Greeter, replicas=2, overrides={open_phrasebook: fake}) as mesh:
        reply = await mesh.client(GreeterClient).greet(pb.GreetRequest(name="Ada"))
        assert reply.text == "Hi Ada (local)"


async def test_it_greets_by_the_plugin(local_mesh: MakeLocalMesh) -> None:
    async with local_mesh(Greeter) as mesh:
        assert (await mesh.client(GreeterClient).greet(pb.GreetRequest(name="Ada"))).text
