"""The table of README.md: what bare grpc.aio does, and what the mesh does, each seen once side by side."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as bare
from greeter.v1.greeter_client import GreeterClient

from meshkit import Call, CUService, Internal, Mesh, NotFound, SharedConfig, Unavailable, rpc
from meshkit.discovery.memory import MemoryRegistry
from meshkit.replica import Replica
from meshkit.testing import LocalMesh
from meshkit.transport.server import PortTaken

CONTRACT = pb.DESCRIPTOR.services_by_name["GreeterService"]


class Fragile(CUService, contract=CONTRACT):
    """Fails in the ways that the tests need."""

    started: asyncio.Event
    go_on: asyncio.Event

    @rpc(permission="greeter:greet")
    async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse:
        match request.name:
            case "leak":
                raise ValueError("password=hunter2")
            case "nobody":
                raise NotFound("there is no such person", reason="PERSON_UNKNOWN", name=request.name)
            case "slow":
                self.started.set()
                await self.go_on.wait()
            case "relay":
                answer = await self.mesh.client(GreeterClient, service="greeter").greet(
                    pb.GreetRequest(name="left"), timeout=30
                )
                return pb.GreetResponse(text=answer.text)
            case "left":
                return pb.GreetResponse(text=str(call.deadline.remaining()))
        return pb.GreetResponse(text=f"Hello {request.name} ({call.tenant})")

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
        async for request in requests:
            yield pb.ChatResponse(text=request.name)


class BareGreeter(bare.GreeterServiceServicer):
    address: str
    started: asyncio.Event
    go_on: asyncio.Event

    async def Greet(self, request: pb.GreetRequest, context: Any) -> pb.GreetResponse:
        match request.name:
            case "leak":
                raise ValueError("password=hunter2")
            case "slow":
                self.started.set()
                await self.go_on.wait()
            case "relay":
                async with grpc.aio.insecure_channel(self.address) as channel:
                    return await bare.GreeterServiceStub(channel).Greet(pb.GreetRequest(name="left"))
            case "left":
                return pb.GreetResponse(text=str(context.time_remaining()))
        return pb.GreetResponse(text=f"Hello {request.name}")


@asynccontextmanager
async def bare_server() -> AsyncIterator[str]:
    server = grpc.aio.server()
    servicer = BareGreeter()
    bare.add_GreeterServiceServicer_to_server(servicer, server)
    address = servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield address
    finally:
        await server.stop(None)


async def test_bare_sends_the_text_of_an_exception_to_the_caller() -> None:
    async with bare_server() as address, grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bare.GreeterServiceStub(channel).Greet(pb.GreetRequest(name="leak"))
    assert "password=hunter2" in caught.value.details()


async def test_the_mesh_keeps_the_text_of_an_exception() -> None:
    async with LocalMesh(Fragile) as mesh:
        with pytest.raises(Internal) as caught:
            await mesh.client(GreeterClient).greet(pb.GreetRequest(name="leak"))
    assert "hunter2" not in str(caught.value) + str(caught.value.details)
    assert caught.value.details["incident"] in str(caught.value)


async def test_bare_answers_anybody() -> None:
    async with bare_server() as address, grpc.aio.insecure_channel(address) as channel:
        assert (await bare.GreeterServiceStub(channel).Greet(pb.GreetRequest(name="Eve"))).text == "Hello Eve"


async def test_the_mesh_refuses_a_caller_without_a_token() -> None:
    async with LocalMesh(Fragile) as mesh:
        (instance,) = await mesh.instances("greeter")
        async with grpc.aio.insecure_channel(instance.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await bare.GreeterServiceStub(channel).Greet(pb.GreetRequest(name="Eve"))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_bare_list_of_stubs_loses_the_calls_to_a_dead_server() -> None:
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(bare_server()) for _ in range(2)]
        dead = grpc.aio.server()
        addresses.append(f"127.0.0.1:{dead.add_insecure_port('127.0.0.1:0')}")
        await dead.start()
        await dead.stop(0)
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(each)) for each in addresses]
        stubs = [bare.GreeterServiceStub(channel) for channel in channels]
        calls = [stubs[n % 3].Greet(pb.GreetRequest(name="Ada")) for n in range(30)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(outcome, grpc.aio.AioRpcError) for outcome in outcomes) == 10


async def test_the_mesh_loses_no_call_when_an_instance_dies() -> None:
    local = LocalMesh(Fragile, replicas=3)
    async with local as mesh:
        greeter = mesh.client(GreeterClient)
        answered: set[str] = set()

        async def call(number: int) -> None:
            trailers: dict[str, str] = {}
            await greeter.greet(pb.GreetRequest(name=str(number)), trailers=trailers)
            answered.add(trailers["x-cu-instance"])

        async with asyncio.timeout(20):
            while len(answered) < 3:  # until all three are connected
                await call(0)
        victim = local.instances[0]
        await asyncio.gather(local.kill(victim), *(call(number) for number in range(60)))
        answered.clear()
        await asyncio.gather(*(call(number) for number in range(60)))
        assert len(answered) == 2
        assert victim not in answered


async def test_a_stopping_bare_server_takes_no_call_from_the_first_moment() -> None:
    server, servicer = grpc.aio.server(), BareGreeter()
    servicer.started, servicer.go_on = asyncio.Event(), asyncio.Event()
    bare.add_GreeterServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel, grpc.aio.insecure_channel(address) as other:
        slow = bare.GreeterServiceStub(channel).Greet(pb.GreetRequest(name="slow"))
        await servicer.started.wait()
        stopping = asyncio.create_task(server.stop(10))
        await asyncio.sleep(0)  # the stop begins
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bare.GreeterServiceStub(other).Greet(pb.GreetRequest(name="Ada"))
        servicer.go_on.set()
        assert (await slow).text == "Hello slow"
        await stopping
    assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


async def test_a_draining_instance_finishes_what_it_began() -> None:
    local = LocalMesh(Fragile, replicas=2)
    async with local as mesh:
        for instance in local.instances:
            service = local.service(instance)
            assert isinstance(service, Fragile)
            service.started, service.go_on = asyncio.Event(), asyncio.Event()
        greeter = mesh.client(GreeterClient)
        trailers: dict[str, str] = {}
        slow = asyncio.create_task(greeter.greet(pb.GreetRequest(name="slow"), trailers=trailers, timeout=30))
        services = {instance: local.service(instance) for instance in local.instances}
        waits = {
            asyncio.create_task(service.started.wait()): instance  # type: ignore[attr-defined]
            for instance, service in services.items()
        }
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in pending:
            wait.cancel()
        busy = waits[done.pop()]
        drained = asyncio.create_task(local.drain(busy))
        for number in range(20):
            assert (await greeter.greet(pb.GreetRequest(name=str(number)))).text
        services[busy].go_on.set()  # type: ignore[attr-defined]
        assert (await slow).text == "Hello slow (local)"
        assert trailers["x-cu-instance"] == busy
        await drained


async def test_a_bare_deadline_stays_behind() -> None:
    async with bare_server() as address, grpc.aio.insecure_channel(address) as channel:
        reply = await bare.GreeterServiceStub(channel).Greet(pb.GreetRequest(name="relay"), timeout=30)
    assert reply.text == "None"


async def test_a_deadline_travels_with_the_call() -> None:
    async with LocalMesh(Fragile) as mesh:
        reply = await mesh.client(GreeterClient).greet(pb.GreetRequest(name="relay"), timeout=30)
    assert 0 < float(reply.text) < 30


async def test_bare_binds_a_taken_port() -> None:
    first, second = grpc.aio.server(), grpc.aio.server()
    port = first.add_insecure_port("127.0.0.1:0")
    await first.start()
    assert second.add_insecure_port(f"127.0.0.1:{port}") == port
    await second.start()
    await asyncio.gather(first.stop(0), second.stop(0))


async def test_a_taken_port_is_an_error_that_names_it(tmp_path: Any) -> None:
    async with bare_server() as address:
        port = int(address.rpartition(":")[2])
        config = SharedConfig(project_secret="s" * 32, state_dir=tmp_path, grpc_port=port)
        replica = Replica(Fragile, config, MemoryRegistry())
        with pytest.raises(PortTaken, match=str(port)):
            replica.bind()
        await replica.kill()


async def test_an_error_arrives_as_the_class_that_was_raised() -> None:
    async with LocalMesh(Fragile) as mesh:
        with pytest.raises(NotFound, match="no such person") as caught:
            await mesh.client(GreeterClient).greet(pb.GreetRequest(name="nobody"))
    assert (caught.value.reason, caught.value.details) == ("PERSON_UNKNOWN", {"name": "nobody"})


async def test_a_bare_call_to_nobody_fails_to_connect() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await server.stop(0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="failed to connect"):
            await bare.GreeterServiceStub(channel).Greet(pb.GreetRequest(name="Ada"), timeout=5)


async def test_no_instance_is_unavailable_that_names_service_and_registry() -> None:
    registry = MemoryRegistry()
    async with Mesh(SharedConfig(project_secret="s" * 32), registry) as mesh:
        with pytest.raises(Unavailable, match="no instance of greeter") as caught:
            await mesh.client(GreeterClient).greet(pb.GreetRequest(name="Ada"), timeout=0.2)
    assert caught.value.details["registry"] == str(registry)


async def test_a_bare_service_that_does_not_fit_its_contract_fails_when_called() -> None:
    async with bare_server() as address, grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bare.GreeterServiceStub(channel).GreetMany(pb.GreetManyRequest(name="Ada")).read()
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_service_that_does_not_fit_its_contract_fails_at_import() -> None:
    with pytest.raises(TypeError, match=r"no such RPC as 'gret'; did you mean greet\?"):

        class Wrong(CUService, contract=CONTRACT):
            @rpc(permission="greeter:greet")
            async def gret(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse:
                raise NotImplementedError
