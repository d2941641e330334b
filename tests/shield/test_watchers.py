"""Who follows what is revoked: as many as there is room for, in equal shares."""

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest

from meshkit import MeshError, ResourceExhausted
from meshkit.protocol import ShieldClient
from meshkit.protocol import shield as pb
from reference_services.shield.watchers import Watchers
from tests.shield.conftest import running
from tests.shield.test_service import calling, put, shop

WATCH = pb.WatchRevocationsRequest()


async def test_places_are_shared_evenly_when_there_are_not_enough() -> None:
    watchers = Watchers(6)
    with ExitStack() as held:

        def join(project: str) -> Any:
            return held.enter_context(watchers.joined(project))

        greedy = [join("greedy") for _ in range(6)]
        with pytest.raises(ResourceExhausted, match="project greedy has its share") as caught:
            join("greedy")
        assert (caught.value.reason, caught.value.pushback) == ("WATCHERS_FULL", 0.5)
        for _ in range(3):
            join("modest")
        with pytest.raises(ResourceExhausted):
            join("modest")
        join("third")
        assert [place._lost.done() for place in greedy] == [False, False, True, True, True, True]
        assert len(watchers) == 6
    assert (len(watchers), watchers._places) == (0, {})


async def test_a_place_that_is_taken_away_ends_the_wait_and_gives_nothing_back_twice() -> None:
    watchers, never = Watchers(1), asyncio.Event()
    with watchers.joined("one") as place:
        waiting = asyncio.ensure_future(place.keep(_wait(never)))
        await asyncio.sleep(0)
        watchers._leave("one", place)
        place.take_away()
        with watchers.joined("other"), pytest.raises(ResourceExhausted, match="has taken this one's place"):
            await waiting
    assert len(watchers) == 0


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def ended(client: ShieldClient) -> str:
    """Why a stream ends."""
    try:
        async with client.watch_revocations(WATCH, timeout=20) as news:
            async for _ in news:
                pass
    except MeshError as error:
        return error.reason
    return ""


async def test_one_project_cannot_keep_the_others_from_following() -> None:
    async with running(max_calls=4) as place:
        await put(place, shop())
        streams = [asyncio.create_task(ended(place.client)) for _ in range(3)]
        watchers = place.service.watchers
        async with asyncio.timeout(20):
            while len(watchers) < 3:
                await asyncio.sleep(0.01)
        async with calling(place) as client, client.watch_revocations(WATCH, timeout=20) as news:
            assert (await anext(aiter(news))).current
            done, others = await asyncio.wait(streams, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            assert [task.result() for task in done] == ["WATCHERS_FULL"]
            assert sorted(map(len, watchers._places.values())) == [1, 2]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
