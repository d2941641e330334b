"""A Docker engine of these tests' own, in a folder of its own, with the images that it cannot pull from a registry."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.docs.pages import ROOT

SCRIPT = ROOT / "scripts" / "engine"
IMAGES = Path(__file__).parent / "images"
BASES = {
    "python": "python:3.11-slim",
    "postgres": "meshkit-test/postgres",
    "redis": "meshkit-test/redis",
    "prometheus": "meshkit-test/prometheus",
}
"""Root file systems that the script makes, and what they are imported as."""

STAND_INS = {"postgres": "pgvector/pgvector:pg17", "redis": "redis:7", "prometheus": "prom/prometheus:v3.5.0"}
"""Images that are built upon them, in the place of those that the compose file names."""

START_S = 60.0
_DAEMON = (
    # it changes nothing of the machine's network but bridges of its own: containers cannot reach beyond it
    *("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none"),
    # a name that is none of a container's is nobody's here
    *("--dns-opt", "timeout:1", "--dns-opt", "attempts:1"),
)


@dataclass(frozen=True)
class Traces:
    """What an engine, or a container, leaves on a machine.

    Attributes:
        processes: Processes that name the engine's folder, as `pid: command line`.
        mounts: Mount points within the folder, and those of network namespaces in it.
        interfaces: The machine's network interfaces.
    """

    processes: frozenset[str]
    mounts: frozenset[str]
    interfaces: frozenset[str]

    @classmethod
    def of(cls, folder: Path) -> Traces:
        """Those of an engine in that folder."""
        mounts = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
        return cls(
            frozenset(_processes(str(folder))),
            frozenset(mount for mount in mounts if mount.startswith(str(folder))),
            frozenset(entry.name for entry in Path("/sys/class/net").iterdir()),
        )

    def __sub__(self, before: Traces) -> list[str]:
        """What was not there before."""
        return sorted(
            self.processes - before.processes
            | self.mounts - before.mounts
            | self.interfaces - before.interfaces
        )


def _processes(folder: str) -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or entry.name == str(os.getpid()):
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if folder in " ".join(words):
            yield f"{entry.name}: {' '.join(words)}"


@dataclass
class Engine:
    """A running engine.

    Attributes:
        folder: All that it has.
        environment: What programs need to talk to it.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def docker(self, *words: str, timeout: float = 300) -> str:
        """Runs the client; gives what it says.

        Raises:
            AssertionError: It failed.
        """
        done = subprocess.run(
            ["docker", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"docker {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def load(self, cache: Path) -> None:
        """Imports and builds the images that there is no registry for."""
        for name, image in BASES.items():
            self.docker("import", str(cache / f"{name}.tar"), image)
        for name, image in STAND_INS.items():
            self.build(image, IMAGES, "--file", str(IMAGES / f"{name}.Dockerfile"))

    def build(self, image: str, folder: Path, *words: str) -> None:
        """Builds an image, with the machine's network, for there is no other to build with."""
        self.docker("build", "--quiet", "--network=host", "--tag", image, *words, str(folder))


@contextmanager
def running(folder: Path) -> Iterator[Engine]:
    """An engine for as long as the block lasts; what it needs is installed first.

    Args:
        folder: An empty one, whose path is short: sockets are in it.

    Raises:
        RuntimeError: This machine cannot have one; the message says what it lacks.
    """
    cache = prepared("install", "images")
    settings = folder / "client"
    settings.mkdir()
    (settings / "cli-plugins").symlink_to(cache / "cli-plugins")
    engine = Engine(
        folder,
        {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(folder),
            "DOCKER_HOST": f"unix://{folder}/docker.sock",
            "DOCKER_CONFIG": str(settings),
            "BUILDKIT_PROGRESS": "plain",
        },
    )
    with (folder / "engine.log").open("wb") as log:
        daemon = subprocess.Popen(
            [
                *("dockerd", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"),
                *("--host", engine.environment["DOCKER_HOST"], "--pidfile", f"{folder}/pid"),
                *_DAEMON,
            ],
            env=engine.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_for(engine, daemon)
        engine.load(cache)
        yield engine
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)


def prepared(*works: str) -> Path:
    """Has the script install programs and make root file systems; gives the folder that it keeps them in."""
    for work in works:
        done = subprocess.run([SCRIPT, work], stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
    home = os.environ.get("XDG_CACHE_HOME") or f"{os.environ['HOME']}/.cache"
    return Path(home) / "meshkit-deploy"


def _wait_for(engine: Engine, daemon: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + START_S
    while daemon.poll() is None and time.monotonic() < limit:
        asked = subprocess.run(
            ["docker", "version"], env=engine.environment, capture_output=True, timeout=20, check=False
        )
        if asked.returncode == 0:
            return
        time.sleep(0.2)
    log = (engine.folder / "engine.log").read_text(errors="replace").splitlines()
    raise RuntimeError("the Docker engine does not start:\n" + "\n".join(log[-20:]))
