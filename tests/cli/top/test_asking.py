"""Instances that come, go and come again while they are asked."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from meshkit.cli.following import Followed
from meshkit.cli.top import asking as asking_module
from meshkit.cli.top.asking import GONE_S, Asking
from meshkit.cli.top.figures import rows_of
from meshkit.testing import LocalMesh
from tests.serving.probe import Probe

EVERY = 0.02


@asynccontextmanager
async def asked(local: LocalMesh, mesh: Any, **facts: Any) -> AsyncIterator[Asking]:
    followed = Followed(local.registry)
    async with followed.following():
        asking = Asking(mesh, followed, EVERY, EVERY, 5.0, **facts)
        running = asyncio.create_task(asking.run())
        try:
            yield asking
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def states(asking: Asking) -> dict[str, str]:
    return {row.key[1]: row.state for row in rows_of(asking.seen())}


async def test_it_is_settled_once_there_are_figures_of_each() -> None:
    local = LocalMesh(Probe, replicas=3)
    async with local as mesh, asked(local, mesh) as asking:
        await asking.settled()
        found = rows_of(asking.seen())
        assert [row.key[1] for row in found] == sorted(local.instances)
        assert all(row.rates is not None for row in found)


async def test_one_that_goes_is_shown_for_a_while_and_one_that_comes_is_asked(
    eventually: Callable[..., Any],
) -> None:
    local = LocalMesh(Probe, replicas=2)
    passed = 0.0
    async with (
        local as mesh,
        asked(local, mesh, clock=lambda: asyncio.get_running_loop().time() + passed) as asking,
    ):
        await asking.settled()
        first, second = local.instances
        await local.kill(first)
        await eventually(lambda: states(asking).get(first) == "gone")
        third = await local.start(Probe)
        await eventually(lambda: states(asking).get(third) == "serving")
        passed = GONE_S
        await eventually(lambda: states(asking) == {second: "serving", third: "serving"})


async def test_no_more_are_asked_than_bound_and_others_say_so(
    monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Any]
) -> None:
    monkeypatch.setattr(asking_module, "MOST", 2)
    local = LocalMesh(Probe, replicas=3)
    async with local as mesh, asked(local, mesh) as asking:
        await asking.settled()
        (left_out,) = [seen for seen in asking.seen() if seen.silence]
        assert left_out.silence == "not asked, for there are more than 2: name services"
        asked_ones = [seen.instance.instance_id for seen in asking.seen() if not seen.silence]
        await local.kill(asked_ones[0])
        await eventually(lambda: states(asking).get(left_out.instance.instance_id) == "serving")


async def test_a_defect_of_one_question_ends_all_and_is_told() -> None:
    class Broken(Asking):
        async def _answer(self, *_: Any) -> Any:
            raise ZeroDivisionError

    local = LocalMesh(Probe)
    async with local as mesh:
        followed = Followed(local.registry)
        async with followed.following():
            with pytest.raises(ExceptionGroup) as caught:
                await Broken(mesh, followed, EVERY, EVERY, 5.0).run()
        assert caught.group_contains(ZeroDivisionError)
