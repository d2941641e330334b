"""Where generated modules live, and how they import each other.

protoc writes absolute imports from the root of the protos (`from acme.v1 import user_pb2`), which work only
if the output folder itself is on `sys.path`. Here every import between generated files becomes relative where
the two files share a package, so that the folder works at any depth and under any name. Files whose top
packages differ (`common/v1` and `greeter/v1`) share a package only if the output folder is one itself; where
it is not, it must be on `sys.path`, and those imports stay absolute.

The output folder counts as a package if it or the folder above has an `__init__.py` (or the one above a
`py.typed`), and then gets an `__init__.py`; `--package` and `--no-package` say it outright.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from meshkit.cli.codegen.protos import module_of

_MESHKIT = "meshkit._gen."


def is_package(folder: Path) -> bool:
    """Tell whether modules in a folder are imported as members of a package."""
    marks = (folder / "__init__.py", folder.parent / "__init__.py", folder.parent / "py.typed")
    return folder.name.isidentifier() and any(mark.exists() for mark in marks)


@dataclass(frozen=True)
class Layout:
    """The modules that one run may name.

    Attributes:
        package: Whether the output folder is a Python package.
        local: Protos whose modules are in the output folder.
    """

    package: bool
    local: Collection[str]

    def reference(self, proto: str, importer: str) -> tuple[str, str]:
        """Say how a generated file imports the module of a proto: `from <first> import <second>`.

        The first is empty where it is `import <second>`.

        Args:
            proto: The proto whose module is wanted.
            importer: The proto whose code is importing.
        """
        *folders, name = module_of(proto).split(".")
        if proto not in self.local:
            prefix = _MESHKIT if proto.startswith("meshkit/") else ""
            return prefix + ".".join(folders), name
        here = module_of(importer).split(".")[:-1]
        shared = _shared(folders, here)
        if not shared and not self.package:
            return ".".join(folders), name
        return "." * (len(here) - shared + 1) + ".".join(folders[shared:]), name

    def rewrite(self, text: str, importer: str, protos: Iterable[str]) -> str:
        """Mend the imports of one generated file.

        Args:
            text: Its source, a module or a stub.
            importer: The proto that it was made of.
            protos: All protos that it may import.
        """
        by_module = {module_of(proto): proto for proto in protos}
        lines = text.splitlines(keepends=True)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                mended = self._mended(node, importer, by_module)
                if mended is not None:
                    lines[node.lineno - 1] = " " * node.col_offset + mended + "\n"
                    lines[node.lineno : node.end_lineno] = [""] * (
                        (node.end_lineno or node.lineno) - node.lineno
                    )
        return "".join(lines)

    def _mended(
        self, node: ast.Import | ast.ImportFrom, importer: str, by_module: dict[str, str]
    ) -> str | None:
        if isinstance(node, ast.ImportFrom) and node.module in by_module:
            package, name = self.reference(by_module[node.module], importer)
            joint = "" if not package or package.endswith(".") else "."
            return f"from {package}{joint}{name} import {', '.join(map(_alias, node.names))}"
        only = node.names[0]
        module = f"{node.module}.{only.name}" if isinstance(node, ast.ImportFrom) else only.name
        if module not in by_module:
            return None
        package, name = self.reference(by_module[module], importer)
        alias = _alias(ast.alias(name, only.asname))
        return f"from {package} import {alias}" if package else f"import {alias}"


def _alias(name: ast.alias) -> str:
    return f"{name.name} as {name.asname}" if name.asname else name.name


def _shared(one: list[str], other: list[str]) -> int:
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count
