"""How late the event loop is, and who is refused then."""

import asyncio
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from meshkit import Call, ResourceExhausted
from meshkit.call import Criticality
from meshkit.pipeline import Exchange, Method
from meshkit.resilience.admission import sharing
from meshkit.resilience.fair_limit import FairLimit
from meshkit.resilience.loop_lag import INTERVAL_S, LoopLag


def test_one_pause_is_no_overload_and_two_in_a_row_are() -> None:
    lag = LoopLag(0.2)
    seen = []
    for seconds in (0.0, 0.9, 0.0, 0.3, 0.3, 0.25, 0.1, 0.3):
        lag.observe(seconds)
        seen.append(lag.late)
    assert seen == [False, False, False, False, True, True, False, False]
    assert (lag.seconds, lag.worst) == (0.3, 0.9)


def test_a_loop_that_stood_still_is_told_once_a_minute() -> None:
    lag = LoopLag()
    with capture_logs() as logs:
        for seconds in (0.9, 3.0, *[4.0] * 599):
            lag.observe(seconds)
        assert [line["seconds"] for line in logs] == [3.0]
        lag.observe(5.0)
    assert [line["seconds"] for line in logs] == [3.0, 5.0]
    assert "time.sleep" in logs[0]["likely"]


def test_where_no_lag_is_too_much_none_is() -> None:
    lag = LoopLag(0.0)
    for _ in range(3):
        lag.observe(30.0)
    assert not lag.late


async def test_a_loop_that_is_held_up_is_measured() -> None:
    lag = LoopLag(0.01)
    lag.start()
    async with asyncio.timeout(30):
        while not lag.late:
            time.sleep(INTERVAL_S + 0.05)  # somebody blocks the loop
            await asyncio.sleep(0)
    assert lag.worst > 0.01
    lag.stop()
    assert (lag.seconds, lag.late) == (0.0, False)


async def nothing(*_: Any) -> Any:
    raise AssertionError


async def test_while_it_is_late_sheddable_calls_go_first() -> None:
    served: list[str] = []

    async def serve(exchange: Exchange) -> None:
        served.append(exchange.call.criticality)

    lag = LoopLag(0.1)
    layered = sharing(FairLimit(4), lag)(serve)

    async def come(criticality: Criticality) -> None:
        call = Call(service="probe", criticality=criticality)
        await layered(Exchange(Method("/probe.v1.ProbeService/Read"), call, nothing, nothing))

    await come("sheddable")
    for _ in range(2):
        lag.observe(0.5)
    await come("critical")
    await come("default")
    with pytest.raises(ResourceExhausted) as caught:
        await come("sheddable")
    assert (caught.value.reason, caught.value.unprocessed) == ("SHED", True)
    assert caught.value.pushback
    assert served == ["sheddable", "critical", "default"]
