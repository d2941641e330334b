"""Running the protobuf compiler and the plugins that write type stubs.

protoc comes from grpcio-tools and runs as a process of its own, so that a broken proto cannot take the
command down and its messages can be read. mypy-protobuf is a plugin of protoc; it is spoken to directly (a
`CodeGeneratorRequest` on stdin, a `CodeGeneratorResponse` on stdout), so its executables need not be on any
PATH.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from meshkit.cli.codegen.protos import Sources
from meshkit.cli.output import Failure, shown

_PLUGINS = ("main", "grpc")
_GOOGLE = ("google.api", "google.longrunning", "google.rpc", "google.type")


@dataclass(frozen=True)
class Compiled:
    """What the compilers made.

    Attributes:
        files: Path below the output folder -> text.
        descriptors: The protos and everything that they import, with comments.
        warnings: The compiler's warnings, a line each.
    """

    files: dict[str, str]
    descriptors: FileDescriptorSet
    warnings: tuple[str, ...]


def require_compilers() -> None:
    """Raise `Failure` unless the extra `gen` is installed."""
    missing = [name for name in ("grpc_tools", "mypy_protobuf") if importlib.util.find_spec(name) is None]
    if missing:
        raise Failure(f"meshkit gen needs {' and '.join(missing)}: pip install 'meshkit[gen]'")


def compile_protos(
    sources: Sources, files: Sequence[str], includes: Sequence[Path], known: FileDescriptorSet
) -> Compiled:
    """Compile protos to messages, gRPC stubs and type stubs.

    Args:
        sources: Where they are.
        files: Which of them to generate code for, as import paths.
        includes: Further folders to find imports in.
        known: Protos that are importable although no folder holds them.

    Raises:
        Failure: The compiler refused; the message is the compiler's, with paths that can be opened from here.
    """
    with tempfile.TemporaryDirectory(prefix="meshkit-gen-") as name:
        scratch = Path(name)
        descriptors, warnings = _parsed(sources, files, includes, known, scratch)
        texts = _modules(files, descriptors, scratch)
    return Compiled(texts | _stubs(files, descriptors), descriptors, warnings)


def _parsed(
    sources: Sources, files: Sequence[str], includes: Sequence[Path], known: FileDescriptorSet, scratch: Path
) -> tuple[FileDescriptorSet, tuple[str, ...]]:
    """Read and check protos."""
    (scratch / "known.pb").write_bytes(known.SerializeToString())
    done = _protoc(
        "-I.",
        *_include_arguments(includes),
        f"--descriptor_set_in={scratch / 'known.pb'}",
        f"--descriptor_set_out={scratch / 'parsed.pb'}",
        "--include_imports",
        "--include_source_info",
        *files,
        folder=sources.root,
    )
    lines = [_openable(line, sources.root) for line in done.stderr.splitlines() if line.strip()]
    if done.returncode:
        raise Failure(_explained(lines) or f"protoc ended with exit code {done.returncode} and said nothing")
    return FileDescriptorSet.FromString((scratch / "parsed.pb").read_bytes()), tuple(lines)


def _modules(files: Sequence[str], descriptors: FileDescriptorSet, scratch: Path) -> dict[str, str]:
    """Write message and stub modules, from the parsed protos."""
    made = scratch / "made"
    made.mkdir()
    (scratch / "safe.pb").write_bytes(_with_safe_comments(descriptors).SerializeToString())
    done = _protoc(
        f"--descriptor_set_in={scratch / 'safe.pb'}",
        f"--python_out={made}",
        f"--grpc_python_out={made}",
        *files,
        folder=scratch,
    )
    if done.returncode:
        raise Failure(done.stderr.strip())
    return {
        path.relative_to(made).as_posix(): path.read_text(encoding="utf-8") for path in made.rglob("*.py")
    }


def _with_safe_comments(descriptors: FileDescriptorSet) -> FileDescriptorSet:
    """Escape comments for gRPC's plugin, which pastes them into docstrings as they are."""
    safe = FileDescriptorSet()
    safe.CopyFrom(descriptors)
    for file in safe.file:
        for place in file.source_code_info.location:
            if place.leading_comments:
                place.leading_comments = place.leading_comments.replace("\\", "\\\\").replace(
                    '"""', '\\"\\"\\"'
                )
    return safe


def _protoc(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "grpc_tools.protoc", *arguments],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def _include_arguments(includes: Sequence[Path]) -> Iterator[str]:
    for include in includes:
        path = str(include.resolve())
        if "=" in path or os.pathsep in path:
            raise Failure(f"--include {path}: protoc cannot read a path with '=' or {os.pathsep!r} in it")
        yield f"-I{path}"
    for package in _GOOGLE:  # shipped by googleapis-common-protos, beside the modules made of them
        spec = importlib.util.find_spec(package)
        for place in spec.submodule_search_locations or () if spec else ():
            yield f"-I{package.replace('.', '/')}={place}"


def _openable(line: str, root: Path) -> str:
    path, colon, rest = line.partition(":")
    if not colon or not path.endswith(".proto") or not (root / path).exists():
        return line
    return f"{shown(root / path)}:{rest}"


def _explained(lines: Sequence[str]) -> str:
    text = "\n".join(lines)
    if "File not found" in text:
        text += "\nimports are looked up from the root of the protos; name further folders with --include"
    return text


def _stubs(files: Sequence[str], descriptors: FileDescriptorSet) -> dict[str, str]:
    request = CodeGeneratorRequest(file_to_generate=files, proto_file=descriptors.file, parameter="quiet")
    texts: dict[str, str] = {}
    for plugin in _PLUGINS:
        done = subprocess.run(
            [sys.executable, "-P", "-c", f"from mypy_protobuf.main import {plugin}; {plugin}()"],
            input=request.SerializeToString(), capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise Failure(f"mypy-protobuf failed:\n{done.stderr.decode(errors='replace')}")
        response = CodeGeneratorResponse.FromString(done.stdout)
        if response.error:
            raise Failure(f"mypy-protobuf: {response.error}")
        texts |= {file.name: file.content for file in response.file}
    return texts
