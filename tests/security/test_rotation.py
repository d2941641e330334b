"""Keys are rotated under load, and no call fails; `benchmarks/key_rotation.py` does the same for longer."""

from pathlib import Path

from meshkit.config import RedisUrl, parse_sealing_keys
from meshkit.redis.database import Database
from meshkit.redis.sealing import Sealer
from meshkit.redis.server import LocalServer
from tests.security.rotating import (
    SEALING,
    Callers,
    into_file,
    into_store,
    known_to,
    rotate_other_project,
    rotate_own_secret,
)

CALLS = 60


def check(callers: Callers, steps: int) -> None:
    assert callers.failed == {}
    assert callers.made >= steps * CALLS


async def test_a_projects_own_secret_is_rotated_without_a_failed_call(tmp_path: Path) -> None:
    check(await rotate_own_secret(tmp_path, CALLS), 6)


async def test_a_key_in_a_keys_file_is_rotated_without_a_failed_call(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    write = into_file(path)
    check(await rotate_other_project(tmp_path, {"project_keys_file": path}, write, known_to, CALLS), 3)


async def test_a_key_in_the_project_store_is_rotated_without_a_failed_call(tmp_path: Path) -> None:
    async with LocalServer(tmp_path / "redis") as server:
        database = Database(RedisUrl.parse(server.url))
        write = into_store(database, Sealer(parse_sealing_keys(SEALING)))
        settings = {"redis_url": server.url, "redis_secret_key": SEALING}
        callers = await rotate_other_project(tmp_path, settings, write, known_to, CALLS)
        await database.close()
    check(callers, 3)
