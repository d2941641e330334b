"""Generated clients at run time, and under the type checkers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.gen.conftest import Project

FAKE = """
import asyncio, inspect
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient

class Stream:
    instance = "greeter-1"

class Fake:
    async def answer(self, method, request, options):
        return method.full_name, request, options
    unary_unary = stream_unary = answer
    def unary_stream(self, method, request, options):
        return Stream()
    stream_stream = unary_stream

async def main():
    client = GreeterClient(Fake())
    request = pb.GreetRequest()
    assert await client.greet(request, tenant="acme", timeout=2) == (
        "greeter.v1.GreeterService.Greet", request, {"tenant": "acme", "timeout": 2})
    assert await asyncio.create_task(client.greet_all(())) == ("greeter.v1.GreeterService.GreetAll", (), {})
    assert client.greet_many(request).instance == client.converse(()).instance == "greeter-1"
    told = inspect.getdoc(GreeterClient.greet).splitlines()[2]
    assert told == (
        'A path of C:\\\\new and \"\"\"quotes\"\"\" survive, and so does a last "quote"')
    print(client)

asyncio.run(main())
import sys
assert "grpc" not in sys.modules
"""


def test_a_client_hands_all_four_arities_to_its_invoker(project: Project) -> None:
    project.gen(project.protos, "--out", "gen")
    assert project.python(FAKE, "gen") == "<GreeterClient of greeter.v1.GreeterService>"


def test_names_that_python_cannot_take_are_altered(project: Project) -> None:
    rpcs = ("Class", "Import", "GetURL", "GetUrl", "Contract", "NotePb2", "ListIDs", "Any", "Coroutine")
    body = " ".join(f"rpc {name}(Note) returns (Note);" for name in rpcs)
    body = f"service Note_ {{}} service Odd {{}} service OddService {{ {body} }}"
    project.write({"protos/acme/v1/note.proto": project.proto("acme.v1", body)})
    assert project.gen("protos", "--out", "gen").code == 0
    code = "from acme.v1 import note_client as c, note_pb2_grpc; "
    code += "print(*sorted(vars(c.OddServiceClient)), c.OddClient.contract.name)"
    names = project.python(code, "gen").split()
    expected = [
        "class_",
        "import_",
        "GetURL",
        "GetUrl",
        "contract_",
        "note_pb2_",
        "list_ids",
        "any",
        "coroutine",
        "contract",
        "Odd",
    ]
    assert {name for name in names if not name.startswith("_")} == set(expected)


def test_messages_of_equally_named_modules_are_told_apart(project: Project) -> None:
    body = "service S { rpc Get(one.v1.Note) returns (Note); }"
    project.write({"protos/one/v1/types.proto": project.proto("one.v1")})
    project.write({"protos/two/v1/types.proto": project.proto("two.v1", body, "one/v1/types.proto")})
    assert project.gen("protos", "--out", "gen").code == 0
    client = project.tree("gen")["two/v1/types_client.py"]
    assert "request: one_v1_types_pb2.Note" in client
    assert "Coroutine[Any, Any, two_v1_types_pb2.Note]" in client
    project.python("import two.v1.types_client", "gen")


USER = '''"""A user's module."""

from collections.abc import AsyncIterator

import grpc
import grpc.aio
from app._gen.common.v1 import common_pb2
from app._gen.greeter.v1 import greeter_pb2 as pb
from app._gen.greeter.v1.greeter_client import GreeterClient
from app._gen.greeter.v1.greeter_pb2_grpc import (
    GreeterServiceServicer,
    GreeterServiceStub,
    add_GreeterServiceServicer_to_server,
)
from typing_extensions import assert_type


async def requests() -> AsyncIterator[pb.GreetRequest]:
    yield pb.GreetRequest(name=common_pb2.Person.Name(given="Ada"))


async def typed(client: GreeterClient) -> None:
    reply = await client.greet(pb.GreetRequest(), tenant="acme", timeout=2, criticality="sheddable")
    assert_type(reply, pb.GreetResponse)
    async for item in client.greet_many(pb.GreetRequest(), metadata={"a": "b"}):
        assert_type(item, pb.GreetResponse)
    assert_type(await client.greet_all(requests()), pb.GreetResponse)
    async with client.converse(requests()) as names:
        async for name in names:
            assert_type(name, common_pb2.Person.Name)
        assert_type(names.instance, str | None)


async def plain(channel: grpc.aio.Channel) -> None:
    stub = GreeterServiceStub(channel)
    reply = await stub.Greet(pb.GreetRequest(), timeout=2)
    assert_type(reply, pb.GreetResponse)
    async for item in stub.GreetMany(pb.GreetRequest()):
        assert_type(item, pb.GreetResponse)


def blocking(channel: grpc.Channel) -> pb.GreetResponse:
    return GreeterServiceStub(channel).Greet(pb.GreetRequest(), timeout=2)


def serve(server: grpc.aio.Server, servicer: GreeterServiceServicer) -> None:
    add_GreeterServiceServicer_to_server(servicer, server)
'''

WRONG = """

async def wrong(client: GreeterClient) -> None:
    await client.greet(pb.GreetResponse())  # a
    await client.greet(pb.GreetRequest(), timout=2)  # b
    await client.greet(pb.GreetRequest(), criticality="urgent")  # c
    await client.greet_all([pb.GreetRequest()])  # d
"""


def _typed_project(project: Project) -> None:
    project.write(
        {"app/__init__.py": "", "app/py.typed": "", "app/use.py": USER, "app/wrong.py": USER + WRONG}
    )
    assert project.gen(project.protos, "--out", "app/_gen").code == 0


def _marked_lines() -> set[int]:
    return {
        number for number, line in enumerate((USER + WRONG).splitlines(), 1) if line.rstrip()[-3:-1] == "# "
    }


def test_users_of_generated_code_pass_mypy_strict(project: Project) -> None:
    _typed_project(project)
    path = f"mypy_path = {project.repository}"
    project.write({"mypy.ini": f"[mypy]\nstrict = True\n{path}\n[mypy-meshkit.*]\nfollow_imports = silent\n"})
    done = _run(project, "mypy", "--cache-dir", str(project.folder / "cache"), "app")
    lines = [line for line in done.splitlines() if ": error:" in line]
    assert [line for line in lines if not line.startswith("app/wrong.py")] == []
    assert {int(line.split(":")[1]) for line in lines} == _marked_lines()


def test_users_of_generated_code_pass_pyright_strict(project: Project) -> None:
    _typed_project(project)
    site = Path(sys.prefix)
    project.write(
        {
            "pyrightconfig.json": '{"typeCheckingMode": "strict", "include": ["app"], '
            f'"extraPaths": ["{project.repository}"], "venvPath": "{site.parent}", "venv": "{site.name}"}}'
        }
    )
    done = _run(project, "pyright", "-p", ".")
    lines = [line.strip() for line in done.splitlines() if " - error:" in line]
    assert [line for line in lines if "/app/wrong.py:" not in line] == []
    assert {int(line.split("wrong.py:")[1].split(":")[0]) for line in lines} == _marked_lines()


def _run(project: Project, tool: str, *arguments: str) -> str:
    command = [sys.executable, "-m", tool, *arguments]
    return subprocess.run(command, cwd=project.folder, capture_output=True, text=True, check=False).stdout
