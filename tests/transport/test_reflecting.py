"""Reflection from the calling side: of our own servers, of servers that send files one by one, of broken ones."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from greeter.v1 import greeter_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from main import Greeter

from meshkit.errors import Internal, MeshError, Unavailable, Unimplemented
from meshkit.pipeline import Method
from meshkit.testing import LocalMesh
from meshkit.transport.reflecting import MAX_FILES, reflect
from reference_services._gen.contextunity.brain.v1 import brain_pb2

Answer = reflection_pb2.ServerReflectionResponse
BRAIN = brain_pb2.DESCRIPTOR.services_by_name["BrainService"]


def files(*protos: FileDescriptorProto) -> Answer:
    raw = [proto.SerializeToString() for proto in protos]
    return Answer(file_descriptor_response=reflection_pb2.FileDescriptorResponse(file_descriptor_proto=raw))


def listed(*names: str) -> Answer:
    services = [reflection_pb2.ServiceResponse(name=name) for name in names]
    return Answer(list_services_response=reflection_pb2.ListServiceResponse(service=services))


def unknown() -> Answer:
    return Answer(error_response=reflection_pb2.ErrorResponse(error_code=5, error_message="no such thing"))


@asynccontextmanager
async def serving(
    answer: Callable[[reflection_pb2.ServerReflectionRequest], Answer | None],
) -> AsyncIterator[str]:
    class Reflection(reflection_pb2_grpc.ServerReflectionServicer):
        async def ServerReflectionInfo(self, requests, context):
            async for request in requests:
                if (answered := answer(request)) is None:
                    return
                yield answered

    server = grpc.aio.server()
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(Reflection(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def look(address: str):
    async with grpc.aio.insecure_channel(address) as channel:
        return await reflect(channel, address, timeout=5)


async def test_a_service_of_the_mesh_says_what_it_serves() -> None:
    async with LocalMesh(Greeter) as mesh:
        (instance,) = await mesh.instances("greeter")
        found = await look(instance.address)
    assert list(found.services) == ["greeter.v1.GreeterService", "meshkit.v1.MeshService"]
    method = found.services["greeter.v1.GreeterService"].methods_by_name["Greet"]
    assert method.containing_service is not greeter_pb2.DESCRIPTOR.services_by_name["GreeterService"]
    assert Method.of(method) == Method("/greeter.v1.GreeterService/Greet", idempotent=True)


async def test_files_that_come_one_by_one_are_put_together() -> None:
    sent: list[str] = []

    def one_by_one(request: reflection_pb2.ServerReflectionRequest) -> Answer:
        if request.HasField("list_services"):
            return listed(BRAIN.full_name, "grpc.health.v1.Health")
        wanted = request.file_by_filename or BRAIN.file.name
        sent.append(wanted)
        file = FileDescriptorProto()
        BRAIN.file.pool.FindFileByName(wanted).CopyToProto(file)
        return files(file)

    async with serving(one_by_one) as address:
        found = await look(address)
    assert list(found.services) == [BRAIN.full_name]
    assert len(sent) == len(set(sent)) > 1
    assert Method.of(found.services[BRAIN.full_name].methods_by_name["Upsert"]).deadline == 30.0


async def test_a_service_that_is_listed_and_not_known_is_left_out() -> None:
    async with serving(
        lambda request: listed("a.B") if request.HasField("list_services") else unknown()
    ) as address:
        assert (await look(address)).services == {}


LOOP = (FileDescriptorProto(name="a", dependency=["b"]), FileDescriptorProto(name="b", dependency=["a"]))
MANY = tuple(FileDescriptorProto(name=f"{number}.proto") for number in range(MAX_FILES + 1))
NONSENSE = FileDescriptorProto(name="a", message_type=[{"name": "not a name"}])


@pytest.mark.parametrize(
    ("described", "says"),
    [
        (files(*LOOP), "import each other: a, b"),
        (files(*MANY), "more than 1000 files"),
        (files(NONSENSE), "does not fit the others: a"),
        (files(FileDescriptorProto(name="a", dependency=["absent"])), "does not know the file absent"),
        (
            Answer(
                file_descriptor_response=reflection_pb2.FileDescriptorResponse(
                    file_descriptor_proto=[b"\xff"]
                )
            ),
            "sent a file that is none",
        ),
        (files(FileDescriptorProto(name="a", package="other")), "do not declare a.B"),
        (None, "ended the conversation"),
    ],
)
async def test_an_answer_that_does_not_fit_together_is_an_error(described: Answer | None, says: str) -> None:
    def answer(request: reflection_pb2.ServerReflectionRequest) -> Answer | None:
        if request.HasField("list_services"):
            return listed("a.B")
        return unknown() if request.file_by_filename else described

    async with serving(answer) as address:
        with pytest.raises(Internal, match=says) as failure:
            await look(address)
    assert failure.value.reason == "REFLECTION_BROKEN"


async def test_nobody_there_and_no_reflection_are_what_they_are() -> None:
    with pytest.raises(Unavailable):
        await look("127.0.0.1:1")
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with pytest.raises(Unimplemented) as failure:
        await look(f"127.0.0.1:{port}")
    assert isinstance(failure.value, MeshError)
    await server.stop(0)
