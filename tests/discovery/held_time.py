"""A time that the test holds."""

import asyncio


class Time:
    """Passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        waking = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, waking))
        await waking

    async def pass_(self, seconds: float) -> None:
        """Wakes sleepers in their order; what they do is done when this returns."""
        end = self.now + seconds
        await turns()
        while due := [each for each in self._sleepers if each[0] <= end + 1e-9 and not each[1].done()]:
            self.now, waking = min(due, key=lambda each: each[0])
            waking.set_result(None)
            await turns()
        self.now = end
        self._sleepers = [each for each in self._sleepers if not each[1].done()]


async def turns() -> None:
    for _ in range(30):
        await asyncio.sleep(0)
