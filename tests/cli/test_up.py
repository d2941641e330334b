"""`meshkit up`: a mesh of processes that is watched, mended and drained; one on a state folder."""

import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshkit.cli.pidfile import NAME
from tests.cli.running import Up, meshkit, processes_with, until, up


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    return folder


def test_it_runs_replicas_starts_dead_ones_again_and_drains(state: Path) -> None:
    running = Up(state, "main:Greeter", "greeter=2")
    try:
        running.until("serving: greeter 2/2")
        victim = next(pid for pid, log in running.replicas().items() if log == "greeter-1.log")
        os.kill(victim, signal.SIGKILL)
        running.until("serving: greeter 1/2")
        running.until("serving: greeter 2/2")
        running.process.send_signal(signal.SIGHUP)
        logs = [state / "logs" / f"greeter-{number}.log" for number in (1, 2)]
        until(lambda: all("settings read again, nothing changed" in log.read_text() for log in logs))
        assert victim not in running.replicas()
    finally:
        code = running.end()
    assert code == 0, running.output.read_text()
    assert running.replicas() == {}
    assert "stopped" in (state / "logs" / "greeter-2.log").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--scale", "brian=3"), "this mesh has no service 'brian'; did you mean brain?"),
        (("--scale", "brain=many"), "a number from 0 to 256"),
        (("brain=1000",), "a number from 0 to 256"),
        (("brain=1", "--scale", "brain=2"), "brain is given twice"),
        (("nowhere:Nothing",), "nowhere"),
        (
            ("main:Greeter", "main:Greeter"),
            "main:Greeter and main:Greeter are both called greeter: write NAME=COUNT",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_with_a_reason(
    state: Path, words: tuple[str, ...], message: str
) -> None:
    done = meshkit(state, "up", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_mesh_on_a_state_folder_is_refused_and_the_first_one_named(state: Path) -> None:
    with up(state, "main:Greeter") as first:
        first.until("serving: greeter 1/1")
        log = (state / "logs" / "greeter-1.log").read_text()
        done = meshkit(state, "up", "main:Greeter")
        assert done.returncode == 1
        assert f"a mesh is up on {state} already: process {first.process.pid}\n" in done.stderr
        assert (state / "logs" / "greeter-1.log").read_text() == log
        assert len(first.replicas()) == 1


def test_a_mesh_that_was_killed_is_in_nobodys_way(state: Path) -> None:
    with up(state, "main:Greeter") as first:
        first.until("serving: greeter 1/1")
        first.process.kill()
        first.process.wait()
    assert (state / NAME).read_text() == f"{first.process.pid}\n"
    with up(state, "main:Greeter") as second:
        second.until("serving: greeter 1/1")


def test_instances_of_others_do_not_count(state: Path) -> None:
    with up(state, "main:Greeter", "greeter=0") as running:
        running.until("serving: greeter 0/0")
        other = {"GRPC_PORT": "0", "CU_SHARD_KEY": "greeter-1"}
        with up(
            state / "other", "main:Greeter", CU_REGISTRY_URL=f"file://{state}/registry", **other
        ) as stranger:
            stranger.until("serving: greeter 1/1")
            assert meshkit(state, "scale", "greeter=1").stdout == "greeter: 0 → 1\n"
            running.until("serving: greeter 1/1")
            assert running.shard_keys() == ["greeter-1", "greeter-1"]
    assert "serving: greeter 2/" not in running.output.read_text()


@pytest.fixture
def redis_mesh(state: Path) -> Iterator[Up]:
    with up(state, "--redis", "main:Greeter", "greeter=2") as running:
        running.until("REDIS_URL_FILE=")
        running.until("serving: greeter 2/2")
        yield running


def redis_process(state: Path) -> int:
    return next(pid for pid, name in processes_with(1, state / "redis").items() if name == "redis.log")


def test_a_redis_is_started_and_found_by_commands_beside_it(redis_mesh: Up) -> None:
    state = redis_mesh.state
    assert redis_mesh.shard_keys() == ["greeter-1", "greeter-2"]
    assert "redis://127.0.0.1:" in meshkit(state, "services", "--json").stdout
    assert not (state / "registry").exists()
    url = (state / "redis" / "url").read_text().strip()
    for secret in (state / "redis" / "url", state / "redis" / "redis.conf"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    password = url.partition("://:")[2].partition("@")[0]
    assert len(password) >= 32
    for process in (redis_process(state), redis_mesh.process.pid, *redis_mesh.replicas()):
        assert password.encode() not in Path(f"/proc/{process}/cmdline").read_bytes()
    assert redis_mesh.end() == 0
    assert password not in redis_mesh.output.read_text()
    assert password not in "".join(log.read_text() for log in (state / "logs").iterdir())
    assert not (state / "redis" / "url").exists()
    with pytest.raises(StopIteration):
        redis_process(state)


def test_a_redis_that_dies_is_started_again_with_its_port_and_password(redis_mesh: Up) -> None:
    state = redis_mesh.state
    url = (state / "redis" / "url").read_text()
    first = redis_process(state)
    os.kill(first, signal.SIGKILL)
    redis_mesh.until("redis-server died")
    until(lambda: any(name == "redis.log" for name in processes_with(1, state / "redis").values()))
    assert redis_process(state) != first
    assert (state / "redis" / "url").read_text() == url
    assert meshkit(state, "scale", "greeter=3").stdout == "greeter: 2 → 3\n"
    assert redis_mesh.shard_keys() == ["greeter-1", "greeter-2", "greeter-3"]


def test_a_redis_that_is_configured_is_used_as_it_is(redis_mesh: Up, tmp_path: Path) -> None:
    url = (redis_mesh.state / "redis" / "url").read_text().strip()
    with up(tmp_path / "second", "--redis", "main:Greeter", "greeter=1", REDIS_URL=url) as second:
        second.until("serving: greeter 1/1")
        assert not (tmp_path / "second" / "redis").exists()
        assert redis_mesh.shard_keys() == ["greeter-1", "greeter-1", "greeter-2"]


def test_without_a_redis_server_it_says_what_to_install(state: Path) -> None:
    done = meshkit(state, "up", "--redis", "main:Greeter", PATH="/nowhere")
    assert done.returncode == 1
    assert "apt-get install redis-server" in done.stderr
    assert "Traceback" not in done.stderr


def test_redis_beside_another_registry_is_refused(state: Path) -> None:
    done = meshkit(state, "up", "--redis", "main:Greeter", CU_REGISTRY_URL=f"file://{state}/registry")
    assert done.returncode == 78
    assert "CU_REGISTRY_URL names a registry at file://" in done.stderr


def test_the_url_of_a_redis_that_is_gone_is_not_used(state: Path) -> None:
    with up(state, "--redis", "main:Greeter", "greeter=0") as first:
        first.until("serving: greeter 0/0")
        first.process.kill()
        first.process.wait()
    until(lambda: not processes_with(1, state / "redis"))  # it ends with who started it
    assert (state / "redis" / "url").exists()
    done = meshkit(state, "services")
    assert done.returncode == 0
    assert f"no services in file://{state}" in done.stderr


def test_nobody_talks_to_the_redis_without_its_password(redis_mesh: Up) -> None:
    port = (redis_mesh.state / "redis" / "url").read_text().partition("@127.0.0.1:")[2].partition("/")[0]
    with socket.create_connection(("127.0.0.1", int(port))) as stranger:
        stranger.sendall(b"PING\r\n")
        assert stranger.recv(100).startswith(b"-NOAUTH")
