"""The project's own compose file, run in a copy of the checkout as a person would run it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from meshkit import SharedConfig
from tests.deploy.engine import Engine
from tests.deploy.programs import ran
from tests.docs.pages import ROOT

NEEDED = (
    *("Dockerfile", ".dockerignore", "docker-compose.yml", ".env.example", "Makefile", "scripts"),
    *("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "docs", "meshkit", "reference_services"),
    "infrastructure",
)
"""What a person needs of the checkout."""

BUILT = ("brain", "router", "worker", "zero", "shield")
NETWORK = "contextunity-net"
HERE = "contextunity"
"""What compose calls the project."""

TENANT = "demo"
BASE = "python:3.11-slim"
IMAGE = "contextunity/meshkit"


@dataclass(frozen=True)
class Container:
    """A container of a service.

    Attributes:
        name: Its name.
        service: The service that it is of.
        pid: Process id of its first process on this machine; 0 where none runs.
        health: `healthy`, `unhealthy`, `starting`; empty where it is not asked.
        exit_code: What its first process ended with.
        address: Its address in the mesh's network; empty where it has none.
    """

    name: str
    service: str
    pid: int
    health: str
    exit_code: int
    address: str

    def kill(self) -> None:
        """Ends it as a crash does: by no command of the engine's, which would then not start it again."""
        os.kill(self.pid, signal.SIGKILL)


class Deployment:
    """A copy of the checkout, and what runs of it.

    Args:
        engine: Where it runs.
        folder: The copy.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder

    def copy_checkout(self) -> None:
        """Makes the copy."""
        copy_checkout(self.folder, NEEDED)
        # an engine that reaches no further than its own bridges builds with the machine's network
        self.override({service: {"build": {"network": "host"}} for service in BUILT})

    def override(self, services: dict[str, Any]) -> None:
        """Changes services beside the compose file, as compose lets a person do."""
        file = self.folder / "docker-compose.override.yml"
        known = json.loads(file.read_text())["services"] if file.exists() else {}
        file.write_text(json.dumps({"services": known | services}))

    def run(self, *words: str, timeout: float = 300, **settings: str) -> subprocess.CompletedProcess[str]:
        """Runs a program in the copy; both of its streams are in `stdout`."""
        return ran(words, timeout=timeout, env=self.engine.environment | settings, cwd=self.folder)

    def compose(self, *words: str, timeout: float = 300, **settings: str) -> str:
        """Runs `docker compose`; gives what it says.

        Raises:
            AssertionError: It failed.
        """
        done = self.run("docker", "compose", *words, timeout=timeout, **settings)
        assert done.returncode == 0, f"docker compose {' '.join(words)}\n{done.stdout}"
        return done.stdout

    def up(self, *words: str, **settings: str) -> float:
        """Starts it, and waits until all are healthy; gives the seconds that this took."""
        start = time.monotonic()
        self.compose("up", "--detach", "--wait", "--no-build", *words, **settings)
        return time.monotonic() - start

    def scale(self, **replicas: int) -> None:
        """Scales services, and waits for none."""
        words = [word for service, count in replicas.items() for word in ("--scale", f"{service}={count}")]
        self.compose("up", "--detach", "--no-recreate", "--no-build", *words)

    def down(self) -> None:
        """Removes containers, network and volumes."""
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "60")

    def containers(self, service: str = "") -> list[Container]:
        """Its containers, those too that have ended, by name."""
        words = ["--filter", f"label=com.docker.compose.project={HERE}"]
        words += ["--filter", "label=com.docker.compose.oneoff=False"]
        if service:
            words += ["--filter", f"label=com.docker.compose.service={service}"]
        ids = self.engine.docker("ps", "--all", "--quiet", *words).split()
        rows = json.loads(self.engine.docker("inspect", *ids)) if ids else []
        return sorted(map(_container, rows), key=lambda each: each.name)

    def logs(self, service: str) -> str:
        """What a service has written to its log."""
        return self.compose("logs", "--no-log-prefix", "--no-color", service)

    def sql(self, query: str) -> list[list[str]]:
        """Rows of a query as the database's superuser."""
        words = ("exec", "-T", "postgres", "psql", "--username=contextunity", "--no-align", "--tuples-only")
        return [line.split("|") for line in self.compose(*words, "--command", query).splitlines()]

    def write_env(self, **changes: str) -> None:
        """Makes `.env` anew with fresh secrets, then changes settings in it."""
        (self.folder / ".env").unlink(missing_ok=True)
        done = self.run("make", "--silent", "env")
        assert done.returncode == 0, done.stdout
        self.change_env(**changes)

    def change_env(self, **changes: str) -> None:
        """Changes settings in `.env`, those too that are there as comments."""
        file = self.folder / ".env"
        lines = file.read_text().splitlines()
        for name, value in changes.items():
            (place,) = (n for n, line in enumerate(lines) if line.lstrip("#").startswith(f"{name}="))
            lines[place] = f"{name}={value}"
        file.write_text("\n".join(lines) + "\n")

    def use_redis(self) -> None:
        """Takes the comment away before the setting that `.env` has for it."""
        lines = (self.folder / ".env").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("#MESH_REDIS_URL="))
        self.change_env(MESH_REDIS_URL=line.partition("=")[2])

    def outside(self, **settings: Any) -> SharedConfig:
        """Settings of a program on this machine that calls through the published port."""
        values = dotenv_values(self.folder / ".env", interpolate=False)
        return SharedConfig(
            registry_url=f"static://router=127.0.0.1:{values['MESH_ROUTER_PORT']}",
            project_secret=values["CU_PROJECT_SECRET"],
            tenant=TENANT,
            **settings,
        )


def copy_checkout(folder: Path, names: Sequence[str]) -> None:
    """Copies what is named of the checkout into a new folder."""
    folder.mkdir()
    for name in names:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)


def until(holds: Callable[[], bool], what: str, seconds: float = 60.0) -> float:
    """Looks until it holds; gives the seconds that this took.

    Raises:
        AssertionError: It does not in time.
    """
    start = time.monotonic()
    while not holds():
        assert time.monotonic() - start < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)
    return time.monotonic() - start


def _container(row: dict[str, Any]) -> Container:
    state, labels = row["State"], row["Config"]["Labels"]
    network = row["NetworkSettings"]["Networks"].get(NETWORK) or {}
    return Container(
        name=row["Name"].removeprefix("/"),
        service=labels["com.docker.compose.service"],
        pid=state["Pid"],
        health=state.get("Health", {}).get("Status", ""),
        exit_code=state["ExitCode"],
        address=network.get("IPAddress", ""),
    )
