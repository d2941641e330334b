"""Generated code imports from wherever it was put."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.gen.conftest import Project

USE = """
from {prefix}greeter.v1 import greeter_pb2 as pb, types_pb2
from {prefix}greeter.v1.greeter_client import GreeterClient
from {prefix}greeter.v1.greeter_pb2_grpc import GreeterServiceStub
from {prefix}common.v1 import common_pb2
from meshkit._gen.meshkit.v1 import options_pb2
import sys
request = pb.GreetRequest(name=common_pb2.Person.Name(given="Ada"))
assert pb.GreetRequest.FromString(request.SerializeToString()) == request
assert types_pb2.Person is common_pb2.Person
method = GreeterClient.contract.methods_by_name["Greet"]
print(method.GetOptions().Extensions[options_pb2.deadline_ms], pb.GreetRequest.__module__)
"""


def test_an_output_folder_on_the_path_is_a_root(project: Project) -> None:
    assert project.gen(project.protos, "--out", "gen").code == 0
    assert "__init__.py" not in project.tree("gen")
    assert project.python(USE.format(prefix=""), "gen") == "250 greeter.v1.greeter_pb2"


@pytest.mark.parametrize("out", ["app/_gen", "src/app/deep/er/_gen"])
def test_an_output_folder_inside_a_package_works_at_any_depth(project: Project, out: str) -> None:
    top, _, rest = out.removeprefix("src/").partition("/")
    start = out.removesuffix(f"{top}/{rest}")
    inner = rest.split("/")[:-1]
    project.write({f"{start}{'/'.join([top, *inner[:n]])}/__init__.py": "" for n in range(len(inner) + 1)})
    assert project.gen(project.protos, "--out", out).code == 0
    assert "__init__.py" in project.tree(out)
    prefix = f"{top}.{rest.replace('/', '.')}."
    assert project.python(USE.format(prefix=prefix), start or ".") == f"250 {prefix}greeter.v1.greeter_pb2"


def test_a_folder_of_protos_with_one_top_package_works_both_ways(project: Project) -> None:
    project.write(
        {
            "protos/acme/common/v1/note.proto": project.proto("acme.common.v1"),
            "protos/acme/user/v1/user.proto": project.proto(
                "acme.user.v1",
                "message User { acme.common.v1.Note note = 1; }",
                "acme/common/v1/note.proto",
            ),
        }
    )
    assert project.gen("protos", "--out", "somewhere/out").code == 0
    code = "from {}acme.user.v1 import user_pb2; print(user_pb2.User(note={{'text': 'x'}}).note.text)"
    assert project.python(code.format(""), "somewhere/out") == "x"
    assert project.python(code.format("somewhere.out."), ".") == "x"


def test_package_can_be_said_outright(project: Project) -> None:
    assert project.gen(project.protos, "--out", "app/_gen", "--package").code == 0
    assert project.python(USE.format(prefix="app._gen."), ".") == "250 app._gen.greeter.v1.greeter_pb2"
    assert project.gen(project.protos, "--out", "app/_gen", "--no-package").code == 0
    assert "__init__.py" not in project.tree("app/_gen")
    assert project.python(USE.format(prefix=""), "app/_gen") == "250 greeter.v1.greeter_pb2"


def test_protos_without_a_package_become_top_level_modules(project: Project) -> None:
    bare = project.proto("x", "message Both { Note note = 1; }").replace("package x;\n", "")
    project.write(
        {"protos/one.proto": bare.replace("Note", "Other"), "protos/two-b.proto": bare.replace("Both", "All")}
    )
    project.write(
        {"protos/three.proto": 'syntax = "proto3"; import "one.proto"; message Third { Other o = 1; }'}
    )
    assert project.gen("protos", "--out", "out").code == 0
    assert project.python("import three_pb2, two_b_pb2; print(three_pb2.Third().o)", "out") == ""
    assert project.gen("protos", "--out", "app/out", "--package").code == 0
    assert project.python("from app.out import three_pb2; print(three_pb2.Third().o)", ".") == ""


def test_the_same_protos_load_from_two_places(project: Project) -> None:
    for out in ("one", "two"):
        project.gen(project.protos, "--out", out, "--package")
    code = "from one.greeter.v1 import greeter_client as a; from two.greeter.v1 import greeter_client as b; "
    code += "print(a.GreeterClient.contract is b.GreeterClient.contract)"
    assert project.python(code, ".") == "True"


def test_messages_can_be_pickled(project: Project) -> None:
    project.write({"protos/acme/v1/note.proto": project.proto("acme.v1")})
    project.gen("protos", "--out", "app/_gen", "--package")
    code = "import pickle; from app._gen.acme.v1 import note_pb2 as pb; "
    code += f"print(pickle.loads(pickle.dumps(pb.Note(text='x'), {pickle.HIGHEST_PROTOCOL})).text)"
    assert project.python(code, ".") == "x"


def test_protos_of_meshkit_beside_the_users_are_not_generated_again(project: Project) -> None:
    shutil.copytree(Path(project.protos), project.folder / "protos")
    options = Path(project.protos).parents[2] / "protos/meshkit/v1/options.proto"
    (project.folder / "protos/meshkit/v1").mkdir(parents=True)
    shutil.copy(options, project.folder / "protos/meshkit/v1/options.proto")
    ran = project.gen("protos", "--out", "gen")
    assert ran.code == 0
    assert "meshkit/v1/options.proto: not generated" in ran.err
    assert not any(name.startswith("meshkit/") for name in project.tree("gen"))
    assert project.python(USE.format(prefix=""), "gen") == "250 greeter.v1.greeter_pb2"


def test_imports_through_include_stay_absolute(project: Project) -> None:
    project.write(
        {
            "vendor/common/v1/note.proto": project.proto("common.v1"),
            "protos/user/v1/user.proto": project.proto(
                "user.v1", "message User { common.v1.Note note = 1; }", "common/v1/note.proto"
            ),
        }
    )
    assert project.gen("vendor", "--out", "libs").code == 0
    assert project.gen("protos", "--out", "app/_gen", "--include", "vendor", "--package").code == 0
    assert not any("common" in name for name in project.tree("app/_gen"))
    assert (
        project.python("from app._gen.user.v1 import user_pb2; print(user_pb2.User().note)", ".", "libs")
        == ""
    )


def test_the_stubs_do_not_depend_on_the_version_of_grpcio(project: Project) -> None:
    project.gen(project.protos, "--out", "gen")
    for name, text in project.tree("gen").items():
        if "_grpc.py" in name:
            assert "GRPC_GENERATED_VERSION" not in text
            assert "import warnings" not in text
