"""Who may import whom, and what importing meshkit costs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import meshkit.redis

ROOT = Path(__file__).parent.parent

FOUNDATION = {"errors", "instance", "limits", "metadata", "naming", "client", "config", "latency", "rotation"}
MIDDLE = {"discovery", "balancing", "resilience", "security", "telemetry"}
ON_REDIS = {"discovery", "security"}
BELOW_MIDDLE = {"errors", "instance", "metadata", "config", "call", "pipeline"}
ALLOWED: dict[str, set[str]] = {
    **{room: set() for room in FOUNDATION},
    "call": {"errors"},
    "pipeline": {"call", "errors", "_gen"},
    "redis": {"errors", "config"},
    **{room: BELOW_MIDDLE | {"latency"} for room in MIDDLE - ON_REDIS},
    **{room: BELOW_MIDDLE | {"redis"} for room in ON_REDIS},
    "security": BELOW_MIDDLE | {"redis", "protocol"},
    "transport": {"errors", "instance", "limits", "metadata", "client", "call", "pipeline", "_gen"},
    "declaration": {"pipeline"},
    "binding": {"call", "declaration", "instance", "naming", "pipeline", "security"},
    "service": {"binding", "declaration", "pipeline", "config", "runtime"},
    "protocol": {"_gen"},
    "authority": {"security"},
    "lifecycle": {"instance"},
    "notify": {"config", "instance", "lifecycle"},
    "listening": {"notify"},
    "child": {"listening"},
    "supervisor": {"child", "errors", "rotation"},
}
"""What each room may import of meshkit; rooms that are not here (mesh, serving, replica, runtime) wire the others."""

PUBLIC = {"authority", "config", "protocol"}
"""Rooms that reference services may import besides `meshkit` itself; of `meshkit.redis`, what it gives itself."""

NOBODY_IMPORTS = {"cli", "testing"}

BACK = {
    ("meshkit.config.shared", "meshkit.config.loading"),  # SharedConfig.load()
    ("meshkit.service", "meshkit.runtime"),  # CUService.run()
}
"""Where a class has what makes or runs it as a method of its own. All other imports run one way."""


def modules(package: str) -> Iterator[Path]:
    yield from (path for path in (ROOT / package).rglob("*.py") if "_gen" not in path.parts)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Names of the modules that a file imports when it runs, with their lines."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(inner for child in node.body for inner in ast.walk(child))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module or "", node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def room_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if parts[0] == "meshkit" and len(parts) > 1 else ""


def room_of_file(path: Path) -> str:
    return path.relative_to(ROOT / "meshkit").parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for package in ("meshkit", "reference_services") for path in modules(package)}


def modules_imported(path: Path) -> set[str]:
    """Our modules that a file imports: when it runs, within functions, and for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return found & MODULES.keys()


ROOMS = {
    path.name.removesuffix(".py") for path in (ROOT / "meshkit").iterdir() if not path.name.startswith("__")
}


def test_each_room_imports_only_what_it_may() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line}: {room_of_file(path)} imports {name}"
        for path in modules("meshkit")
        if room_of_file(path) in ALLOWED
        for name, line in imports(path)
        if room_of(name) in ROOMS and room_of(name) not in ALLOWED[room_of_file(path)] | {room_of_file(path)}
    ]
    assert not faults, "\n".join(faults)


def test_imports_run_one_way() -> None:
    graph = {name: modules_imported(path) - {name} for name, path in MODULES.items()}
    for name, imported in BACK:
        graph[name].remove(imported)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_nothing_imports_the_command_line_or_the_test_kit() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line}: imports {name}"
        for path in modules("meshkit")
        if room_of_file(path) not in NOBODY_IMPORTS | {"__main__"}
        for name, line in imports(path)
        if room_of(name) in NOBODY_IMPORTS
    ]
    assert not faults, "\n".join(faults)


def test_grpc_is_imported_in_transport_only() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line}: imports {name}"
        for package in ("meshkit", "reference_services")
        for path in modules(package)
        if not (package == "meshkit" and room_of_file(path) in {"transport", "interceptors"})
        for name, line in imports(path)
        if name.split(".")[0].startswith("grpc")
        and name != "grpc_tools"
        and not name.startswith("grpc_tools.")
    ]
    assert not faults, "\n".join(faults)


def test_the_redis_library_is_imported_in_its_room_only() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line}: imports {name}"
        for package in ("meshkit", "reference_services")
        for path in modules(package)
        if not (package == "meshkit" and room_of_file(path) == "redis")
        for name, line in imports(path)
        if name.split(".")[0] in {"redis", "hiredis"}
    ]
    assert not faults, "\n".join(faults)


def test_reference_services_stand_on_the_public_face_only() -> None:
    of_redis = {"meshkit.redis", *(f"meshkit.redis.{name}" for name in meshkit.redis.__all__)}
    faults = [
        f"{path.relative_to(ROOT)}:{line}: imports {name}"
        for path in modules("reference_services")
        for name, line in imports(path)
        if name.startswith("meshkit.") and room_of(name) in ROOMS - PUBLIC and name not in of_redis
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import meshkit", ("redis", "typer", "dbos", "opentelemetry.sdk", "grpc", "pydantic")),
        ("import meshkit; meshkit.CUService, meshkit.Mesh", ("redis", "typer", "dbos", "opentelemetry.sdk")),
        (
            "from meshkit.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
            ("grpc", "redis", "dbos"),
        ),
        ("import meshkit.config; meshkit.config.quiet_grpc", ("pydantic",)),
        (
            "from meshkit.cli import main\ntry: main(['health', '127.0.0.1:1'])\nexcept SystemExit: pass",
            ("typer", "rich", "pydantic", "redis"),
        ),
    ],
)
def test_what_is_not_used_is_not_loaded(code: str, absent: tuple[str, ...]) -> None:
    look = f"loaded = [name for name in {absent!r} if name in sys.modules]"
    check = f"{code}\nimport sys\n{look}\nsys.exit(str(loaded) if loaded else 0)"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
