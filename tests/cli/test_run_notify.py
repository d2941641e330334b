"""What `meshkit run --processes` tells systemd, heard at a socket of the test's own."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.running import SECONDS
from tests.cli.test_restart import Processes

QUIET_S = 60
"""No process of a busy machine is without a sign of life for so long."""

HUNG_S = 6
Told = dict[str, str]


class Systemd:
    """The other end of `NOTIFY_SOCKET`, and what runs at this one."""

    def __init__(self, folder: Path, watchdog_s: int) -> None:
        self.file = folder / "mesh.toml"
        self.file.write_text("CU_MAX_CALLS = 7\n")
        self.told: Told = {}
        self.beats = 0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(SECONDS)
        self.socket.bind(str(folder / "notify"))
        self.running = Processes(
            folder / "state",
            *("--processes", "2", "main:Greeter"),
            CU_CONFIG_FILE=str(self.file),
            NOTIFY_SOCKET=str(folder / "notify"),
            WATCHDOG_USEC=str(watchdog_s * 1_000_000),
            GRPC_PORT="0",
        )

    def until(self, met: Callable[[Told], bool]) -> Told:
        """Hears until something is told for which it holds; signs of life are counted."""
        limit = time.monotonic() + SECONDS
        while True:
            assert time.monotonic() < limit, f"{self.told}\n{self.running.output.read_text()}"
            told = dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines())
            if "WATCHDOG" in told:
                self.beats += 1
            else:
                self.told = told
            if met(self.told):
                return self.told

    def hear_a_beat(self) -> None:
        """Hears until there is one more sign of life."""
        beats = self.beats
        self.until(lambda _: self.beats > beats)

    def reload(self, text: str) -> tuple[Told, Told]:
        """What is told at the beginning, and at the end."""
        self.file.write_text(text)
        self.running.process.send_signal(signal.SIGHUP)
        began = self.until(lambda told: "RELOADING" in told)
        return began, self.until(lambda told: "READY" in told)


@contextmanager
def heard(folder: Path, watchdog_s: int) -> Iterator[Systemd]:
    made = Systemd(folder, watchdog_s)
    try:
        made.until(lambda told: "READY" in told)
        yield made
    finally:
        if made.running.process.poll() is None:
            made.running.end()
        made.socket.close()


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    with heard(tmp_path_factory.mktemp("systemd"), QUIET_S) as made:
        yield made


def test_it_serves_when_all_processes_do(systemd: Systemd) -> None:
    assert (systemd.told["READY"], systemd.told["STATUS"]) == ("1", "2 of 2 ready")


def test_a_reload_reaches_all_processes_and_is_over_when_all_have_read_their_settings(
    systemd: Systemd,
) -> None:
    asked = time.monotonic_ns() // 1000
    began, over = systemd.reload("CU_MAX_CALLS = 8\n")
    assert int(began["MONOTONIC_USEC"]) >= asked
    assert over["STATUS"] == "2 of 2 ready"
    assert systemd.running.output.read_text().count("CU_MAX_CALLS='7 -> 8'") == 2
    _, refused = systemd.reload("CU_MAX_CALLS = 0\n")
    assert refused["STATUS"] == "2 of 2 ready; its new settings are refused, as the log says"
    assert systemd.running.output.read_text().count("the new settings are not used") >= 2
    _, over = systemd.reload("CU_MAX_CALLS = 9\n")
    assert over["STATUS"] == "2 of 2 ready"


def test_the_first_process_lives_and_serves_on_whatever_becomes_of_one_of_the_others(tmp_path: Path) -> None:
    with heard(tmp_path, HUNG_S) as systemd:
        os.kill(systemd.running.pids()[0], signal.SIGSTOP)
        systemd.until(lambda told: told["STATUS"].startswith("1 of 2 ready"))
        systemd.hear_a_beat()
        systemd.until(lambda told: told["STATUS"] == "2 of 2 ready")
        assert "killed: it hangs" in systemd.running.output.read_text()
        systemd.reload("CU_MAX_CALLS = 0\n")
        os.kill(systemd.running.pids()[0], signal.SIGKILL)
        told = systemd.until(lambda told: "cannot run" in told["STATUS"])
        assert told["STATUS"].startswith("1 of 2 ready; cannot run: greeter-")
        _, over = systemd.reload("CU_MAX_CALLS = 9\n")
        assert over["STATUS"].startswith("1 of 2 ready; cannot run: greeter-")
        systemd.hear_a_beat()
        systemd.running.process.send_signal(signal.SIGTERM)
        assert systemd.until(lambda told: "STOPPING" in told)["STATUS"] == "draining"
        assert systemd.running.process.wait(SECONDS) == 0
