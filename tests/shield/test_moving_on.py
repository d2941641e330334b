"""Several Shields over one storage: whoever loses one goes on with another, and misses nothing."""

import asyncio
from typing import Any

from structlog.testing import capture_logs

from meshkit.call import Principal
from meshkit.protocol import shield as pb
from tests.shield.conftest import replicated, served
from tests.shield.test_mode import client, greeting


async def test_watchers_of_a_shield_that_drains_go_on_at_another_and_miss_nothing() -> None:
    async with (
        replicated(shield_key_activation_s=0.0, drain_grace_s=0.3, drain_propagation_s=0.0) as place,
        served(place.address) as mode,
    ):
        await client(mode).greet(greeting())
        first, second = [place.local._running[name].service for name in place.local.instances]
        names = dict(zip((first, second), place.local.instances, strict=True))
        await until_followed(first, second, by=2)
        leaving: Any = max((first, second), key=lambda each: len(each.watchers))
        staying: Any = second if leaving is first else first
        revocations = mode.replica("echo")._guard.verifier.revocations
        with capture_logs() as logs:
            draining = asyncio.create_task(place.local.drain(names[leaving]))
            for number in range(10):  # what is revoked before, as and after it goes is all made known
                await staying.authority.revoke(Principal("local", "operator"), token_id=f"t{number}")
                await asyncio.sleep(0.05)
            await draining
            await until_followed(staying, by=2)
            async with asyncio.timeout(20):
                while not {f"t{number}" for number in range(10)} <= revocations._tokens.keys():
                    await asyncio.sleep(0.01)
        assert [entry for entry in logs if "not followed" in entry["event"]] == []
        assert await staying.authority.revoked_after(0, 100)
        await client(mode, "front").greet(greeting())
        assert (await place.client.get_keys(pb.GetKeysRequest())).keys


async def until_followed(*shields: Any, by: int) -> None:
    """Waits until so many follow these Shields."""
    async with asyncio.timeout(30):
        while sum(len(each.watchers) for each in shields) != by:
            await asyncio.sleep(0.01)
