"""What `meshkit gen` writes, keeps, removes and refuses."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshkit.cli.codegen.folder import MARK

if TYPE_CHECKING:
    from tests.gen.conftest import Project


def test_every_proto_gets_modules_and_stubs_and_services_get_clients(project: Project) -> None:
    assert project.gen(project.protos, "--out", "gen").code == 0
    tree = project.tree("gen")
    kinds = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
    expected = {
        *(
            f"{stem}{kind}"
            for stem in ("common/v1/common", "greeter/v1/types", "greeter/v1/greeter")
            for kind in kinds
        ),
        "greeter/v1/greeter_client.py",
        *(f"{folder}/__init__.py" for folder in ("common", "common/v1", "greeter", "greeter/v1")),
    }
    assert set(tree) == expected
    assert all(text.startswith(MARK) for text in tree.values())


def test_the_module_runs_as_a_command(project: Project) -> None:
    project.write({"protos/acme/v1/note.proto": project.proto("acme.v1")})
    command = [
        sys.executable,
        "-m",
        "meshkit",
        "gen",
        str(project.folder / "protos"),
        "--out",
        str(project.folder / "o"),
    ]
    done = subprocess.run(command, cwd=project.repository, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "6 written, 0 unchanged, 0 removed" in done.stdout


def test_a_second_run_changes_nothing(project: Project) -> None:
    project.gen(project.protos, "--out", "gen")
    before = {path: path.stat().st_mtime_ns for path in Path("gen").rglob("*.py*")}
    ran = project.gen(project.protos, "--out", "gen", "--json")
    assert json.loads(ran.out) == {"written": [], "removed": [], "unchanged": 17, "check": False}
    assert {path: path.stat().st_mtime_ns for path in Path("gen").rglob("*.py*")} == before


def test_check_lists_what_differs_and_writes_nothing(project: Project) -> None:
    missing = project.gen(project.protos, "--out", "gen", "--check")
    assert missing.code == 1
    assert "gen/greeter/v1/greeter_client.py: differs" in missing.out
    assert not Path("gen").exists()
    project.gen(project.protos, "--out", "gen")
    assert project.gen(project.protos, "--out", "gen", "--check").code == 0
    edited = Path("gen/common/v1/common_pb2.py")
    edited.write_text(edited.read_text() + "# edited\n")
    differs = project.gen(project.protos, "--out", "gen", "--check")
    assert (differs.code, differs.out) == (1, "gen/common/v1/common_pb2.py: differs\n")
    assert edited.read_text().endswith("# edited\n")


def test_files_of_protos_that_are_gone_are_removed(project: Project) -> None:
    project.write(
        {f"protos/acme/{name}/v1/{name}.proto": project.proto(f"acme.{name}.v1") for name in ("one", "two")}
    )
    project.gen("protos", "--out", "gen")
    project.write({"gen/acme/mine.py": "kept = 1\n"})
    Path("gen/acme/one/v1/__pycache__").mkdir()
    shutil.rmtree("protos/acme/one")
    stale = project.gen("protos", "--out", "gen", "--check")
    assert (stale.code, "gen/acme/one/v1/one_pb2.py: stale" in stale.out) == (1, True)
    ran = project.gen("protos", "--out", "gen", "--json")
    assert len(json.loads(ran.out)["removed"]) == 6
    assert not Path("gen/acme/one").exists()
    assert {"acme/mine.py", "acme/__init__.py", "acme/two/v1/two_pb2.py"} <= set(project.tree("gen"))
    assert project.gen("protos", "--out", "gen", "--check").code == 0


@pytest.mark.parametrize("place", [".venv/lib/site-packages", "venv/lib/site-packages", "gen"])
def test_what_others_have_generated_below_the_output_folder_is_left_alone(
    project: Project, place: str
) -> None:
    project.write({"theirs/acme/v1/note.proto": project.proto("acme.v1")})
    project.gen("theirs", "--out", place)
    before = project.tree(place)
    project.write({"protos/mine/v1/note.proto": project.proto("mine.v1")})
    assert project.gen("protos", "--out", ".").out == ".: 6 written, 0 unchanged, 0 removed\n"
    assert project.tree(place) == before


def test_roots_of_protos_keep_out_of_each_others_way_in_an_output_folder(project: Project) -> None:
    project.write(
        {
            "ours/shop/v1/shop.proto": project.proto("shop.v1"),
            "theirs/bank/v1/bank.proto": project.proto("bank.v1"),
        }
    )
    assert project.gen("ours", "--out", "gen").out == "gen: 6 written, 0 unchanged, 0 removed\n"
    assert project.gen("theirs", "--out", "gen").out == "gen: 6 written, 0 unchanged, 0 removed\n"
    assert project.gen("ours", "--out", "gen", "--check").code == 0
    assert {"shop/v1/shop_pb2.py", "bank/v1/bank_pb2.py"} <= set(project.tree("gen"))


def test_a_folder_that_cannot_be_written_is_named(project: Project) -> None:
    project.write({"protos/mine/v1/note.proto": project.proto("mine.v1"), "gen/mine": "a file"})
    ran = project.gen("protos", "--out", "gen")
    assert ran.code == 1
    assert re.fullmatch(r"meshkit: .*gen/mine.* cannot be written: .*\n", ran.err)


def test_a_service_that_is_gone_takes_its_client_along(project: Project) -> None:
    service = "message R {} service S { rpc Get(Note) returns (R); }"
    project.write({"protos/acme/v1/note.proto": project.proto("acme.v1", service)})
    project.gen("protos", "--out", "gen")
    assert "acme/v1/note_client.py" in project.tree("gen")
    project.write({"protos/acme/v1/note.proto": project.proto("acme.v1")})
    project.gen("protos", "--out", "gen")
    assert "acme/v1/note_client.py" not in project.tree("gen")


def test_two_folders_of_protos_share_an_output_folder(project: Project) -> None:
    project.write({"protos/one/v1/one.proto": project.proto("one.v1")})
    body = "message Both { one.v1.Note note = 1; }"
    project.write({"protos/two/v1/two.proto": project.proto("two.v1", body, "one/v1/one.proto")})
    early = project.gen("protos/two", "--out", "gen")
    assert "one/v1/one.proto: imported, but not in gen yet" in early.err
    project.gen("protos/one", "--out", "gen")
    assert project.gen("protos/two", "--out", "gen").err == ""
    assert {"one/v1/one_pb2.py", "two/v1/two_pb2.py"} <= set(project.tree("gen"))
    assert project.python("from two.v1 import two_pb2; print(two_pb2.Both().note)", "gen") == ""


@pytest.mark.parametrize("folder", ["protos", "protos/acme", "protos/acme/v1", "."])
def test_the_root_follows_from_the_packages(project: Project, folder: str) -> None:
    commented = "// package wrong.v1;\n/* package wrong; */\n" + project.proto("acme.v1").replace(
        "package", "\n  package"
    )
    project.write({"protos/acme/v1/note.proto": commented, ".venv/x/bad.proto": "nonsense"})
    assert project.gen(folder, "--out", "gen").code == 0
    assert "acme/v1/note_pb2.py" in project.tree("gen")


def test_the_users_own_files_are_never_overwritten(project: Project) -> None:
    project.write(
        {"protos/acme/v1/note.proto": project.proto("acme.v1"), "gen/acme/__init__.py": "mine = 1\n"}
    )
    project.write({"gen/acme/v1/note_pb2_grpc.py": "mine = 2\n"})
    ran = project.gen("protos", "--out", "gen")
    assert ran.code == 1
    assert "gen/acme/v1/note_pb2_grpc.py was not made by meshkit gen" in ran.err
    Path("gen/acme/v1/note_pb2_grpc.py").unlink()
    assert project.gen("protos", "--out", "gen").code == 0
    assert project.tree("gen")["acme/__init__.py"] == "mine = 1\n"


def test_code_of_plain_protoc_is_replaced(project: Project) -> None:
    project.write({"protos/acme/v1/note.proto": project.proto("acme.v1")})
    project.write({"gen/acme/v1/note_pb2.py": "# Generated by the protocol buffer compiler.  DO NOT EDIT!\n"})
    assert project.gen("protos", "--out", "gen").code == 0
    assert "AddSerializedFile" in project.tree("gen")["acme/v1/note_pb2.py"]


BROKEN = {
    "a syntax error": ("acme/v1/note", ("acme.v1", "message {"), "protos/acme/v1/note.proto:4:9:"),
    "a missing import": (
        "acme/v1/note",
        ("acme.v1", "", "no/such.proto"),
        "name further folders with --include",
    ),
    "a package not its path": (
        "acme/v2/note",
        ("acme.v1",),
        "protos/acme/v2/note.proto: package acme.v1 does not",
    ),
    "another root": (
        "deep/acme/v1/b",
        ("acme.v1",),
        "protos/deep/acme/v1/b.proto: package acme.v1 puts the root",
    ),
    "a keyword as a folder": ("acme/class/v1/n", ("acme.class.v1",), "module named 'class'"),
    "a dot in the name": ("acme/v1/a.b", ("acme.v1",), "module named 'a.b_pb2'"),
    "a keyword as an RPC": (
        "acme/v1/note",
        ("acme.v1", "service S { rpc import(Note) returns (Note); }"),
        "acme/v1/note.proto: S.import: gRPC's stubs cannot be written",
    ),
    "two files for a module": ("acme/v1/good-x", ("acme.v1",), "both become the module acme.v1.good_x_pb2"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_protos_are_explained_and_nothing_is_written(project: Project, case: str) -> None:
    stem, text, message = BROKEN[case]
    good = project.proto("acme.v1").replace("Note", "Good")
    project.write({"protos/acme/v1/good_x.proto": good, f"protos/{stem}.proto": project.proto(*text)})
    ran = project.gen("protos", "--out", "gen")
    assert (ran.code, ran.out) == (1, "")
    assert message in ran.err
    assert "Traceback" not in ran.err
    assert not Path("gen").exists()


def test_packages_are_not_compared_where_the_root_is_given(project: Project) -> None:
    project.write({"protos/flat.proto": project.proto("acme.v1")})
    assert "(or say --root" in project.gen("protos", "--out", "gen").err
    assert project.gen("protos", "--out", "gen", "--root", "protos").code == 0
    assert "flat_pb2.py" in project.tree("gen")
    outside = project.gen("protos", "--out", "gen", "--root", "gen")
    assert (outside.code, "does not hold" in outside.err) == (1, True)


def test_warnings_of_the_compiler_are_shown(project: Project) -> None:
    project.write({"protos/acme/v1/a.proto": project.proto("acme.v1", "", "google/protobuf/empty.proto")})
    ran = project.gen("protos", "--out", "gen")
    assert ran.code == 0
    assert "protos/acme/v1/a.proto:3:1: warning: Import google/protobuf/empty.proto is unused." in ran.err


def test_a_folder_without_protos_is_an_error(project: Project) -> None:
    Path("protos").mkdir()
    ran = project.gen("protos", "--out", "gen")
    assert (ran.code, ran.err) == (1, "meshkit: no .proto files in protos\n")
    assert project.gen("nowhere", "--out", "gen").code == 2


def test_a_missing_extra_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write({"protos/acme/v1/note.proto": project.proto("acme.v1")})
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "mypy_protobuf" else find_spec(name)
    )
    ran = project.gen("protos", "--out", "gen")
    assert (ran.code, "pip install 'meshkit[gen]'" in ran.err) == (1, True)


def test_the_code_of_this_project_is_current(project: Project) -> None:
    protos = project.repository / "protos"
    for folder, out in (("meshkit", "meshkit/_gen"), ("contextunity", "reference_services/_gen")):
        assert project.gen(str(protos / folder), "--out", str(project.repository / out), "--check").code == 0
