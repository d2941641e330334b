"""What the tests of discovery share: waiting for a condition, following a watch, owners as processes."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from meshkit.config.redis_url import RedisUrl
from meshkit.config.secrets import SealingKey
from meshkit.discovery.file import FileRegistry
from meshkit.discovery.redis import RedisRegistry
from meshkit.discovery.registry import Registry, Snapshot
from meshkit.redis.sealing import Sealer
from tests.discovery.brains import TTL
from tests.discovery.files import TTL as FILE_TTL

PATIENCE_S = 30.0


class Follower:
    """Collects what a watch yields."""

    def __init__(self, registry: Registry, service: str = "brain") -> None:
        self.seen: list[Snapshot] = []
        self.ended = False
        self._watch = registry.watch(service)
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async with contextlib.aclosing(self._watch) as snapshots:
            async for snapshot in snapshots:
                self.seen.append(snapshot)
                async with self._news:
                    self._news.notify_all()
        self.ended = True
        async with self._news:
            self._news.notify_all()

    @property
    def last(self) -> Snapshot:
        return self.seen[-1]

    async def until(self, condition: Callable[[Snapshot], bool]) -> Snapshot:
        """The first newest snapshot of which the condition holds."""
        async with asyncio.timeout(PATIENCE_S), self._news:
            await self._news.wait_for(lambda: bool(self.seen) and condition(self.last))
        return self.last

    async def until_ids(self, *names: str, service: str = "brain") -> Snapshot:
        wanted = {f"{service}-{name}" for name in names}
        return await self.until(lambda snapshot: set(snapshot.instances) == wanted)

    async def until_ended(self) -> None:
        async with asyncio.timeout(PATIENCE_S), self._news:
            await self._news.wait_for(lambda: self.ended)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


@pytest.fixture
async def follow() -> AsyncIterator[Callable[..., Follower]]:
    followers: list[Follower] = []

    def start(registry: Registry, service: str = "brain") -> Follower:
        followers.append(Follower(registry, service))
        return followers[-1]

    yield start
    for follower in followers:
        await follower.stop()


class Owner:
    """An instance in a process of its own."""

    def __init__(self, root: Path, name: str, *options: str, lease_ttl: float = 10.0) -> None:
        script = str(Path(__file__).with_name("owner.py"))
        self.process = subprocess.Popen(
            [sys.executable, script, f"file://{root}", "brain", f"brain-{name}", str(lease_ttl), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Callable[..., Owner]]:
    owners: list[Owner] = []

    def start(root: Path, name: str, *options: str, lease_ttl: float = 10.0) -> Owner:
        owners.append(Owner(root, name, *options, lease_ttl=lease_ttl))
        return owners[-1]

    yield start
    for one in owners:
        one.close()


@pytest.fixture
async def open_at() -> AsyncIterator[Callable[..., RedisRegistry]]:
    """Opens registries; they are closed when the test ends."""
    async with AsyncExitStack() as stack:

        def open_(url: str, *keys: SealingKey, ttl: float = TTL, **options: Any) -> RedisRegistry:
            made = RedisRegistry(
                RedisUrl.parse(url),
                namespace="contextunity",
                sealer=Sealer(keys),
                lease_ttl=ttl,
                **options,
            )
            stack.push_async_callback(made.close)
            return made

        yield open_


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
async def registry(root: Path) -> AsyncIterator[FileRegistry]:
    made = FileRegistry(root, lease_ttl=FILE_TTL, poll=0.01)
    yield made
    await made.close()
