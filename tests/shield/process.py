"""Shield as a process of its own, at a port that it keeps: killed, and started again."""

import os
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from tests.shield.conftest import SECRET

ROOT = Path(__file__).parents[2]
SECONDS = 30.0


class Process:
    """A Shield that runs, or did.

    Args:
        state: Its state folder.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        self.log = state / "shield.log"
        state.mkdir(mode=0o700, exist_ok=True)
        with closing(socket.socket()) as taken:
            taken.bind(("127.0.0.1", 0))
            self.port: int = taken.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def environment(self, **settings: str) -> dict[str, str]:
        return {
            "PATH": os.defpath,
            "HOME": str(self.state),
            "CU_STATE_DIR": str(self.state),
            "CU_PROJECT_SECRET": f"k1:{SECRET}",
            "GRPC_PORT": str(self.port),
            "CU_DRAIN_PROPAGATION_S": "0",
            "SHIELD_KEY_ACTIVATION_S": "0",
            **settings,
        }

    def launch(self, **settings: str) -> subprocess.Popen[bytes]:
        """Starts the process, without waiting for it."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "reference_services.shield"],
                cwd=ROOT,
                env=self.environment(**settings),
                stdout=output,
                stderr=output,
            )
        return self.process

    def start(self) -> None:
        """Starts the process, and waits until it listens."""
        seen = self.log.stat().st_size if self.log.exists() else 0
        process, limit = self.launch(), time.monotonic() + SECONDS
        while b"serving" not in self.log.read_bytes()[seen:]:
            assert process.poll() is None, self.log.read_text()
            assert time.monotonic() < limit, self.log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """Ends it as a crash does."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(SECONDS)

    def run(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """A command of its operator's."""
        environment = self.environment(**settings) | {"CU_SHIELD_GRPC_URL": self.address}
        return subprocess.run(
            [sys.executable, "-m", "meshkit", *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
