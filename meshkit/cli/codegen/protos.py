"""Which protos to compile, and the folder that their import paths start from."""

from __future__ import annotations

import keyword
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from meshkit.cli.output import Failure, shown

_SKIPPED = {"node_modules", "__pycache__", "site-packages"}
_TOKEN = re.compile(r"//[^\n]*|/\*.*?\*/|(\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*')", re.DOTALL)
_PACKAGE = re.compile(r"(?:^|[;}])\s*package\s+([\w.]+)\s*;")


@dataclass(frozen=True)
class Sources:
    """The protos of one run.

    Attributes:
        root: Absolute folder that import paths are relative to.
        scopes: What the run answers for, relative to the root: the folder that was asked for, or, where that is the
            root (or lies above it), each folder in it; empty for protos in no folder.
        files: All protos in it, as import paths, sorted.
    """

    root: Path
    scopes: frozenset[str]
    files: tuple[str, ...]


def find_sources(folder: Path, root: Path | None = None) -> Sources:
    """Find the protos below a folder and their root.

    The root follows from the `package` lines: `protos/acme/v1/user.proto` with `package acme.v1` has the root
    `protos`, whichever of its folders was asked for.

    Args:
        folder: Searched with its subfolders, hidden ones and virtual environments left out.
        root: The root, where the packages do not say it; packages are then not compared with paths.

    Raises:
        Failure: No protos; packages and paths disagree; a name that Python cannot import.
    """
    folder = folder.resolve()
    paths = sorted(_walk(folder))
    if not paths:
        raise Failure(f"no .proto files in {shown(folder)}")
    root = _given(root, folder) if root else _root_by_packages(folder, paths)
    files = tuple(sorted(path.relative_to(root).as_posix() for path in paths))
    for file in files:
        _check_importable(file)
    _check_distinct(files)
    scope = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else "."
    scopes = {file.rpartition("/")[0].partition("/")[0] for file in files} if scope == "." else {scope}
    return Sources(root, frozenset(scopes), files)


def module_of(proto: str) -> str:
    """Give the module that protoc makes of a proto: `acme/v1/user.proto` -> `acme.v1.user_pb2`."""
    return proto.removesuffix(".proto").replace("-", "_").replace("/", ".") + "_pb2"


def _walk(folder: Path) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        here = Path(where)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and name not in _SKIPPED and not (here / name / "pyvenv.cfg").exists()
        ]
        yield from (here / name for name in files if name.endswith(".proto") and not name.startswith("."))


def _given(root: Path, folder: Path) -> Path:
    root = root.resolve()
    if not folder.is_relative_to(root):
        raise Failure(f"--root {root} does not hold {folder}: it must be that folder or one above it")
    return root


def _root_by_packages(folder: Path, paths: Sequence[Path]) -> Path:
    packages = {path: _package_of(path) for path in paths}
    candidates = {path: _root_of(path, package) for path, package in packages.items() if package}
    if not candidates:
        return folder
    wrong = [path for path, candidate in candidates.items() if candidate is None]
    votes = Counter(candidate for candidate in candidates.values() if candidate is not None)
    if wrong or not votes:
        raise Failure(_disagreement(wrong[0], packages[wrong[0]]))
    root = min(votes, key=lambda candidate: (-votes[candidate], len(candidate.parts), candidate))
    for path, candidate in candidates.items():
        if candidate != root:
            raise Failure(
                f"{shown(path)}: package {packages[path]} puts the root at {candidate}, others at {root}; "
                "generate them apart (with --include for imports between them), or say --root"
            )
    return _shared_root(root, packages)


def _shared_root(root: Path, packages: Mapping[Path, str]) -> Path:
    """Accept the root if files without a package lie below it too; they say nothing themselves."""
    for path in packages:
        if not path.is_relative_to(root):
            raise Failure(
                f"{shown(path)} has no package and lies outside the root of the others, {root}; say --root"
            )
    return root


def _root_of(path: Path, package: str) -> Path | None:
    parts = package.split(".")
    above = path.parent.parts
    if [part.replace("-", "_") for part in above[-len(parts) :]] != parts:
        return None
    return Path(*above[: -len(parts)])


def _disagreement(path: Path, package: str) -> str:
    expected = PurePosixPath(*package.split("."), path.name)
    return (
        f"{shown(path)}: package {package} does not match its folder; it belongs in {expected} below the "
        "root (or say --root, and package and path are not compared)"
    )


def _package_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    bare = _TOKEN.sub(lambda match: '""' if match.group(1) else " ", text)
    found = _PACKAGE.search(bare)
    return found.group(1) if found else ""


def _check_importable(file: str) -> None:
    *folders, name = file.removesuffix(".proto").replace("-", "_").split("/")
    for part in (*folders, f"{name}_pb2"):
        if not part.isidentifier() or keyword.iskeyword(part):
            raise Failure(f"{file}: Python cannot import a module named {part!r}; rename the folder or file")


def _check_distinct(files: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for file in files:
        other = seen.setdefault(module_of(file), file)
        if other != file:
            raise Failure(f"{other} and {file} both become the module {module_of(file)}; rename one")
