"""`meshkit gen`: from a folder of protos to Python that imports from anywhere.

For each `x.proto`: `x_pb2.py` (messages) and `x_pb2_grpc.py` (gRPC's own stubs) with type stubs beside them,
and where it declares services `x_client.py`, a typed client for each. See `meshkit.cli.codegen.layout` for
how they import each other. `google/…` is never generated (its Python is installed), and `meshkit/…` is
importable from any proto: its Python is part of meshkit.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from meshkit.cli.codegen.clients import MessageIndex, client_source, require_names
from meshkit.cli.codegen.compile import Compiled, compile_protos, require_compilers
from meshkit.cli.codegen.folder import Changes, marked, plan, source_of
from meshkit.cli.codegen.layout import Layout, is_package
from meshkit.cli.codegen.protos import Sources, find_sources, module_of
from meshkit.cli.output import ExitCode, Failure, note, say, show_json, shown

_INSTALLED = Path(__file__).parents[1] / "_gen"
_VERSION_CHECK = re.compile(r"\n\nGRPC_GENERATED_VERSION = .*?\n    \)\n", re.DOTALL)
_STUB_VERSIONS = re.compile(r"^GRPC_(?:GENERATED_)?VERSION: str\n", re.MULTILINE)
_CODING = "# -*- coding: utf-8 -*-\n"


def gen(
    proto_dir: Annotated[Path, typer.Argument(help="Folder of protos.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.", file_okay=False)],
    include: Annotated[
        list[Path] | None,
        typer.Option(
            "--include", "-I", help="A further folder to find imports in.", exists=True, file_okay=False
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            help="Where import paths start, if the packages do not say it.", exists=True, file_okay=False
        ),
    ] = None,
    package: Annotated[
        bool | None,
        typer.Option(
            "--package/--no-package", help="Whether --out is a Python package (else it is looked up)."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if anything would change.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Make Python of a folder of protos: messages, gRPC stubs, typed clients, type stubs."""
    result = generate(proto_dir, out, include or (), root, package)
    for line in result.notes:
        note(line)
    if not check:
        result.changes.apply()
    _report(result.changes, out, check=check, as_json=as_json)
    if check and result.changes:
        raise typer.Exit(ExitCode.FAILED)


@dataclass(frozen=True)
class Generated:
    """The result of one run, before anything is written."""

    changes: Changes
    notes: tuple[str, ...]


def generate(
    proto_dir: Path,
    out: Path,
    includes: Sequence[Path] = (),
    root: Path | None = None,
    package: bool | None = None,
) -> Generated:
    """Generate in memory and compare with what the output folder holds.

    Args:
        proto_dir: Folder of protos.
        out: Output folder.
        includes: Further folders to find imports in.
        root: Where import paths start; by default it follows from the package lines.
        package: Whether the output folder is a Python package; by default it is looked up.

    Raises:
        Failure: Anything that the user has to mend; nothing was written.
    """
    require_compilers()
    sources = find_sources(proto_dir, root)
    out = out.resolve()
    known = {} if out == _INSTALLED.resolve() else _installed_protos()
    files = [file for file in sources.files if not file.startswith("google/") and file not in known]
    skipped = [file for file in sources.files if file not in files]
    if not files:
        raise Failure(
            f"nothing to generate in {proto_dir}: {', '.join(skipped)} are part of what is installed"
        )
    absent = [name for name in known if not _found(name, (sources.root, *includes))]
    compiled = compile_protos(sources, files, includes, _descriptors(absent))
    as_package = is_package(out) if package is None else package
    layout = Layout(as_package, _local(sources, files, compiled.descriptors, known))
    changes = plan(out, _texts(files, compiled, layout), sources.scopes, package=as_package)
    skips = (f"{file}: not generated, its Python is installed" for file in skipped)
    return Generated(changes, (*compiled.warnings, *skips, *_absences(layout, files, out)))


def _installed_protos() -> dict[str, str]:
    """Find the protos whose Python is part of meshkit: import path -> module."""
    found = {source_of(path): path for path in _INSTALLED.rglob("*_pb2.py")}
    return {source: f"meshkit._gen.{module_of(source)}" for source in sorted(filter(None, found))}


def _found(proto: str, places: Sequence[Path]) -> bool:
    return any((place / proto).exists() for place in places)


def _descriptors(protos: Sequence[str]) -> FileDescriptorSet:
    result = FileDescriptorSet()
    for proto in protos:
        module = importlib.import_module(f"meshkit._gen.{module_of(proto)}")
        module.DESCRIPTOR.CopyToProto(result.file.add())
    return result


def _local(
    sources: Sources, files: Sequence[str], descriptors: FileDescriptorSet, known: dict[str, str]
) -> frozenset[str]:
    """Tell which protos have their Python in the output folder: those of this run and others of its root."""
    elsewhere = ("google/", "meshkit/")
    siblings = (
        file.name
        for file in descriptors.file
        if not file.name.startswith(elsewhere) and (sources.root / file.name).exists()
    )
    return frozenset((*files, *siblings))


def _absences(layout: Layout, files: Sequence[str], out: Path) -> list[str]:
    others = sorted(set(layout.local) - set(files))
    return [
        f"{file}: imported, but not in {shown(out)} yet; run meshkit gen on its folder too"
        for file in others
        if not (out / f"{module_of(file).replace('.', '/')}.py").exists()
    ]


def _texts(files: Sequence[str], compiled: Compiled, layout: Layout) -> dict[str, str]:
    protos = {file.name: file for file in compiled.descriptors.file}
    messages = MessageIndex.of(compiled.descriptors.file)
    texts: dict[str, str] = {}
    for name in files:
        require_names(protos[name])
        stem = module_of(name).replace(".", "/")
        for path in (f"{stem}.py", f"{stem}.pyi", f"{stem}_grpc.py", f"{stem}_grpc.pyi"):
            text = layout.rewrite(compiled.files[path], name, protos)
            texts[path] = marked(path, _trimmed(text, name), name)
        if protos[name].service:
            path = f"{stem.removesuffix('_pb2')}_client.py"
            texts[path] = marked(path, client_source(protos[name], messages, layout), name)
    return texts


def _trimmed(text: str, proto: str) -> str:
    """Take out what ties the code to one place or one version of grpcio.

    gRPC's generated module refuses to load with any grpcio older than its generator; meshkit states the
    versions that it works with in its own requirements. Message classes get the name of the module that they
    are really in, so that they can be pickled.
    """
    text = text.removeprefix(_CODING).replace("import grpc\nimport warnings\n", "import grpc\n")
    text = _STUB_VERSIONS.sub("", _VERSION_CHECK.sub("\n", text))
    text = text.replace(
        f"BuildTopDescriptorsAndMessages(DESCRIPTOR, '{module_of(proto)}', ",
        "BuildTopDescriptorsAndMessages(DESCRIPTOR, __name__, ",
    )
    return text.rstrip("\n") + "\n"


def _report(changes: Changes, out: Path, *, check: bool, as_json: bool) -> None:
    if as_json:
        show_json(
            {
                "written": [*changes.write],
                "removed": [*changes.remove],
                "unchanged": changes.unchanged,
                "check": check,
            }
        )
    elif check and changes:
        for name in changes.write:
            say(f"{out / name}: differs")
        for name in changes.remove:
            say(f"{out / name}: stale")
        note(f"{out} is not current: run meshkit gen without --check")
    else:
        done = f"{len(changes.write)} written, {changes.unchanged} unchanged, {len(changes.remove)} removed"
        say(f"{out}: current, {changes.unchanged} files" if check else f"{out}: {done}")
