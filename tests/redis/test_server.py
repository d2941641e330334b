"""The server of our own: it starts, keeps its secret, dies as it is told, and never outlives its parent."""

import asyncio
import signal
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError

from meshkit.errors import FailedPrecondition, Unavailable
from meshkit.redis.server import PORTS, LocalServer, free_port


async def get(url: str, key: str) -> Any:
    async with Redis.from_url(url, decode_responses=True) as client:
        return await client.get(key)


async def put(url: str, key: str, value: str) -> None:
    async with Redis.from_url(url) as client:
        await client.set(key, value)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def test_it_answers_with_its_password_and_to_nobody_without(server: LocalServer) -> None:
    await put(server.url, "a", "1")
    assert await get(server.url, "a") == "1"
    with pytest.raises(AuthenticationError):
        await get(f"redis://127.0.0.1:{server.port}", "a")


async def test_it_listens_on_loopback_only_and_below_the_ports_of_outgoing_connections(
    server: LocalServer,
) -> None:
    assert server.port in PORTS
    async with Redis.from_url(server.url, decode_responses=True) as client:
        assert await client.config_get("bind") == {"bind": "127.0.0.1"}


async def test_its_password_is_in_a_file_of_its_owner_and_nowhere_else(server: LocalServer) -> None:
    async with Redis.from_url(server.url, decode_responses=True) as client:
        password = str((await client.config_get("requirepass"))["requirepass"])
    assert len(password) >= 32
    file = server.folder / "redis.conf"
    assert password in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
    assert password not in repr(server)
    assert password.encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
    assert password.encode() not in Path(f"/proc/{server.pid}/environ").read_bytes()


async def test_a_password_and_a_folder_may_have_any_characters(tmp_path: Path) -> None:
    password = 'a "b"\\ /@:#é'
    async with LocalServer(tmp_path / 'a "folder"', password=password) as server:
        await put(server.url, "a", "1")
        assert await get(server.url, "a") == "1"


async def test_it_may_have_no_password(tmp_path: Path) -> None:
    async with LocalServer(tmp_path, password="") as server:
        assert "@" not in server.url
        await put(server.url, "a", "1")
        assert await get(server.url, "a") == "1"


async def test_killed_and_restarted_it_has_its_port_and_its_data(server: LocalServer) -> None:
    await put(server.url, "a", "1")
    url, pid = server.url, server.pid
    await server.kill()
    assert server.pid is None
    with pytest.raises(RedisError):
        await get(url, "a")
    await server.restart()
    assert server.pid not in (None, pid)
    assert server.url == url
    assert await get(url, "a") == "1"


async def test_restarted_wiped_it_is_empty(server: LocalServer) -> None:
    await put(server.url, "a", "1")
    await server.restart(wipe=True)
    assert await get(server.url, "a") is None


async def test_paused_it_answers_nothing_until_it_is_resumed(server: LocalServer) -> None:
    server.pause()
    answer = asyncio.create_task(get(server.url, "a"))
    done, _ = await asyncio.wait([answer], timeout=0.1)
    assert not done
    server.resume()
    assert await answer is None


async def test_a_paused_one_can_be_stopped(tmp_path: Path) -> None:
    async with LocalServer(tmp_path) as server:
        pid = server.pid
        server.pause()
    assert pid is not None
    assert not alive(pid)
    assert server.pid is None


async def test_stopped_twice_is_stopped(server: LocalServer) -> None:
    await server.stop()
    await server.stop()
    await server.kill()
    assert server.pid is None


async def test_started_twice_is_refused(server: LocalServer) -> None:
    with pytest.raises(RuntimeError, match="runs already"):
        await server.start()


async def test_lines_of_the_caller_override_ours(tmp_path: Path) -> None:
    async with LocalServer(tmp_path, config=["appendonly no", "maxclients 17"]) as server:
        await put(server.url, "a", "1")
        async with Redis.from_url(server.url, decode_responses=True) as client:
            assert (await client.config_get("maxclients"))["maxclients"] == "17"
        await server.restart()
        assert await get(server.url, "a") is None


async def test_a_missing_program_is_an_error_that_names_the_package(tmp_path: Path) -> None:
    server = LocalServer(tmp_path, program="redis-server-that-is-not-here")
    with pytest.raises(FailedPrecondition, match="apt-get install redis-server"):
        await server.start()


async def test_a_line_that_redis_does_not_know_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    server = LocalServer(tmp_path, config=["nonsense yes"])
    with pytest.raises(Unavailable, match=r"(?s)redis\.log.*nonsense yes.*Bad directive"):
        await server.start()
    assert server.pid is None


async def test_the_end_of_the_log_does_not_tell_the_password(tmp_path: Path) -> None:
    server = LocalServer(tmp_path, password="s3cret-word", config=["requirepass s3cret-word s3cret-word"])
    with pytest.raises(Unavailable, match="requirepass … …") as raised:
        await server.start()
    assert "s3cret-word" not in str(raised.value)


async def test_a_port_of_the_callers_that_is_taken_is_an_error(server: LocalServer, tmp_path: Path) -> None:
    second = LocalServer(tmp_path / "second", port=server.port)
    with pytest.raises(Unavailable, match="Address already in use"):
        await second.start()
    assert server.pid is not None


async def test_a_port_of_its_own_that_was_taken_meanwhile_is_another_the_next_time(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = iter([server.port, server.port, free_port()])
    monkeypatch.setattr("meshkit.redis.server.free_port", lambda: next(ports))
    async with LocalServer(tmp_path / "second") as second:
        assert second.port != server.port
        assert await get(second.url, "a") is None


async def test_a_server_that_does_not_answer_is_an_error_and_does_not_stay(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        elsewhere = [f"port {free_port()}"]
        server = LocalServer(tmp_path, port=deaf.getsockname()[1], config=elsewhere, patience=0.3)
        with pytest.raises(Unavailable, match=r"does not answer after 0\.3 s"):
            await server.start()
    assert server.pid is None


async def test_the_port_is_unknown_until_it_is_started(tmp_path: Path) -> None:
    server = LocalServer(tmp_path)
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.url
    assert repr(server) == "LocalServer(redis://127.0.0.1:?, pid=None)"


PARENT = """
import asyncio, pathlib, sys
from meshkit.redis.server import LocalServer
async def main():
    server = LocalServer(pathlib.Path(sys.argv[1]))
    await server.start()
    if "paused" in sys.argv:
        server.pause()
    print(server.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("state", ["running", "paused"])
async def test_it_ends_with_its_parent_however_that_ends(
    tmp_path: Path, number: signal.Signals, state: str, eventually: Callable[..., object]
) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tmp_path), state, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert alive(pid)
    parent.send_signal(number)
    await parent.wait()
    await eventually(lambda: not alive(pid))  # type: ignore[misc]
