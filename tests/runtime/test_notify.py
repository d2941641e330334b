"""Telling systemd, or whoever supervises, how a process is: sd_notify over a real socket."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from meshkit import Runtime, State
from meshkit.config import child_environment
from meshkit.config.notifying import Notifying, notifying
from meshkit.discovery.memory import MemoryRegistry
from meshkit.lifecycle import Lifecycle
from meshkit.notify import Notifier, told_of
from tests.runtime.test_runtime import config
from tests.serving.probe import Probe

SERVING = {"READY": "1", "STATUS": "serving", "X_MESHKIT_READY": "1"}


REFUSED = {
    "READY": "1",
    "STATUS": "serving; its new settings are refused, as the log says",
    "X_MESHKIT_READY": "1",
    "X_MESHKIT_OUTDATED": "1",
}


class Listener:
    """What systemd does with its end of the socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    async def next(self) -> dict[str, str]:
        async with asyncio.timeout(30):
            message = await asyncio.get_running_loop().sock_recv(self.socket, 4096)
        return dict(line.split("=", 1) for line in message.decode().split("\n"))


@pytest.fixture
async def listener(tmp_path: Path) -> AsyncIterator[Listener]:
    made = Listener(str(tmp_path / "notify"))
    yield made
    made.socket.close()


def lifecycle(state: State) -> Lifecycle:
    made = Lifecycle("probe", "probe-1")
    made.enter(state)
    return made


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Notifying()),
        ({"NOTIFY_SOCKET": "/run/systemd/notify"}, Notifying("/run/systemd/notify")),
        ({"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "1000000"}, Notifying()),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "30000000"}, Notifying("@n", 30.0)),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}, Notifying("@n")),
        (
            {"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())},
            Notifying("@n", 2.0),
        ),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "soon"}, Notifying("@n")),
    ],
)
def test_whom_to_tell_is_read_as_systemd_says(environ: dict[str, str], expected: Notifying) -> None:
    assert notifying(environ) == expected


def test_processes_that_we_start_do_not_speak_for_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(child_environment())
    assert child_environment(NOTIFY_SOCKET="/own")["NOTIFY_SOCKET"] == "/own"


def test_a_process_serves_when_all_its_replicas_do_and_stops_when_one_does() -> None:
    starting, serving, draining = map(lifecycle, (State.STARTING, State.SERVING, State.DRAINING))
    assert told_of([serving]) == SERVING
    assert told_of([serving, starting]) == {"STATUS": "starting", "X_MESHKIT_READY": "0"}
    assert told_of([serving, draining])["STOPPING"] == "1"
    serving.lacks("brain", "it is away")
    assert told_of([serving]) == {
        "READY": "1",
        "STATUS": "serving, not ready: lacks brain",
        "X_MESHKIT_READY": "0",
    }


async def test_a_runtime_tells_of_its_whole_life(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    runtime = Runtime(Probe, configs={Probe: config(tmp_path)}, registry=MemoryRegistry())
    running = asyncio.create_task(runtime._until_signalled(with_parent=False))
    assert (await listener.next())["STATUS"] == "starting"
    assert await listener.next() == SERVING
    runtime.replicas[0].lifecycle.lacks("store", "it is away")
    assert (await listener.next())["STATUS"] == "serving, not ready: lacks store"
    runtime.replicas[0].lifecycle.has("store")
    assert await listener.next() == SERVING
    signal.raise_signal(signal.SIGTERM)
    assert (await listener.next())["STOPPING"] == "1"
    await running


async def test_a_reload_is_told_from_its_beginning_to_its_end(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text("CU_MAX_CALLS = 7\n")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("CU_CONFIG_FILE", str(file))
    monkeypatch.setenv("CU_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("GRPC_PORT", "0")
    monkeypatch.setenv("CU_DRAIN_PROPAGATION_S", "0")
    runtime = Runtime(Probe, registry=MemoryRegistry())
    runtime._configs = runtime.configure()
    running = asyncio.create_task(runtime._until_signalled(with_parent=False))
    while await listener.next() != SERVING:
        pass
    for text, told in (
        ("CU_MAX_CALLS = 0\n", REFUSED),
        ("CU_MAX_CALLS = 0\n\n", REFUSED),
        ("CU_MAX_CALLS = 8\n", SERVING),
    ):
        file.write_text(text)
        asked = time.monotonic_ns() // 1000
        signal.raise_signal(signal.SIGHUP)
        reloading = await listener.next()
        assert reloading["RELOADING"] == "1"
        assert int(reloading["MONOTONIC_USEC"]) >= asked
        assert await listener.next() == told
    signal.raise_signal(signal.SIGTERM)
    assert (await listener.next())["STOPPING"] == "1"
    await running


async def test_what_would_end_a_reload_waits_for_its_end_and_a_drain_does_not(
    listener: Listener, tmp_path: Path
) -> None:
    notifier = Notifier(Notifying(str(tmp_path / "notify")))
    notifier.start()
    notifier.reloading()
    notifier.reloaded()
    notifier.tell({"STATUS": "starting"})
    notifier.reloading()
    notifier.reloaded()
    assert [await listener.next(), await listener.next()] == [{"STATUS": "starting"}] * 2
    notifier.tell({"READY": "1", "STATUS": "2 of 2 ready"})
    notifier.tell({"STATUS": "1 of 2 ready"})
    notifier.reloading()
    notifier.tell({"STATUS": "0 of 2 ready"})
    notifier.reloaded()
    notifier.reloading()
    notifier.tell({"STOPPING": "1", "STATUS": "draining"})
    notifier.reloading()
    told = [await listener.next() for _ in range(6)]
    assert [each.get("RELOADING", each["STATUS"]) for each in told] == [
        "2 of 2 ready",
        "1 of 2 ready",
        "1",
        "0 of 2 ready",
        "1",
        "draining",
    ]
    assert told[3]["READY"] == "1", "whoever asked for the reload waits for it"
    with pytest.raises(BlockingIOError):
        listener.socket.recv(4096)
    notifier.close()


async def test_signs_of_life_come_from_the_event_loop(listener: Listener, tmp_path: Path) -> None:
    notifier = Notifier(Notifying(str(tmp_path / "notify"), watchdog_s=0.02))
    notifier.start()
    for _ in range(3):
        assert await listener.next() == {"WATCHDOG": "1"}
    notifier.close()
    assert notifier._beating is not None
    assert notifier._beating.cancelled()


async def test_an_abstract_address_is_taken() -> None:
    address = f"@meshkit-test-{os.getpid()}"
    listener = Listener("\0" + address[1:])
    notifier = Notifier(Notifying(address))
    notifier.start()
    notifier.tell({"STATUS": "starting"})
    notifier.tell({"STATUS": "starting"})
    notifier.tell({"STATUS": "serving"})
    assert [await listener.next(), await listener.next()] == [{"STATUS": "starting"}, {"STATUS": "serving"}]
    notifier.close()
    listener.socket.close()


async def test_where_nobody_listens_that_is_logged_once_and_harms_nothing(tmp_path: Path) -> None:
    notifier: Any = Notifier(Notifying(str(tmp_path / "nobody")))
    notifier.start()
    with capture_logs() as logs:
        notifier.tell({"STATUS": "starting"})
        notifier.tell({"STATUS": "serving"})
    notifier.close()
    assert [line["event"] for line in logs] == ["NOTIFY_SOCKET cannot be told"]
