"""What all tests share: logs that stay in the process, waiting for a condition, and a Redis."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from meshkit.redis.server import LocalServer

PATIENCE_S = 30.0

hypothesis.settings.register_profile(
    "loaded", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("loaded")  # machines that run these tests do other things beside them


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so do shells start what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # and programs under test would inherit it


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    """Logs go nowhere unless a test captures them; what a program under test configures is undone."""
    structlog.configure(
        processors=[], logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False
    )
    yield
    structlog.reset_defaults()


@pytest.fixture
def eventually() -> Callable[..., object]:
    """Waits until a condition holds that nothing announces; looks as often as the loop turns, in small steps."""

    async def wait(condition: Callable[[], bool], patience: float = PATIENCE_S) -> None:
        async with asyncio.timeout(patience):
            while not condition():
                await asyncio.sleep(0.005)

    return wait


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[LocalServer]:
    """A Redis of the test's own."""
    async with LocalServer(tmp_path / "redis") as running:
        yield running
